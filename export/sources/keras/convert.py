"""A network becomes a forward ONNX graph with its CAM tensors pinned."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir

from export import passes
from export.autodiff.emit import dimensions
from export.captured_logs import warnings_of
from export.graph.arrangements import Arrangement, as_map
from export.graph.forward import Forward, check_forward
from export.graph.layers import picture_layer
from export.sources.keras.framework import tf, tf2onnx
from export.sources.keras.head import Scores
from export.sources.keras.network import COLOURS, IMAGE, Tensor
from harness.common.errors import InputError

OPSET = 18
TO_CHANNELS_LAST = (0, 2, 3, 1)


def forward_graph(scores: Scores, layers: Mapping[str, Tensor]) -> Forward:
    """Convert, with `layers` pinned as outputs before the conversion so that no optimiser folds them away."""
    distinct = [tensor for tensor in dict.fromkeys(layers.values()) if tensor != IMAGE]
    keys = [f"output_{index}" for index in range(len(distinct) + 1)]
    converted = ir.from_proto(_converted(scores, distinct, keys))
    places = [value.name for value in converted.graph.outputs]
    passes.tidy(converted)  # layers that do nothing have the same tensor, under one name
    passes.infer_shapes(converted)
    outputs = dict(zip(places, list(converted.graph.outputs), strict=True))
    maps = {value: _channels_first(converted.graph, value) for value in dict.fromkeys(outputs[key] for key in keys[1:])}
    passes.infer_shapes(converted)
    names = {tensor: str(maps[outputs[key]].name) for tensor, key in zip(distinct, keys[1:], strict=True)}
    if IMAGE in layers.values():
        names[IMAGE] = str(picture_layer(converted)[0].name)
    named = {layer: names[tensor] for layer, tensor in layers.items()}
    _refuse_one_map_twice(scores, named)
    forward = Forward(converted, str(outputs[keys[0]].name), named)
    check_forward(forward)
    forward.pin_outputs()
    return forward


def _refuse_one_map_twice(scores: Scores, named: Mapping[str, str]) -> None:
    """A nested model and its last layer, or a layer and one behind it that does nothing, have one map."""
    for tensor in named.values():
        same = [layer for layer in named if named[layer] == tensor]
        if len(same) > 1:
            raise InputError(f"{scores.network.source}: layers {same[0]!r} and {same[1]!r} have one map; name it once")


def _converted(scores: Scores, layers: list[Tensor], keys: list[str]) -> Any:
    signature = [tf.TensorSpec((None, *scores.network.size, COLOURS), tf.float32, name="image")]

    @tf.function(input_signature=signature)
    def forward(image: Any) -> Any:
        with _functions_inlined():
            values, *maps = scores.network.run(image, [scores.logits, *layers])
            return dict(zip(keys, [scores.of(values), *maps], strict=True))

    with warnings_of("tf2onnx", logging.ERROR) as complaints:
        proto, _ = tf2onnx.convert.from_function(
            forward, signature, opset=OPSET, inputs_as_nchw=["image"], custom_op_handlers={"Erfc": (_erfc, [])}
        )
    if complaints:  # tf2onnx logs operators that it does not know, and writes a file all the same
        raise InputError(f"tf2onnx could not convert the model: {complaints[0]}")
    return proto


def _erfc(context: Any, node: Any, _name: str, _args: list) -> None:
    """1 - erf(x), of which Keras makes Gelu and which tf2onnx does not know."""
    dtypes, shapes = [context.get_dtype(node.output[0])], [context.get_shape(node.output[0])]
    one = context.make_const(f"{node.name}/one", np.ones((), np.float32))
    error = context.make_node("Erf", node.input, dtypes=dtypes, shapes=shapes)
    context.remove_node(node.name)
    context.make_node("Sub", [one.output[0], error.output[0]], outputs=node.output, dtypes=dtypes, shapes=shapes)


@contextmanager
def _functions_inlined() -> Iterator[None]:
    """Keras wraps grouped convolutions into functions compiled by XLA, which tf2onnx does not look into."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _channels_first(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """The (N, C, h, w) tensor behind an output that the converter delivers channels last, or one made of it."""
    source, producer = value, value.producer()
    while producer is not None and producer.op_type in ("Transpose", "Identity"):
        source = producer.inputs[0]  # type: ignore[assignment]
        if producer.op_type == "Transpose" and tuple(producer.attributes.get_ints("perm")) == TO_CHANNELS_LAST:
            return source
        if producer.op_type == "Transpose":
            source = value
            break
        producer = source.producer()
    height, width = dimensions(source)[1:3]
    return as_map(graph, source, Arrangement("nhwc", (height or 0, width or 0)))

"""The Keras front end: a checkpoint becomes a forward ONNX graph with its CAM tensors pinned.

The only file that knows TensorFlow and tf2onnx.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import onnx_ir as ir
import tensorflow as tf
import tf2onnx

from export import passes
from export.autodiff.emit import dimensions
from export.graph.arrangements import Arrangement, as_map
from export.graph.forward import Forward, check_forward
from export.logs import warnings_of
from harness.common.errors import InputError, first_line

OPSET = 18


def load_checkpoint(path: Path) -> Any:
    """A `.keras` file as a model, in Keras' safe mode: a file cannot bring code of its own."""
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; give a .keras file or a run directory")
    try:
        return _with_constant_statistics(keras.models.load_model(path, compile=False, safe_mode=True))
    except (ValueError, OSError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not a checkpoint that Keras can load safely ({first_line(error)})") from error


def _with_constant_statistics(model: Any) -> Any:
    """Normalization keeps its statistics as tensors, which tracing would turn into inputs; arrays become constants."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)
    return model


def without_final_activation(model: Any) -> tuple[Any, str]:
    """(the model up to its logits, score kind): a final softmax or sigmoid is cut off, its kind remembered."""
    last = model.layers[-1]
    if isinstance(last, (keras.layers.Softmax, keras.layers.Activation)):
        kind = "softmax" if isinstance(last, keras.layers.Softmax) else keras.activations.serialize(last.activation)
        model = keras.Model(model.inputs, last.input, name=model.name)
    else:
        kind = keras.activations.serialize(getattr(last, "activation", None) or keras.activations.linear)
        last.activation = keras.activations.linear
    single = model.output_shape[-1] == 1
    if kind not in ("softmax", "sigmoid", "linear"):
        raise InputError(f"the model ends in {kind!r}; expected logits, a softmax or a sigmoid")
    return model, "binary" if single else ("multilabel" if kind == "sigmoid" else "softmax")


def input_size(model: Any) -> tuple[int, int]:
    """(H, W) of a model that takes (N, H, W, 3)."""
    shape = model.input_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[3] != 3 or None in shape[1:]:
        raise InputError(f"the model takes {shape}; expected one input (N, H, W, 3) of fixed height and width")
    return int(shape[1]), int(shape[2])


def spatial_layers(model: Any) -> dict[str, tuple[int, ...]]:
    """Layers that can be explained: those with one output (N, h, w, C), with that shape."""
    shapes = {layer.name: getattr(layer.output, "shape", None) for layer in model.layers if layer.get_config}
    return {name: tuple(shape) for name, shape in shapes.items() if isinstance(shape, tuple) and len(shape) == 4}


def last_spatial_layer(model: Any) -> str:
    """The layer whose map feeds the head: the last one with a map larger than 1x1."""
    names = [name for name, (_, h, w, _) in spatial_layers(model).items() if h * w > 1]
    if not names:
        raise InputError("the model has no layer with a spatial map; class activation maps need one")
    return names[-1]


def forward_graph(model: Any, layers: Sequence[str]) -> Forward:
    """Convert, with `layers` pinned as outputs before the conversion so that no optimiser folds them away."""
    pinned = keras.Model(model.inputs, [model.output, *(_layer(model, name).output for name in layers)])
    keys = [f"output_{index}" for index in range(len(layers) + 1)]
    converted = ir.from_proto(_converted(pinned, keys, input_size(model)))
    passes.tidy(converted)
    passes.infer_shapes(converted)
    return _as_forward(converted, keys, layers)


def explain(
    model: Any, layers: Sequence[str], images: np.ndarray, target: np.ndarray, probability: bool = False
) -> dict[str, np.ndarray]:
    """Logits, activations and gradients by GradientTape, channels first: what the exported graph must equal.

    :param images: (N, H, W, 3) grey levels.
    """
    pinned = keras.Model(model.inputs, [model.output, *(_layer(model, name).output for name in layers)])
    with tf.GradientTape() as tape:
        logits, *activations = pinned(tf.constant(images), training=False)
        score = _score(logits, tf.constant(target), probability)
    gradients = tape.gradient(score, activations)
    found = {"logits": logits.numpy()}
    for name, a, g in zip(layers, activations, gradients, strict=True):
        found[f"activations:{name}"] = np.moveaxis(a.numpy(), -1, 1)
        found[f"gradients:{name}"] = np.moveaxis(g.numpy(), -1, 1)
    return found


def _score(logits: Any, target: Any, probability: bool) -> Any:
    """The sum over images of the explained score: gradients of a sum are those of each term."""
    if logits.shape[-1] == 1:
        scores = tf.sigmoid(logits) if probability else logits
        return tf.reduce_sum(scores[:, 0] * tf.cast(2 * target - 1, logits.dtype))
    scores = tf.nn.softmax(logits) if probability else logits
    return tf.reduce_sum(tf.gather(scores, target, batch_dims=1))


def _layer(model: Any, name: str) -> Any:
    known = spatial_layers(model)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or list(known)[-5:]
        shapes = ", ".join(f"{other} {known[other][1:]}" for other in near)
        raise InputError(f"the model has no spatial layer {name!r}; nearest (h, w, C): {shapes}")
    return model.get_layer(name)


def _converted(pinned: Any, keys: Sequence[str], size: tuple[int, int]) -> Any:
    signature = [tf.TensorSpec((None, *size, 3), tf.float32, name="image")]

    @tf.function(input_signature=signature)
    def forward(image: Any) -> Any:
        with _functions_inlined():
            return dict(zip(keys, pinned(image, training=False), strict=True))

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


def _as_forward(converted: ir.Model, keys: Sequence[str], layers: Sequence[str]) -> Forward:
    outputs = {value.name: value for value in converted.graph.outputs}
    logits, *maps = (outputs[key] for key in keys)
    tensors = [_channels_first(converted.graph, value).name for value in maps]
    passes.infer_shapes(converted)
    forward = Forward(converted, str(logits.name), dict(zip(layers, map(str, tensors), strict=True)))
    check_forward(forward)
    forward.pin_outputs()
    return forward


def _channels_first(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """The (N, C, h, w) tensor behind an output that the converter delivers channels last, or one made of it."""
    source, producer = value, value.producer()
    while producer is not None and producer.op_type in ("Transpose", "Identity"):
        source = producer.inputs[0]  # type: ignore[assignment]
        if producer.op_type == "Transpose":
            return source
        producer = source.producer()
    height, width = dimensions(source)[1:3]
    return as_map(graph, source, Arrangement("nhwc", (height or 0, width or 0)))

"""From a forward graph to the exported graph: target selection, backward pass, outputs.

    inputs   image  float32 (N, 3, H, W), grey levels 0..255 in three equal channels
             target int64 (N,), the class to explain, -1 the predicted one
    outputs  logits (N, K); per CAM layer, activations A and gradients dY_c/dA, both (N, C, h, w)

Y_c is the logit of class c. A target outside -1..K-1 gives NaN gradients, never another class.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

import export.rules  # noqa: F401  (registers the rules)
from export import passes
from export.backward_passes import fold_channel_scales
from export.emit import Emitter, dimensions
from export.engine import backward
from export.folding import fold_batch_normalization, fold_constants
from export.fuse import fuse
from harness.common.errors import InputError

SQUEEZED = "/squeezed"  # ends the name of a head that was (N, K, 1, 1)
_ACTIVATIONS = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "multilabel"}


@dataclass
class Forward:
    """A forward graph, ready for differentiation: its only input is the image, every layer is (N, C, h, w)."""

    model: ir.Model
    logits_name: str
    layer_names: dict[str, str]  # CAM layer -> name of its tensor; passes keep names, not values

    @property
    def graph(self) -> ir.Graph:
        return self.model.graph

    @property
    def logits(self) -> ir.Value:
        return self._by_name()[self.logits_name]

    @property
    def layers(self) -> dict[str, ir.Value]:
        """CAM layer -> its tensor."""
        values = self._by_name()
        return {layer: values[name] for layer, name in self.layer_names.items()}

    def _by_name(self) -> dict[str | None, ir.Value]:
        return {value.name: value for node in self.graph for value in node.outputs}

    @property
    def opset(self) -> int:
        return self.model.opset_imports[""]


def clean(forward: Forward) -> None:
    """Run the passes that make the graph small, safe and differentiable."""
    fold_constants(forward.graph, forward.opset)
    fold_batch_normalization(forward.graph)
    passes.compose_transposes(forward.graph)
    passes.reduce_before_transpose(forward.graph)
    passes.separate_padding_from_max_pool(forward.graph)


def add_backward(forward: Forward, score_kind: str, methods: Sequence[str] = (), probability: bool = False) -> ir.Model:
    """Append the backward graph and declare inputs and outputs. Returns the finished, checked model.

    :param methods: CAM methods whose maps become outputs too.
    :param probability: explain the class probability instead of its logit.
    """
    graph, logits, layers = forward.graph, forward.logits, forward.layers
    op = Emitter(graph)
    target = ir.val("target", ir.DataType.INT64, ["N"])
    graph.inputs.append(target)
    seed, poison = _seed(op, logits, target, score_kind)
    score = _probability(op, logits, score_kind) if probability else logits
    cotangents = backward(graph, forward.opset, score, seed, list(layers.values()), op)
    declared = {"logits": logits}
    for (layer, names), cotangent in zip(output_names(layers, methods).items(), cotangents, strict=True):
        declared[names.activations] = layers[layer]
        declared[names.gradients] = _like(op.Add(cotangent, poison), layers[layer])
        for method, name in names.maps.items():
            declared[name] = _map(op, method, layers[layer], cotangent, poison)
    _declare_outputs(graph, declared)
    fold_channel_scales(graph)
    return finished(forward.model)


@dataclass(frozen=True)
class OutputNames:
    """Names of the outputs of one CAM layer; `maps`: CAM method -> output."""

    activations: str
    gradients: str
    maps: dict[str, str]


def output_names(layers: Iterable[str], methods: Sequence[str] = ()) -> dict[str, OutputNames]:
    """CAM layer -> names of its outputs; the layer's name is part of them where there are several layers."""
    layers = list(layers)
    suffix = {name: f":{name}" if len(layers) > 1 else "" for name in layers}
    return {
        name: OutputNames(
            f"activations{suffix[name]}", f"gradients{suffix[name]}", {m: f"{m}{suffix[name]}" for m in methods}
        )
        for name in layers
    }


def cut_final_activation(graph: ir.Graph) -> tuple[ir.Value, str]:
    """(logits, score kind): the tensor before a final Softmax, LogSoftmax or Sigmoid, or the output itself."""
    value = output = graph.outputs[0]
    while (node := value.producer()) is not None and node.op_type in ("Identity", "Reshape", "Flatten", "Squeeze"):
        value = node.inputs[0]  # type: ignore[assignment]
    activation = node.op_type if node is not None else ""
    logits = node.inputs[0] if node is not None and activation in _ACTIVATIONS else output
    assert logits is not None
    graph.outputs[0] = logits
    single = dimensions(output)[1:] in ((1,), (1, 1, 1))
    return logits, "binary" if single else _ACTIVATIONS.get(activation, "softmax")


def squeeze_head(graph: ir.Graph, logits: ir.Value) -> ir.Value:
    """Class scores (N, K, 1, 1) become (N, K)."""
    sizes = dimensions(logits)
    if len(sizes) <= 2 or any(size != 1 for size in sizes[2:]):
        return logits
    flat = Emitter(graph, "head").Flatten(logits, axis=1)
    flat.name, flat.type = f"{logits.name}{SQUEEZED}", logits.type
    graph.outputs[0] = flat
    return flat


def _seed(op: Emitter, logits: ir.Value, target: ir.Value, score_kind: str) -> tuple[ir.Value, ir.Value]:
    """(cotangent of the logits (N, K), poison (N, 1, 1, 1): 0 for a valid target, NaN for one out of range)."""
    classes = dimensions(logits)[1]
    assert classes is not None
    binary = score_kind == "binary"
    chosen = op.Where(op.Equal(target, op.integers(-1)), _predicted(op, logits, binary), target)  # (N,)
    last = 1 if binary else classes - 1
    valid = op.And(op.GreaterOrEqual(chosen, op.integers(0)), op.LessOrEqual(chosen, op.integers(last)))
    poison = op.Where(valid, op.constant(np.float32(0)), op.constant(np.float32(np.nan)))
    column = op.Unsqueeze(chosen, op.integers(1))  # (N, 1)
    if binary:  # class 1 explains the logit, class 0 its negative
        ones = op.Where(op.Equal(column, op.integers(1)), op.constant(np.float32(1)), op.constant(np.float32(-1)))
    else:
        ones = op.Cast(op.Equal(column, op.integers(*range(classes))), to=ir.DataType.FLOAT)  # (N, K)
    return ones, op.Reshape(poison, op.integers(-1, 1, 1, 1))


def _predicted(op: Emitter, logits: ir.Value, binary: bool) -> ir.Value:
    if binary:
        positive = op.Greater(logits, op.constant(np.float32(0)))
        return op.Reshape(op.Cast(positive, to=ir.DataType.INT64), op.integers(-1))
    return op.ArgMax(logits, axis=1, keepdims=0)


def _probability(op: Emitter, logits: ir.Value, score_kind: str) -> ir.Value:
    return op.Softmax(logits, axis=1) if score_kind == "softmax" else op.Sigmoid(logits)


def _like(value: ir.Value, other: ir.Value) -> ir.Value:
    value.type, value.shape = other.type, other.shape
    return value


def _map(op: Emitter, method: str, activations: ir.Value, cotangent: ir.Value, poison: ir.Value) -> ir.Value:
    """The map (N, h, w) of a CAM method, NaN for a target out of range."""
    made = op.Add(fuse(op, method, activations, cotangent), op.Squeeze(poison, op.integers(1)))
    sizes = dimensions(activations)
    made.type, made.shape = activations.type, ir.Shape(["N", *(size for size in sizes[2:] if size is not None)])
    return made


def _declare_outputs(graph: ir.Graph, declared: dict[str, ir.Value]) -> None:
    graph.outputs.clear()
    for value in _all_values(graph):
        if value.name in declared and declared[value.name] is not value:
            value.name = f"{value.name}/inner"
    for name, value in declared.items():
        value.name = name
        sizes = dimensions(value)
        value.shape = ir.Shape(["N", *(size for size in sizes[1:] if size is not None)])
        graph.outputs.append(value)


def _all_values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]


def finished(model: ir.Model) -> ir.Model:
    """Drop twins and dead nodes, infer shapes, run the ONNX checker."""
    for step in (
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.TopologicalSortPass(),
        common.ClearMetadataAndDocStringPass(),
    ):
        step(model)
    passes.infer_shapes(model)
    common.CheckerPass(full_check=True)(model)
    return model


def check_forward(forward: Forward) -> None:
    """Raise InputError where the graph is not (image) -> logits (N, K) with CAM layers (N, C, h, w)."""
    names = [value.name for value in forward.graph.inputs]
    if len(names) != 1:
        raise InputError(f"the converted graph asks for the inputs {names} instead of one image")
    sizes = dimensions(forward.logits)
    if len(sizes) != 2 or sizes[1] is None:
        raise InputError(f"the model's output has shape {sizes}; expected one row of class scores per image")
    for layer, value in forward.layers.items():
        if len(dimensions(value)) != 4:
            raise InputError(f"CAM layer {layer!r} has shape {dimensions(value)}; expected (N, C, h, w)")

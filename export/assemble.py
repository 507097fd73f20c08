"""From a forward graph to the exported graph: target selection, backward pass, outputs.

    inputs   image  float32 (N, 3, H, W), grey levels 0..255 in three equal channels
             target int64 (N,), the class to explain, -1 the predicted one
    outputs  logits (N, K); per CAM layer, activations A and gradients dY_c/dA, both (N, C, h, w)

Y_c is the logit of class c. A target outside -1..K-1 gives NaN gradients, never another class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

import export.rules  # noqa: F401  (registers the rules)
from export import passes
from export.emit import Emitter, dimensions
from export.engine import backward
from harness.errors import InputError

SCORE_KINDS = ("softmax", "multilabel", "binary")


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
    passes.compose_transposes(forward.graph)
    passes.reduce_before_transpose(forward.graph)
    passes.separate_padding_from_max_pool(forward.graph)


def add_backward(forward: Forward, score_kind: str) -> ir.Model:
    """Append the backward graph and declare inputs and outputs. Returns the finished, checked model."""
    graph, logits, layers = forward.graph, forward.logits, forward.layers
    op = Emitter(graph)
    target = ir.val("target", ir.DataType.INT64, ["N"])
    graph.inputs.append(target)
    seed, poison = _seed(op, logits, target, score_kind)
    cotangents = backward(graph, forward.opset, logits, seed, list(layers.values()), op)
    gradients = {layer: op.Add(cotangent, poison) for layer, cotangent in zip(layers, cotangents, strict=True)}
    _declare_outputs(graph, logits, layers, gradients)
    return _finished(forward.model)


def output_names(layers: Mapping[str, object]) -> dict[str, tuple[str, str]]:
    """CAM layer -> names of its two outputs; the layer's name is part of them where there are several layers."""
    suffix = {name: f":{name}" if len(layers) > 1 else "" for name in layers}
    return {name: (f"activations{suffix[name]}", f"gradients{suffix[name]}") for name in layers}


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


def _declare_outputs(
    graph: ir.Graph, logits: ir.Value, layers: dict[str, ir.Value], gradients: dict[str, ir.Value]
) -> None:
    graph.outputs.clear()
    declared = {"logits": logits}
    for layer, (activations, gradient) in output_names(layers).items():
        declared[activations], declared[gradient] = layers[layer], gradients[layer]
        gradients[layer].type, gradients[layer].shape = layers[layer].type, layers[layer].shape
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


def _finished(model: ir.Model) -> ir.Model:
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

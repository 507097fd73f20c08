"""The forward graph that every source hands over."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from export.autodiff.emit import dimensions
from harness.common.errors import InputError


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

    def pin_outputs(self) -> None:
        """Logits and CAM tensors become the graph's outputs, which no pass folds away."""
        self.graph.outputs[:] = [self.logits, *self.layers.values()]

    @property
    def opset(self) -> int:
        return self.model.opset_imports[""]


def check_scores(scores: ir.Value) -> None:
    """Raise InputError where a tensor is not (N, K)."""
    sizes = dimensions(scores)
    if len(sizes) != 2 or sizes[1] is None:
        raise InputError(f"the model's output has shape {sizes}; expected one row of class scores per image")


def check_forward(forward: Forward) -> None:
    """Raise InputError where the graph is not (image) -> logits (N, K) with CAM layers (N, C, h, w)."""
    names = [value.name for value in forward.graph.inputs]
    if len(names) != 1:
        raise InputError(f"the converted graph asks for the inputs {names} instead of one image")
    check_scores(forward.logits)
    for layer, value in forward.layers.items():
        if len(dimensions(value)) != 4:
            raise InputError(f"CAM layer {layer!r} has shape {dimensions(value)}; expected (N, C, h, w)")

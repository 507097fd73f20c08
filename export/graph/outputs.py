"""What the outputs of an exported graph are called, and how they are declared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from export.autodiff.emit import dimensions


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


def declare_outputs(graph: ir.Graph, declared: dict[str, ir.Value]) -> None:
    """Make these the graph's only outputs, under these names, with a free batch."""
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

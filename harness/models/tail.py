"""The part of an exported graph that lies behind a CAM layer, as a model of its own.

Its inputs are the layer's activations and `target` (and `image`, where something behind the layer reads that, too),
its outputs logits and gradients. What lies before the layer does not run, so that hundreds of changed activations cost
a few passes of the whole network.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.common.errors import InputError
from harness.common.storage import Location
from harness.models.metadata import LayerOutputs

if TYPE_CHECKING:
    import onnx


def tail_of(path: Location, content: bytes, layer: LayerOutputs) -> bytes:
    """The model (activations, target) -> (logits, gradients) of one layer of an exported graph.

    :raises InputError: the logits do not depend on the layer's activations.
    """
    import onnx  # a third of a second, which only methods of several passes should cost

    whole = onnx.ModelProto.FromString(content)
    outputs = ("logits", layer.gradients)
    read, nodes = _behind(whole.graph, outputs, layer.activations)
    if layer.activations not in read:
        raise InputError(f"{path}: its logits do not depend on the layer {layer.label!r}; export it again")
    graph = onnx.GraphProto(name=whole.graph.name)
    graph.node.extend(nodes)
    graph.initializer.extend(item for item in whole.graph.initializer if item.name in read)
    graph.input.extend(item for item in whole.graph.input if item.name in read)
    graph.input.extend(item for item in whole.graph.output if item.name == layer.activations)
    graph.output.extend(item for item in whole.graph.output if item.name in outputs)
    tail = onnx.ModelProto(ir_version=whole.ir_version, graph=graph, functions=whole.functions)
    tail.opset_import.extend(whole.opset_import)
    return tail.SerializeToString()


def _behind(graph: onnx.GraphProto, outputs: tuple[str, ...], cut: str) -> tuple[set[str], list[onnx.NodeProto]]:
    """The values that `outputs` are made of where nothing before `cut` is looked at, and the nodes, in their order."""
    needed = set(outputs)
    nodes = []
    for node in reversed(graph.node):  # nodes are sorted: whoever reads a value comes after what makes it
        if needed.intersection(node.output) - {cut}:
            needed.update(_read_by(node))
            nodes.append(node)
    return needed, nodes[::-1]


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    """The values that a node reads, also inside of its branches and loops."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _read_by(inner)
            yield from (output.name for output in graph.output)

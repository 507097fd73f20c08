"""A part of an exported graph as a model of its own: what some of its outputs need, and nothing else.

ONNX Runtime computes every node of a session, whichever outputs are asked for: a session that also has gradients makes
them for a caller who wants the logits alone. Behind a CAM layer the part starts from the layer's activations (and from
`image`, where something behind the layer reads that, too), so that hundreds of changed activations cost a few passes of
the whole network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from harness.common.errors import InputError
from harness.common.storage import Location

if TYPE_CHECKING:
    import onnx


def part_of(path: Location, content: bytes, outputs: Sequence[str], behind: str | None = None) -> bytes:
    """The model that makes some outputs of an exported graph; its inputs are those of the graph that these need.

    :param behind: activations of a CAM layer, which become an input: nothing that lies before them runs.
    :raises InputError: the outputs do not depend on these activations.
    """
    import onnx  # a third of a second, which only methods of several passes should cost

    whole = onnx.ModelProto.FromString(content)
    read, nodes = _needed(whole.graph, outputs, behind)
    if behind is not None and behind not in read:
        raise InputError(f"{path}: its logits do not depend on {behind!r}; export it again")
    graph = onnx.GraphProto(name=whole.graph.name)
    graph.node.extend(nodes)
    graph.initializer.extend(item for item in whole.graph.initializer if item.name in read)
    graph.input.extend(item for item in whole.graph.input if item.name in read)
    graph.input.extend(item for item in whole.graph.output if item.name == behind)
    graph.output.extend(item for item in whole.graph.output if item.name in outputs)
    part = onnx.ModelProto(ir_version=whole.ir_version, graph=graph, functions=whole.functions)
    part.opset_import.extend(whole.opset_import)
    return part.SerializeToString()


def _needed(graph: onnx.GraphProto, outputs: Sequence[str], cut: str | None) -> tuple[set[str], list[onnx.NodeProto]]:
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

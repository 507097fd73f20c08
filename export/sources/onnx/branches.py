"""`If` whose condition is known when the graph is read: the branch that is taken, without the other."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from export.passes.concrete import BATCHES, Concrete


def take_constant_branches(model: ir.Model) -> None:
    """Put the nodes of the branch in the place of every `If` whose condition is the same for any batch size.

    Conditions computed of shapes count: PyTorch writes `squeeze` so.
    """
    while (found := _decided(model.graph)) is not None:
        _splice(model.graph, *found)
    common.NameFixPass()(model)


def _decided(graph: ir.Graph) -> tuple[ir.Node, ir.Graph] | None:
    """The first `If` with a known condition, and the branch that is taken."""
    node = next((node for node in graph if node.op_type == "If" and not node.domain), None)
    if node is None:
        return None
    fixed = graph.inputs[0].shape[0] if graph.inputs[0].shape else None
    sizes = (fixed,) if isinstance(fixed, int) else BATCHES
    known = [Concrete.of(graph, size).known(node.inputs[0]) for size in sizes]
    if any(condition is None for condition in known) or len({bool(condition) for condition in known}) != 1:
        return None
    branch = node.attributes["then_branch" if known[0] else "else_branch"]
    return node, branch.as_graph()


def _splice(graph: ir.Graph, node: ir.Node, branch: ir.Graph) -> None:
    for name, value in list(branch.initializers.items()):
        branch.initializers.pop(name)
        value.name = f"{node.name or 'If'}/{name}"
        graph.initializers[value.name] = value
    inside = list(branch)
    branch.remove(inside)
    graph.insert_before(node, inside)
    ends = list(branch.outputs)
    branch.outputs.clear()
    for old, new in zip(node.outputs, ends, strict=True):
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)

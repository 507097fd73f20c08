"""Transposes that a channels-last network brings along: composed, or moved behind the pooling that they serve.

Contract as in `export.passes`: a tensor name keeps meaning the same numbers.
"""

from __future__ import annotations

import onnx_ir as ir

from export.autodiff.emit import Emitter, constant_array


def compose_transposes(graph: ir.Graph) -> int:
    """Transpose(Transpose(x)) becomes one Transpose, or x itself where the two undo each other."""
    changed = 0
    for node in list(graph):
        inner = node.inputs[0].producer() if node.op_type == "Transpose" and node.inputs[0] else None
        if inner is None or inner.op_type != "Transpose" or inner.inputs[0] is None:
            continue
        if any(value.is_graph_output() for value in (inner.outputs[0], node.outputs[0])):
            continue  # a CAM layer stays on the way to the score
        first, second = _order(inner), _order(node)
        combined = [first[axis] for axis in second]
        source = inner.inputs[0]
        if combined == sorted(combined):
            _redirect(node.outputs[0], source)
        else:
            node.replace_input_with(0, source)
            node.attributes["perm"] = ir.AttrInt64s("perm", combined)
        changed += 1
    return changed


def reduce_before_transpose(graph: ir.Graph) -> int:
    """ReduceMean(Transpose(x), axes, keepdims=0) becomes ReduceMean(x, axes as x names them).

    Requires that the axes that remain keep their order, as in the pooling of a channels-last head.
    """
    changed = 0
    for node in list(graph):
        inner = node.inputs[0].producer() if node.op_type == "ReduceMean" and node.inputs[0] else None
        axes = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
        if inner is None or inner.op_type != "Transpose" or axes is None or node.attributes.get_int("keepdims", True):
            continue
        if inner.outputs[0].is_graph_output():
            continue  # a CAM layer stays on the way to the score
        order = _order(inner)
        reduced = sorted(order[axis] for axis in axes)
        kept = [axis for axis in order if axis not in reduced]
        if kept == sorted(kept):
            node.replace_input_with(0, inner.inputs[0])
            node.replace_input_with(1, Emitter(graph, "layout").integers(*reduced))
            changed += 1
    return changed


def _order(transpose: ir.Node) -> list[int]:
    value = transpose.inputs[0]
    assert value is not None
    rank = len(value.shape) if value.shape is not None else 0
    return list(transpose.attributes.get_ints("perm", list(range(rank))[::-1]))


def _redirect(old: ir.Value, new: ir.Value) -> None:
    """Let every reader of `old` read `new`; graph outputs keep the value that they had."""
    for use in list(old.uses()):
        use.node.replace_input_with(use.idx, new)

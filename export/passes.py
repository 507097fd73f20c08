"""Graph clean-up before differentiation. Passes change a graph in place and return how often; `tidy` and
`infer_shapes` take a whole model and return nothing.

Contract of each: a tensor name keeps meaning the same numbers; the result needs no shape inference that the input
did not have. Graph outputs are never folded away, which is how CAM tensors are pinned.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from export.emit import Emitter, constant_array
from export.logs import warnings_of
from export.windows import Window, window_of
from harness.common.errors import InputError

_KEEP_SHAPE = {"GroupNormalization"}
LOWEST = float(np.finfo(np.float32).min)  # stands for minus infinity: max(x, LOWEST) = x for every finite x


def tidy(model: ir.Model) -> None:
    """Normalise: initializers are no inputs, constants are initializers, no identities, twins or dead nodes."""
    for step in (
        common.RemoveInitializersFromInputsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.IdentityEliminationPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.TopologicalSortPass(),
    ):
        step(model)


def infer_shapes(model: ir.Model, check_type: bool = True) -> None:
    """Give every value its type and shape, as far as ONNX shape inference knows them.

    :raises InputError: the graph contradicts itself (the pass of onnx-ir only logs that).
    """
    _infer_around_gaps(model)
    with warnings_of("onnx_ir.passes.common.shape_inference") as complaints:
        common.ShapeInferencePass(check_type=check_type, strict_mode=True, data_prop=True)(model)
    if complaints:
        raise InputError(f"the graph's shapes contradict each other: {complaints[0]}")


def _infer_around_gaps(model: ir.Model) -> None:
    """Give nodes that ONNX does not infer, though they keep the shape, the shape of their input, first to last."""
    infer = common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)
    gaps = [node for node in model.graph if node.op_type in _KEEP_SHAPE and node.outputs[0].shape is None]
    for node in gaps:
        with warnings_of("onnx_ir.passes.common.shape_inference"):
            infer(model)
        source = node.inputs[0]
        assert source is not None
        node.outputs[0].shape, node.outputs[0].type = source.shape, source.type


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
        order = _order(inner)
        reduced = sorted(order[axis] for axis in axes)
        kept = [axis for axis in order if axis not in reduced]
        if kept == sorted(kept):
            node.replace_input_with(0, inner.inputs[0])
            node.replace_input_with(1, Emitter(graph, "layout").integers(*reduced))
            changed += 1
    return changed


def separate_padding_from_max_pool(graph: ir.Graph) -> int:
    """Make zero padding before a max-pooling immune to ONNX Runtime's fusion of the two.

    ONNX Runtime folds Pad(0) into the padding of the MaxPool behind it, which is minus infinity: wrong wherever a
    window holds padding and negative values only. The pair becomes

        Max(MaxPool(x, pads), border),   border = 0 where a window reads padding, the lowest float elsewhere,

    which is the same function, leaves nothing to fuse and works on the smaller, pooled map.

    Requires: the Pad is constant, zero, spatial and read by MaxPool nodes without padding of their own only.
    """
    changed = 0
    for pad in list(graph):
        amounts = _spatial_zero_padding(pad)
        readers = [use.node for use in pad.outputs[0].uses()]
        if amounts is None or pad.outputs[0].is_graph_output() or not all(_unpadded_max_pool(r) for r in readers):
            continue
        for pool in readers:
            _pad_inside(graph, pad, pool, amounts)
        graph.remove(pad, safe=True)
        changed += 1
    return changed


def _spatial_zero_padding(node: ir.Node) -> list[int] | None:
    """Pads of the spatial axes in ONNX order, None where the node is not a constant zero padding of those."""
    if node.op_type != "Pad" or node.attributes.get_string("mode", "constant") != "constant" or len(node.inputs) > 3:
        return None
    pads = constant_array(node.inputs[1])
    value = constant_array(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(1)
    if pads is None or value is None or value.any() or (pads < 0).any():
        return None
    rank = len(pads) // 2
    if pads[:2].any() or pads[rank : rank + 2].any():
        return None
    return [int(pad) for pad in [*pads[2:rank], *pads[rank + 2 :]]]


def _unpadded_max_pool(node: ir.Node) -> bool:
    no_pads = not any(node.attributes.get_ints("pads", [0]))
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    return node.op_type == "MaxPool" and len(node.outputs) == 1 and no_pads and mode in ("NOTSET", "VALID")


def _pad_inside(graph: ir.Graph, pad: ir.Node, pool: ir.Node, amounts: list[int]) -> None:
    steps = window_of(pool).steps
    pool.replace_input_with(0, pad.inputs[0])
    pool.attributes["pads"] = ir.AttrInt64s("pads", amounts)
    pool.attributes.pop("auto_pad", None)
    window = window_of(pool)
    assert window.steps == steps
    border = Emitter(graph, "padding").constant(_border(window), pool.outputs[0].dtype.numpy())  # type: ignore[union-attr]
    pooled = pool.outputs[0]
    joined = ir.Node("", "Max", [pooled, border], num_outputs=1)
    pooled.replace_all_uses_with(joined.outputs[0], replace_graph_outputs=True)
    joined.replace_input_with(0, pooled)
    joined.outputs[0].shape, joined.outputs[0].type = pooled.shape, pooled.type
    joined.outputs[0].name, pooled.name = pooled.name, f"{pooled.name}/without_border"
    graph.insert_after(pool, joined)


def _border(window: Window) -> np.ndarray:
    """(1, 1, h, w): 0 where a window reads padding, LOWEST elsewhere."""
    touches = [window.inside(axis) < window.inside(axis, include_padding=True) for axis in range(len(window.kernel))]
    return np.where(reduce(np.logical_or.outer, touches), 0.0, LOWEST)[None, None]


def _order(transpose: ir.Node) -> list[int]:
    value = transpose.inputs[0]
    assert value is not None
    rank = len(value.shape) if value.shape is not None else 0
    return list(transpose.attributes.get_ints("perm", list(range(rank))[::-1]))


def _redirect(old: ir.Value, new: ir.Value) -> None:
    """Let every reader of `old` read `new`; graph outputs keep the value that they had."""
    for use in list(old.uses()):
        use.node.replace_input_with(use.idx, new)

"""Padding of pooling: that of `ceil_mode` spelled out, and zeros before a maximum kept from being fused.

Contract as in `export.passes`: a tensor name keeps meaning the same numbers.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
import onnx_ir as ir

from export.autodiff.emit import Emitter, constant_array
from export.autodiff.windows import Window, window_of
from export.passes.concrete import Concrete
from export.passes.patterns import take_over

LOWEST = float(np.finfo(np.float32).min)  # stands for minus infinity: max(x, LOWEST) = x for every finite x


def resolve_ceil_mode(graph: ir.Graph, batch: int) -> int:
    """Pooling with `ceil_mode` becomes pooling with as much padding at the end as its last window needs.

    Up to opset 21, ONNX's shape inference counts a last window that would begin in the padding; ONNX Runtime and the
    specification do not. Padding counts neither in a maximum nor in a mean without `count_include_pad`; a mean with it
    is changed where its last window stays inside the padding that is there.

    :param batch: how many images the shapes are inferred for.
    """
    found = Concrete(dict(graph.opset_imports))
    found.start(graph, batch)
    changed = 0
    for node in graph:
        sizes = found.shape(node.inputs[0]) if node.op_type in ("MaxPool", "AveragePool") else None
        if sizes is not None and node.attributes.get_int("ceil_mode", False):
            changed += _pad_last_window(node, sizes[2:])
        found.visit(node)
    return changed


def _pad_last_window(node: ir.Node, sizes: tuple[int, ...]) -> int:
    rank = len(sizes)
    kernel, ones = node.attributes["kernel_shape"].as_ints(), [1] * rank
    strides, dilations = (node.attributes.get_ints(name, ones) for name in ("strides", "dilations"))
    pads = list(node.attributes.get_ints("pads", [0] * 2 * rank) or [])
    if node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return 0  # such padding decides the sizes by itself
    ends = []
    for axis, (size, k, s, d) in enumerate(zip(sizes, kernel, strides or ones, dilations or ones, strict=True)):
        reach, begin = d * (k - 1) + 1, pads[axis]
        steps = -(-(size + begin + pads[rank + axis] - reach) // s) + 1
        steps -= (steps - 1) * s >= size + begin  # a last window that begins in the padding
        ends.append(max(0, (steps - 1) * s + reach - size - begin))
    if node.attributes.get_int("count_include_pad", 0) and any(e > p for e, p in zip(ends, pads[rank:], strict=True)):
        return 0
    node.attributes["pads"] = ir.AttrInt64s("pads", [*pads[:rank], *ends])
    node.attributes.pop("ceil_mode")
    return 1


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
    take_over(pooled, joined.outputs[0], "without_border")
    joined.replace_input_with(0, pooled)
    graph.insert_after(pool, joined)


def _border(window: Window) -> np.ndarray:
    """(1, 1, h, w): 0 where a window reads padding, LOWEST elsewhere."""
    touches = [window.inside(axis) < window.inside(axis, include_padding=True) for axis in range(len(window.kernel))]
    return np.where(reduce(np.logical_or.outer, touches), 0.0, LOWEST)[None, None]

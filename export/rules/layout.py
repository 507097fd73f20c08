"""Operators that move elements without changing them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.engine import Step, define, define_variadic, describe
from harness.errors import InputError


def _transposed_back(s: Step) -> ir.Value:
    """y = x with axes permuted: the inverse permutation."""
    rank = len(s.shape(s.a))
    order = list(s.attribute("perm", list(range(rank))[::-1]))
    return s.op.Transpose(s.g, perm=[order.index(axis) for axis in range(rank)])


def _concat(s: Step, active: frozenset[int]) -> list[ir.Value | None]:
    """y = inputs end to end along one axis: each input takes its stretch of g."""
    axis = s.attribute("axis", 0) % len(s.shape(s.y))
    sizes = [s.shape(s.input(index))[axis] or 0 for index in range(len(s.node.inputs))]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    stretches: list[ir.Value | None] = [None] * len(sizes)
    for index in sorted(active):
        start, stop = s.op.integers(int(starts[index])), s.op.integers(int(starts[index + 1]))
        stretches[index] = s.op.Slice(s.g, start, stop, s.op.integers(axis))
    return stretches


def _unpadded(s: Step) -> ir.Value:
    """y = x between constant borders: the borders are cut off (a negative pad had cropped: zeros come back)."""
    if s.attribute("mode", "constant") != "constant":
        raise InputError(f"{describe(s.node)}: only constant padding can be differentiated; choose a later layer")
    axes = [s.input(3)] if s.has(3) else []
    return s.op.Pad(s.g, s.op.integers(*(-int(pad) for pad in s.constant(1))), s.number(0.0), *axes)


define("Transpose", _transposed_back)
define("Reshape", lambda s: s.reshaped(s.g, s.a))
define("Flatten", lambda s: s.reshaped(s.g, s.a))
define("Squeeze", lambda s: s.reshaped(s.g, s.a))
define("Unsqueeze", lambda s: s.reshaped(s.g, s.a))
define("Pad", _unpadded, note="mode constant")
define_variadic("Concat", _concat)

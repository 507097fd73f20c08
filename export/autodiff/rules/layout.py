"""Operators that move elements without changing them, or copy and drop some."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.autodiff.engine import Step, define, define_variadic, describe
from export.autodiff.rules.resampling import along
from harness.common.errors import InputError


def _transposed_back(s: Step) -> ir.Value:
    """y = x with axes permuted: the inverse permutation."""
    rank = len(s.shape(s.a))
    order = list(s.attribute("perm", list(range(rank))[::-1]))
    return s.op.Transpose(s.g, perm=[order.index(axis) for axis in range(rank)])


def _concat(s: Step, active: frozenset[int]) -> list[ir.Value | None]:
    """y = inputs end to end along one axis: each input takes its stretch of g."""
    axis = s.attribute("axis", 0) % len(s.shape(s.y))
    count = len(s.node.inputs)
    sizes = [s.shape(s.input(index))[axis] for index in range(count)]
    if None in sizes:
        return _stretches_of_unknown_size(s, axis)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    stretches: list[ir.Value | None] = [None] * count
    for index in sorted(active):
        start, stop = s.op.integers(int(starts[index])), s.op.integers(int(starts[index + 1]))
        stretches[index] = s.op.Slice(s.g, start, stop, s.op.integers(axis))
    return stretches


def _stretches_of_unknown_size(s: Step, axis: int) -> list[ir.Value | None]:
    count = len(s.node.inputs)
    if count == 1:
        return [s.g]
    sizes = [s.op.Gather(s.op.Shape(s.input(index)), s.op.integers(axis)) for index in range(count)]
    return list(s.op.Split(s.g, s.op.Concat(*sizes, axis=0), axis=axis, _outputs=count))


def _split(s: Step, active: frozenset[int]) -> list[ir.Value | None]:
    """y_0, y_1 ... = stretches of x: their cotangents end to end, zeros for a stretch that nothing needs."""
    assert 0 in active
    stretches = [
        s.op.CastLike(s.op.ConstantOfShape(s.op.Shape(output)), s.a) if cotangent is None else cotangent
        for output, cotangent in zip(s.node.outputs, s.cotangents, strict=True)
    ]
    whole = s.op.Concat(*stretches, axis=s.attribute("axis", 0))
    return [whole] + [None] * (len(s.node.inputs) - 1)


def _slice(s: Step) -> ir.Value:
    """y = every step-th element between start and end, per axis: g goes back to where its element came from."""
    cotangent = s.g
    for axis, kept in _kept_places(s).items():
        size = s.size(s.a, axis)
        if len(kept) and kept == list(range(kept[0], kept[0] + len(kept))):
            cotangent = zeros_around(s, cotangent, axis, kept[0], size - kept[-1] - 1)
        else:
            cotangent = along(s, cotangent, axis, np.eye(size)[kept])  # (kept, size)
    return cotangent


_TO_THE_END = 2**31 - 1  # how exporters write "to the end" of an axis


def _kept_places(s: Step) -> dict[int, list[int]]:
    """Axis -> positions of x that y holds, in order; axes that are kept whole are left out."""
    shape = s.shape(s.a)
    starts, ends = s.constant(1).tolist(), s.constant(2).tolist()
    axes = s.constant(3).tolist() if s.has(3) else list(range(len(starts)))
    steps = s.constant(4).tolist() if s.has(4) else [1] * len(starts)
    places = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis, size = axis % len(shape), shape[axis % len(shape)]
        if size is None:
            if (start, step) == (0, 1) and end >= _TO_THE_END:
                continue
            raise InputError(f"{describe(s.node)}: slices an axis of unknown size; fix that size in the model")
        kept = list(range(size))[start:end:step]  # Python clamps as ONNX does
        if kept != list(range(size)):
            places[axis] = kept
    return places


def zeros_around(s: Step, value: ir.Value, axis: int, before: int, after: int) -> ir.Value:
    """The value with zeros before and after it along an axis of x.

    Every axis is spelled out: ONNX Runtime 1.31 moves a Transpose across a Pad as if it had no input `axes`.
    """
    others = [0] * len(s.shape(s.a))
    begin, end = list(others), list(others)
    begin[axis], end[axis] = before, after
    return s.op.Pad(value, s.op.integers(*begin, *end), s.number(0.0))


def _pad(s: Step) -> ir.Value:
    """y = x with a border: cotangents of a constant border are dropped, those of copies return to their source."""
    rank = len(s.shape(s.a))
    axes = [int(axis) % rank for axis in s.constant(3)] if s.has(3) else list(range(rank))
    pads = [int(pad) for pad in s.constant(1)]
    mode = s.attribute("mode", "constant")
    if mode == "constant":
        back = [0] * (2 * rank)
        for place, pad in enumerate(pads):
            back[axes[place % len(axes)] + rank * (place // len(axes))] = -pad
        return s.op.Pad(s.g, s.op.integers(*back), s.number(0.0))
    cotangent = s.g
    for place, axis in enumerate(axes):
        before, after = pads[place], pads[len(axes) + place]
        if before or after:
            cotangent = along(s, cotangent, axis, _copies(s, axis, before, after, mode))
    return cotangent


def _copies(s: Step, axis: int, before: int, after: int, mode: str) -> np.ndarray:
    """(padded size, size): a 1 where a padded position copies a position of x."""
    size = s.shape(s.a)[axis]
    if size is None or min(before, after) < 0:
        raise InputError(f"{describe(s.node)}: this padding cannot be differentiated; choose a later layer")
    numpy_mode = {"edge": "edge", "reflect": "reflect", "wrap": "wrap"}[mode]
    return np.eye(size)[np.pad(np.arange(size), (before, after), mode=numpy_mode)]  # type: ignore[call-overload]


def _tiled(s: Step) -> ir.Value:
    """y = copies of x side by side: the sum over the copies."""
    pairs = [p for r, size in zip(s.constant(1).tolist(), s.shape(s.a), strict=True) for p in (r, size)]
    if pairs.count(None) > 1:
        raise InputError(f"{describe(s.node)}: more than one size is unknown; export the model with fixed sizes")
    apart = s.op.Reshape(s.g, s.op.integers(*(-1 if size is None else size for size in pairs)))
    return s.op.ReduceSum(apart, s.op.integers(*range(0, len(pairs), 2)), keepdims=0)


def _depth_to_space(s: Step) -> ir.Value:
    """Channels moved into b x b tiles: tiles moved back into channels, in the order of the mode."""
    size = s.attribute("blocksize", 0)
    if s.attribute("mode", "DCR") == "DCR":
        return s.op.SpaceToDepth(s.g, blocksize=size)
    channels, height, width = (s.size(s.a, axis) for axis in (1, 2, 3))
    tiles = s.op.Reshape(s.g, s.op.integers(-1, channels // size**2, height, size, width, size))
    return s.reshaped(s.op.Transpose(tiles, perm=[0, 1, 3, 5, 2, 4]), s.a)


def _centred(s: Step) -> ir.Value:
    """x cropped or padded around its centre: the same with the sizes exchanged, since both halve downwards."""
    axes = s.attribute("axes", list(range(len(s.shape(s.a)))))
    sizes = s.op.Gather(s.op.Shape(s.a), s.op.integers(*axes))
    return s.op.CenterCropPad(s.g, sizes, axes=axes)


define("Transpose", _transposed_back)
define("Reshape", lambda s: s.reshaped(s.g, s.a))
define("Flatten", lambda s: s.reshaped(s.g, s.a))
define("Squeeze", lambda s: s.reshaped(s.g, s.a))
define("Unsqueeze", lambda s: s.reshaped(s.g, s.a))
define("Expand", lambda s: s.g, broadcast=True)
define("Slice", _slice)
define("Pad", _pad)
define_variadic("Concat", _concat)
define_variadic("Split", _split, inputs="0")
define("Tile", _tiled)
define("Trilu", lambda s: s.op.Trilu(s.g, *s.node.inputs[1:], upper=s.attribute("upper", 1)))
define("DepthToSpace", _depth_to_space)
define("SpaceToDepth", lambda s: s.op.DepthToSpace(s.g, blocksize=s.attribute("blocksize", 0)))
define("CenterCropPad", _centred)

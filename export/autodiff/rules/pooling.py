"""Pooling over sliding windows and over the whole map."""

from __future__ import annotations

from functools import reduce
from math import prod

import numpy as np
import onnx_ir as ir

from export.autodiff.engine import Step, define, describe
from export.autodiff.windows import Window, window_of
from harness.common.errors import InputError


def _average_pool(s: Step) -> ir.Value:
    """y_i = (1 / count_i) sum of window i: x' = the sum, over the windows that read a pixel, of g_i / count_i."""
    window = window_of(s.node)
    volume = prod(window.kernel)
    counts = _counts(window, bool(s.attribute("count_include_pad", 0)))
    share = s.g if (counts == volume).all() else s.op.Mul(s.g, _like(s, volume / counts))
    return _window_means_back(s, share, window)


def _window_means_back(s: Step, share: ir.Value, window: Window) -> ir.Value:
    """For each pixel the sum, over the windows that read it, of share / volume."""
    if _tiles(window):
        return _repeated(s, s.op.Mul(share, s.number(1.0 / prod(window.kernel))), window)
    if set(window.dilations) == {1}:
        return s.op.AveragePool(_spread(s, share, window), kernel_shape=window.kernel)
    means = _like(s, np.full((s.size(s.a, 1), 1, *window.kernel), 1.0 / prod(window.kernel)))
    return s.op.Conv(_spread(s, share, window), means, group=s.size(s.a, 1), dilations=window.dilations)


def _counts(window: Window, include_padding: bool) -> np.ndarray:
    """By how many elements each window divides: an array of the output's spatial shape."""
    per_axis = [window.inside(axis, include_padding) for axis in range(len(window.kernel))]
    return reduce(np.multiply.outer, per_axis).astype(np.float64)


def _tiles(window: Window) -> bool:
    """Whether the windows cut the input into tiles: no overlap, no gap, no padding."""
    covered = tuple(k * n for k, n in zip(window.kernel, window.steps, strict=True))
    return window.kernel == window.strides and covered == window.size and not any(window.begin + window.end)


def _repeated(s: Step, value: ir.Value, window: Window) -> ir.Value:
    """(N, C, h, w) -> (N, C, h k, w k), every element repeated over its tile."""
    interleaved = _interleaved(s, value, window)  # (N, C, h, 1, w, 1)
    tile = [size for k in window.kernel for size in (1, k)]
    return s.reshaped(s.op.Expand(interleaved, s.op.integers(1, 1, *tile)), s.a)


def _interleaved(s: Step, value: ir.Value, window: Window) -> ir.Value:
    """(N, C, h, w) -> (N, C, h, 1, w, 1)."""
    sizes = [size for steps in window.steps for size in (steps, 1)]
    return s.op.Reshape(value, s.op.integers(-1, s.size(s.a, 1), *sizes))


def _spread(s: Step, value: ir.Value, window: Window) -> ir.Value:
    """Cotangents put `stride` apart with zeros between, and padded so that a stride-1 window sums them for each x."""
    spaced = _spaced(s, value, window)
    lengths = [n * stride for n, stride in zip(window.steps, window.strides, strict=True)]
    begin = [reach - pad for reach, pad in zip(window.reach, window.begin, strict=True)]
    axes = zip(window.size, window.reach, lengths, begin, strict=True)
    end = [size + reach - length - b for size, reach, length, b in axes]
    return _padded(s, spaced, begin, end)


def _spaced(s: Step, value: ir.Value, window: Window) -> ir.Value:
    """(N, C, h, w) -> (N, C, h s, w s): each element followed by s - 1 zeros."""
    if set(window.strides) == {1}:
        return value
    zeros = [gap for stride in window.strides for gap in (0, stride - 1)]
    apart = _padded(s, _interleaved(s, value, window), [0] * len(zeros), zeros)  # (N, C, h, s, w, s)
    lengths = [n * stride for n, stride in zip(window.steps, window.strides, strict=True)]
    return s.op.Reshape(apart, s.op.integers(-1, s.size(s.a, 1), *lengths))


def _padded(s: Step, value: ir.Value, begin: list[int], end: list[int]) -> ir.Value:
    """Zeros around the axes after batch and channel; a negative amount crops."""
    if not any(begin + end):
        return value
    return s.op.Pad(value, s.op.integers(0, 0, *begin, 0, 0, *end), s.number(0.0))


def _max_pool(s: Step) -> ir.Value:
    """y_i = x[argmax of window i]: g_i is added at the position that won."""
    if s.attribute("storage_order", 0):
        raise InputError(f"{describe(s.node)}: counts its winners by columns (storage_order=1); export it without")
    window = window_of(s.node)
    if set(window.kernel) == {1} and not any(window.begin + window.end):
        return _spread(s, s.g, window)
    winners = s.op.Reshape(_winners(s.node), s.op.integers(-1))
    zeros = s.op.Expand(s.number(0.0), s.op.Reshape(s.op.Size(s.a), s.op.integers(1)))
    summed = s.op.ScatterElements(zeros, winners, s.op.Reshape(s.g, s.op.integers(-1)), axis=0, reduction="add")
    return s.reshaped(summed, s.a)


def _winners(node: ir.Node) -> ir.Value:
    """MaxPool's second output: positions in the flattened input."""
    if len(node.outputs) == 1:
        node.resize_outputs(2)
        node.outputs[1].name = f"{node.outputs[0].name}/winners"
    return node.outputs[1]


def _norm_pool(s: Step) -> ir.Value:
    """y_i = (sum of |x|^p over window i)^(1/p): x' = sign(x) |x|^(p-1) times the sum of g_i / y_i^(p-1)."""
    window = window_of(s.node)
    share = s.op.Mul(_norm_share(s), s.number(float(prod(window.kernel))))
    return _times_power(s, _window_means_back(s, share, window))


def _global_norm(s: Step) -> ir.Value:
    """y = (sum of |x|^p over the map)^(1/p)."""
    return _times_power(s, _norm_share(s))


def _norm_share(s: Step) -> ir.Value:
    """g / y^(p-1), and 0 where y = 0."""
    below = s.op.Pow(s.y, s.number(s.attribute("p", 2) - 1.0))
    return s.op.Where(s.op.Equal(s.y, s.number(0.0)), s.number(0.0), s.op.Div(s.g, below))


def _times_power(s: Step, value: ir.Value) -> ir.Value:
    """value sign(x) |x|^(p-1)."""
    power = s.op.Pow(s.op.Abs(s.a), s.number(s.attribute("p", 2) - 1.0))
    return s.op.Mul(value, s.op.Mul(s.op.Sign(s.a), power))


def _global_average(s: Step) -> ir.Value:
    """y = mean over the map: x' = g / (h w) everywhere."""
    spatial = [int(size) for size in s.shape(s.a)[2:] if size is not None]
    if len(spatial) < len(s.shape(s.a)) - 2:
        raise InputError(f"{describe(s.node)}: pools a map of unknown size; export the model with fixed ones")
    return s.op.Expand(s.op.Mul(s.g, s.number(1.0 / prod(spatial))), s.op.integers(1, 1, *spatial))


def _global_max(s: Step) -> ir.Value:
    """y = max over the map: g, shared by the positions that reach it."""
    spatial = range(2, len(s.shape(s.a)))
    return shared_by_equals(s, s.y, s.g, list(spatial))


def shared_by_equals(s: Step, extremum: ir.Value, cotangent: ir.Value, axes: list[int]) -> ir.Value:
    """The cotangent (reduced axes of size 1) at the elements that equal the extremum, in equal shares."""
    winners = s.op.CastLike(s.op.Equal(s.a, extremum), s.a)
    share = s.op.Div(cotangent, s.op.ReduceSum(winners, s.op.integers(*axes), keepdims=1))
    return s.op.Mul(winners, share)


def _like(s: Step, array: np.ndarray) -> ir.Value:
    return s.op.constant(array, s.real_type)


define("AveragePool", _average_pool)
define("MaxPool", _max_pool, ties="the first maximum of a window, as ONNX Runtime reports it")
define("GlobalAveragePool", _global_average)
define("GlobalMaxPool", _global_max, ties="equal shares")
define("LpPool", _norm_pool, ties="0 where the norm is 0")
define("GlobalLpPool", _global_norm, ties="0 where the norm is 0")

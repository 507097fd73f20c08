"""Operators written out from the ONNX specification, for those that `onnx.reference` computes wrongly or not at all.

ConvTranspose: groups with output_padding fail there. MaxPool: asymmetric padding gives another shape. Pad: negative
amounts are refused. LRN: wrong by far. Erf, Gelu, GroupNormalization: float32 only. GatherElements: indices of another
shape are refused. LpNormalization: without absolute values. GlobalLpPool: not there.
GlobalMaxPool: four axes only. Mean: a first input that is broadcast is refused.

Each stands in for the reference implementation on both sides of a gradient check.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from onnx.reference.op_run import OpRun
from scipy.special import erf


class ConvTranspose(OpRun):
    op_domain = ""

    def _run(self, x, w, b=None, auto_pad=None, dilations=None, group=1, kernel_shape=None,
             output_padding=None, output_shape=None, pads=None, strides=None):  # fmt: skip
        rank = x.ndim - 2
        strides, dilations = strides or [1] * rank, dilations or [1] * rank
        pads, extra = pads or [0] * (2 * rank), output_padding or [0] * rank
        kernel = w.shape[2:]
        full = [s * (n - 1) + d * (k - 1) + 1 + e for s, n, d, k, e in
                zip(strides, x.shape[2:], dilations, kernel, extra, strict=True)]  # fmt: skip
        y = np.zeros((len(x), w.shape[1] * group, *full), x.dtype)
        per_group = x.shape[1] // group
        for g in range(group):
            inside = slice(g * per_group, (g + 1) * per_group)
            outside = slice(g * w.shape[1], (g + 1) * w.shape[1])
            for place in np.ndindex(*kernel):
                stretch = tuple(slice(d * k, d * k + s * (n - 1) + 1, s) for d, k, s, n in
                                zip(dilations, place, strides, x.shape[2:], strict=True))  # fmt: skip
                y[(slice(None), outside, *stretch)] += np.einsum(
                    "nc...,cm->nm...", x[:, inside], w[(inside, slice(None), *place)]
                )
        cropped = tuple(slice(pads[a], full[a] - pads[rank + a]) for a in range(rank))
        y = y[(slice(None), slice(None), *cropped)]
        return (y if b is None else y + b.reshape(-1, *[1] * rank),)


class LRN(OpRun):
    op_domain = ""

    def _run(self, x, size=None, alpha=None, beta=None, bias=None):
        y = np.empty_like(x)
        for c in range(x.shape[1]):
            window = x[:, max(0, c - (size - 1) // 2) : c + size // 2 + 1]
            y[:, c] = x[:, c] / (bias + alpha / size * (window**2).sum(axis=1)) ** beta
        return (y,)


class MaxPool(OpRun):
    op_domain = ""

    def _run(self, x, auto_pad=None, ceil_mode=0, dilations=None, kernel_shape=None,
             pads=None, storage_order=0, strides=None):  # fmt: skip
        rank = x.ndim - 2
        strides, dilations = strides or [1] * rank, dilations or [1] * rank
        axes = [
            _axis(x.shape[2 + a], kernel_shape[a], strides[a], dilations[a], pads, a, rank, auto_pad, ceil_mode)
            for a in range(rank)
        ]
        y = np.empty((*x.shape[:2], *(len(axis) for axis in axes)), x.dtype)
        winners = np.empty(y.shape, np.int64)
        flat = np.arange(x.size).reshape(x.shape)
        for place in product(*(range(len(axis)) for axis in axes)):
            window = (slice(None), slice(None), *np.ix_(*(axes[a][i] for a, i in enumerate(place))))
            seen = x[window].reshape(*x.shape[:2], -1)
            best = seen.argmax(axis=-1)[..., None]
            y[(slice(None), slice(None), *place)] = np.take_along_axis(seen, best, -1)[..., 0]
            numbers = flat[window].reshape(*x.shape[:2], -1)
            winners[(slice(None), slice(None), *place)] = np.take_along_axis(numbers, best, -1)[..., 0]
        return (y, winners) if len(self.onnx_node.output) > 1 else (y,)


class Mean(OpRun):
    op_domain = ""

    def _run(self, *inputs):
        return (np.asarray(sum(inputs) / len(inputs)),)


class Pad(OpRun):
    op_domain = ""

    def _run(self, x, pads, constant_value=None, axes=None, mode="constant"):
        axes = list(range(x.ndim)) if axes is None else [int(axis) % x.ndim for axis in axes]
        fill = 0 if constant_value is None else constant_value.item()
        for place, axis in enumerate(axes):
            x = _pad_axis(x, axis, int(pads[place]), int(pads[len(axes) + place]), mode, fill)
        return (x,)


class Erf(OpRun):
    op_domain = ""

    def _run(self, x):
        return (np.asarray(erf(x), x.dtype),)


class GatherElements(OpRun):
    op_domain = ""

    def _run(self, x, indices, axis=0):
        y = np.empty(indices.shape, x.dtype)
        for place in np.ndindex(*indices.shape):
            source = list(place)
            source[axis] = indices[place]
            y[place] = x[tuple(source)]
        return (y,)


class Gelu(OpRun):
    op_domain = ""

    def _run(self, x, approximate="none"):
        inner = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)) if approximate == "tanh" else erf(x / np.sqrt(2))
        return (np.asarray(0.5 * x * (1 + inner), x.dtype),)


class GlobalLpPool(OpRun):
    op_domain = ""

    def _run(self, x, p=2):
        axes = tuple(range(2, x.ndim))
        return ((np.abs(x) ** p).sum(axis=axes, keepdims=True) ** (1 / p),)


class GlobalMaxPool(OpRun):
    op_domain = ""

    def _run(self, x):
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class GroupNormalization(OpRun):
    op_domain = ""

    def _run(self, x, scale, bias, epsilon=1e-5, num_groups=None, stash_type=1):
        groups = x.reshape(len(x), num_groups, -1)
        z = (groups - groups.mean(-1, keepdims=True)) / np.sqrt(groups.var(-1, keepdims=True) + epsilon)
        per_channel = [v.reshape(-1, *[1] * (x.ndim - 2)) for v in (scale, bias)]
        return (z.reshape(x.shape) * per_channel[0] + per_channel[1],)


class LpNormalization(OpRun):
    op_domain = ""

    def _run(self, x, axis=-1, p=2):
        return (x / np.linalg.norm(x, p, axis, keepdims=True),)


LITERAL = [
    ConvTranspose,
    Erf,
    GatherElements,
    Gelu,
    GlobalLpPool,
    GlobalMaxPool,
    GroupNormalization,
    LRN,
    LpNormalization,
    MaxPool,
    Mean,
    Pad,
]


def _pad_axis(x: np.ndarray, axis: int, begin: int, end: int, mode: str, fill: float) -> np.ndarray:
    kept = np.take(x, range(max(-begin, 0), x.shape[axis] - max(-end, 0)), axis)
    widths = [(0, 0)] * x.ndim
    widths[axis] = (max(begin, 0), max(end, 0))
    return np.pad(kept, widths, mode, **({"constant_values": fill} if mode == "constant" else {}))


def _axis(size, kernel, stride, dilation, pads, a, rank, auto_pad, ceil_mode) -> list[list[int]]:
    """For each output position of one axis, the input positions that its window reads."""
    begin, end = (pads[a], pads[rank + a]) if pads else (0, 0)
    reach = dilation * (kernel - 1)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        steps = -(-size // stride)
        total = max((steps - 1) * stride + reach + 1 - size, 0)
        begin = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
    else:
        room = size + begin + end - reach - 1
        steps = (-(-room // stride) if ceil_mode else room // stride) + 1
        steps -= ceil_mode and (steps - 1) * stride >= size + begin  # no window starts in the end padding
    return [list(_inside(step * stride - begin, kernel, dilation, size)) for step in range(steps)]


def _inside(start: int, kernel: int, dilation: int, size: int) -> Iterator[int]:
    return (start + dilation * k for k in range(kernel) if 0 <= start + dilation * k < size)

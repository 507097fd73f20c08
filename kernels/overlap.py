"""How much of the two maps' evidence lies on the same pixels: IoU of masks, and of the maps themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kernels.cached_maps import PairFacts
from kernels.jit import inlined, kernel, sums
from kernels.sorting import TOP_PERCENTS, top_masks

CURVE_STEPS = 20  # relative thresholds 1/20 ... 19/20


def iou_top(percent: int) -> Callable[[PairFacts], float]:
    """IoU of the masks {x >= t and x > 0}, t = the k-th largest value, k = (percent H W + 99) // 100."""
    index = TOP_PERCENTS.index(percent)
    return lambda pair: float(pair.fact(top_ious)[index])


iou_top5, iou_top10, iou_top20, iou_top30 = map(iou_top, TOP_PERCENTS)


def top_ious(pair: PairFacts) -> np.ndarray:
    """IoU for each of TOP_PERCENTS."""
    before, after = pair.before, pair.after
    return _mask_ious(before.flat, after.flat, *before.fact(top_masks), *after.fact(top_masks))


def iou_half(pair: PairFacts) -> float:
    """IoU of the masks {x >= max / 2}."""
    before, after = pair.before, pair.after
    both, each = _half_counts(before.flat, after.flat, np.float32(before.maximum), np.float32(after.maximum))
    return both / (each - both)


def iou_curve(pair: PairFacts) -> float:
    """Mean IoU of the masks {x >= r max} over r = 0.05, 0.10 ... 0.95."""
    before, after = pair.before, pair.after
    levels = before.slot.shared.array("levels", before.flat.size, np.uint16)
    return _curve(before.flat, after.flat, CURVE_STEPS / before.maximum, CURVE_STEPS / after.maximum, levels)


def soft_iou(pair: PairFacts) -> float:
    """sum min(x, y) / sum max(x, y) with x = a / max a and y = b / max b (Ruzicka similarity)."""
    before, after = pair.before, pair.after
    both, either = _soft_counts(before.flat, after.flat, 1 / before.maximum, 1 / after.maximum)
    return both / either


@sums
def _mask_ious(a, b, limits_a, sizes_a, limits_b, sizes_b):
    result = np.empty(limits_a.size)
    for t in range(limits_a.size):
        limit_a, limit_b = limits_a[t], limits_b[t]
        both = np.int32(0)  # 32 bits are twice the lanes
        for p in range(a.size):
            both += np.int32((a[p] >= limit_a) & (b[p] >= limit_b))
        result[t] = both / (sizes_a[t] + sizes_b[t] - both)
    return result


@sums
def _half_counts(a, b, max_a, max_b):
    two = np.float32(2)  # doubling is exact where halving a denormal maximum is not
    in_both, in_each = np.int32(0), np.int32(0)
    for p in range(a.size):
        in_a, in_b = np.int32(two * a[p] >= max_a), np.int32(two * b[p] >= max_b)
        in_both += in_a * in_b
        in_each += in_a + in_b
    return in_both, in_each


@inlined
def _levels(a, b, scale_a, scale_b, levels):
    """levels[p] = 20 i + j, where i = floor(20 a / max a), at most 19, and j likewise for b.

    The quotient of two float32 numbers is a whole number or 2^-29 away from the next, and float64 rounds it by
    less than 2^-46. So with 2^-40 added, the floor is exact.
    """
    top = np.int32(CURVE_STEPS - 1)
    for p in range(a.size):
        i = min(np.int32(scale_a * a[p] + 2.0**-40), top)
        j = min(np.int32(scale_b * b[p] + 2.0**-40), top)
        levels[p] = CURVE_STEPS * i + j


@kernel
def _curve(a, b, scale_a, scale_b, levels):
    """Mean over t = 1 ... 19 of the IoU of {i >= t} and {j >= t}, from the joint histogram of i and j."""
    _levels(a, b, scale_a, scale_b, levels)
    counts = np.zeros((4, CURVE_STEPS * CURVE_STEPS), np.int64)  # neighbours are alike; four do not wait in line
    for p in range(levels.size):
        counts[p & 3, levels[p]] += 1
    both, either = np.zeros(CURVE_STEPS), np.zeros(CURVE_STEPS)
    for level in range(CURVE_STEPS * CURVE_STEPS):
        count = counts[:, level].sum()
        i, j = level // CURVE_STEPS, level % CURVE_STEPS
        both[min(i, j)] += count
        either[max(i, j)] += count
    return (both[:0:-1].cumsum() / either[:0:-1].cumsum()).mean()


@sums
def _soft_counts(a, b, scale_a, scale_b):
    both, either = 0.0, 0.0
    for p in range(a.size):
        x, y = scale_a * a[p], scale_b * b[p]
        both += min(x, y)
        either += max(x, y)
    return both, either

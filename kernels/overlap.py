"""How much of the two maps' evidence lies on the same pixels: IoU of masks, and of the maps themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kernels.facts import MapFacts, PairFacts
from kernels.jit import sums
from kernels.order import TOP_PERCENTS, order

CURVE_STEPS = 20  # relative thresholds 1/20 ... 19/20


def iou_top(percent: int) -> Callable[[PairFacts], float]:
    """IoU of the masks {x >= t and x > 0}, t = the k-th largest value, k = (percent H W + 99) // 100."""
    place = TOP_PERCENTS.index(percent)
    return lambda pair: float(pair.fact(top_ious)[place])


def top_ious(pair: PairFacts) -> np.ndarray:
    """IoU for each of TOP_PERCENTS."""
    return _ious(pair, pair.before.fact(order).thresholds, pair.after.fact(order).thresholds)


def iou_half(pair: PairFacts) -> float:
    """IoU of the masks {x >= max / 2}."""
    return float(pair.fact(relative_ious)[CURVE_STEPS // 2 - 1])


def iou_curve(pair: PairFacts) -> float:
    """Mean IoU of the masks {x >= r max} over r = 0.05, 0.10 ... 0.95."""
    return float(pair.fact(relative_ious).mean())


def relative_ious(pair: PairFacts) -> np.ndarray:
    """IoU of {x >= j max / 20} for j = 1 ... 19."""
    return _ious(pair, relative_thresholds(pair.before), relative_thresholds(pair.after))


def relative_thresholds(a_map: MapFacts) -> np.ndarray:
    """float32 (19,): the smallest t with t >= j max / 20, so that {x >= t} is exact for float32 pixels."""
    exact = np.arange(1, CURVE_STEPS) * a_map.maximum / CURVE_STEPS
    rounded = exact.astype(np.float32)
    return np.where(rounded < exact, np.nextafter(rounded, np.float32(np.inf)), rounded)


def _ious(pair: PairFacts, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    both, either = _mask_counts(pair.before.flat, pair.after.flat, before, after)
    return both / either


@sums
def _mask_counts(a, b, thresholds_a, thresholds_b):
    both = np.zeros(thresholds_a.size, np.int64)
    either = np.zeros(thresholds_a.size, np.int64)
    for t in range(thresholds_a.size):
        limit_a, limit_b = thresholds_a[t], thresholds_b[t]
        in_both, in_either = np.int32(0), np.int32(0)  # 32 bits are twice the lanes
        for p in range(a.size):
            in_both += np.int32((a[p] >= limit_a) & (b[p] >= limit_b))
            in_either += np.int32((a[p] >= limit_a) | (b[p] >= limit_b))
        both[t], either[t] = in_both, in_either
    return both, either

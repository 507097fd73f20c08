"""Do the pixels of two maps rise and fall together: Pearson and Spearman correlation."""

from __future__ import annotations

from math import sqrt

from kernels.cached_maps import MapFacts, PairFacts
from kernels.jit import sums
from kernels.sorting import ranks


def pearson(pair: PairFacts) -> float:
    """sum (a - mean a)(b - mean b) / sqrt(sum (a - mean a)^2 sum (b - mean b)^2), in two passes."""
    before, after = pair.before, pair.after
    covariance, square_a, square_b = _moments(before.flat, after.flat, _mean(before), _mean(after))
    return _correlation(covariance, square_a, square_b)


def spearman(pair: PairFacts) -> float:
    """Pearson correlation of the ranks, where ties share their mean rank (Spearman 1904).

    The sums are over whole numbers and exact up to 300,000 pixels.
    """
    (before, square_before), (after, square_after) = pair.before.fact(ranks), pair.after.fact(ranks)
    return _correlation(_dot(before, after), square_before, square_after)


def _mean(a_map: MapFacts) -> float:
    return a_map.total / a_map.flat.size


def _correlation(covariance: float, square_a: float, square_b: float) -> float:
    # One root of the product: identical maps give exactly 1. Rounding may pass the bounds by 1e-16.
    return max(-1.0, min(1.0, covariance / sqrt(square_a * square_b)))


@sums
def _moments(a, b, mean_a, mean_b):
    covariance, square_a, square_b = 0.0, 0.0, 0.0
    for p in range(a.size):
        x, y = a[p] - mean_a, b[p] - mean_b
        covariance += x * y
        square_a += x * x
        square_b += y * y
    return covariance, square_a, square_b


@sums
def _dot(a, b):
    total = 0.0
    for p in range(a.size):
        total += float(a[p]) * float(b[p])
    return total

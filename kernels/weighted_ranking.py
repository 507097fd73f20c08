"""Sums over ranked images for many weightings of them at once: those behind an AUC, and behind a quantile."""

from __future__ import annotations

import numpy as np

from kernels.jit import kernel


def weight_beaten(
    weights: np.ndarray, positives: np.ndarray, negatives: np.ndarray, below: np.ndarray, upto: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(r,) sum_i w_i (sum of w of the negatives below positive i + half of those equal to it), and (r,) sum of all w.

    :param weights: (n, r) of the images in r draws; whole numbers, so that every sum is exact.
    :param positives, negatives: (p,), (q,) rows of the images, each in ascending order of the score.
    :param below, upto: (p,) how many negatives score lower, and lower or equal; both ascend.

    The second sum is that of the negatives.
    """
    draws = weights.shape[1]
    beaten, lower, upper = np.zeros(draws), np.zeros(draws), np.zeros(draws)
    _add_beaten(np.ascontiguousarray(weights, np.float64), positives, negatives, below, upto, lower, upper, beaten)
    return 0.5 * beaten, lower


@kernel
def _add_beaten(weights, positives, negatives, below, upto, lower, upper, beaten):
    """beaten += w_i (lower + upper) for each positive; `lower` and `upper` follow the negatives up to it."""
    first, last = 0, 0
    for i in range(positives.size):
        first = _advance(weights, negatives, first, below[i], lower)
        last = _advance(weights, negatives, last, upto[i], upper)
        row = weights[positives[i]]
        for draw in range(beaten.size):
            beaten[draw] += row[draw] * (lower[draw] + upper[draw])
    _advance(weights, negatives, first, negatives.size, lower)


@kernel
def _advance(weights, negatives, start, end, total):
    """Add the weights of negatives[start:end]; returns `end`."""
    for n in range(start, end):
        row = weights[negatives[n]]
        for draw in range(total.size):
            total[draw] += row[draw]
    return end


def first_reached(drawn: np.ndarray, owners: np.ndarray, values: np.ndarray, needed: np.ndarray) -> np.ndarray:
    """(r,) the first of the values (m,) up to which those of a draw weigh as much as is needed; NaN where none is.

    :param drawn: int32 (r, p), how often each patient is drawn; value i weighs as often as its patient, owners[i] (m,).
    :param needed: int32 (r,).
    """
    found = np.full(len(drawn), np.nan)
    _find_first(np.ascontiguousarray(drawn, np.int32), owners, values, needed, found)
    return found


@kernel
def _find_first(drawn, owners, values, needed, found):
    for draw in range(found.size):
        weight = np.int32(0)
        for i in range(values.size):
            weight += drawn[draw, owners[i]]
            if weight >= needed[draw]:
                found[draw] = values[i]
                break

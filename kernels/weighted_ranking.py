"""How often positives score above negatives, for many weightings of the images at once: the sums behind an AUC."""

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

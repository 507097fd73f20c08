"""The sums behind an AUC, beside the count of all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.weighted_ranking import weight_beaten

SCORED = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=25)  # (score, is positive)


@settings(max_examples=150, deadline=None)
@given(SCORED, st.integers(0, 3))
def test_it_is_the_sum_over_all_pairs(scored: list[tuple[int, bool]], seed: int) -> None:
    """Exactly: all sums are of whole numbers and halves."""
    scores, positive = np.array(scored).T
    weights = np.random.default_rng(seed).integers(0, 4, (len(scores), 3)).astype(np.float64)
    order = np.argsort(scores, kind="stable")
    positives, negatives = order[positive[order] == 1], order[positive[order] == 0]
    below, upto = (np.searchsorted(scores[negatives], scores[positives], side) for side in ("left", "right"))
    beaten, total = weight_beaten(weights, positives, negatives, below, upto)
    for draw in range(3):
        pairs = [
            weights[i, draw] * weights[j, draw] * ((scores[j] < scores[i]) + 0.5 * (scores[j] == scores[i]))
            for i in positives
            for j in negatives
        ]
        assert beaten[draw] == sum(pairs)
        assert total[draw] == weights[negatives, draw].sum()


@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_order_and_type_of_the_weights_do_not_matter(order: str) -> None:
    weights = np.asarray(np.random.default_rng(0).integers(0, 9, (6, 4)), order=order)
    rows = np.array([0, 2, 4]), np.array([1, 3, 5]), np.array([0, 1, 2]), np.array([1, 1, 3])
    for found, expected in zip(weight_beaten(weights, *rows), weight_beaten(weights.astype(float), *rows), strict=True):
        assert np.array_equal(found, expected)

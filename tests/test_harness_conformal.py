"""The nightly test: p-values and wealth against their definitions, and the guarantee by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad

from harness.statistics import conformal
from harness.statistics.conformal import conformal_p, log_ratios, log_wealth, threshold, weights_of_nights


def literal_p(values: np.ndarray, reference: int, ties: np.ndarray) -> list[float]:
    """The definition, one value after the other."""
    found = []
    for t in range(reference, len(values)):
        earlier = values[:t]
        below, equal = int((earlier < values[t]).sum()), int((earlier == values[t]).sum())
        found.append((below + ties[t - reference] * (1 + equal)) / (t + 1))
    return found


def literal_wealth(p: np.ndarray, nights: np.ndarray) -> list[float]:
    """sum over beginnings and experts of what each would have, one bet after the other."""
    z = stats.norm.ppf(p)
    ratios = np.array(
        [stats.norm.pdf(z, a) / stats.norm.pdf(z) for a in conformal.SHIFTS]
        + [stats.norm.pdf(z, 0, s) / stats.norm.pdf(z) for s in conformal.SPREADS]
    )
    found = []
    for t in range(len(p)):
        total, begun = 0.0, 0.0
        for k in range(int(nights[t]) + 1):
            weight = (1 - conformal.FIRST) * conformal.HAZARD * (1 - conformal.HAZARD) ** k
            weight += conformal.FIRST if k == 0 else 0.0
            begun += weight
            held = [i for i in range(t + 1) if nights[i] >= k]
            total += weight * ratios[:, held].prod(axis=1).mean()
        found.append(1 - begun + total)
    return found


@given(
    st.lists(st.integers(0, 6), min_size=2, max_size=40),
    st.integers(1, 10),
    st.randoms(use_true_random=False),
)
def test_p_values_are_their_definition(values: list[int], reference: int, random: object) -> None:
    reference = min(reference, len(values) - 1)
    ties = np.array([random.uniform(0.01, 0.99) for _ in values[reference:]])  # type: ignore[attr-defined]
    found = conformal_p(np.array(values, float), reference, ties)
    assert found == pytest.approx(literal_p(np.array(values, float), reference, ties), abs=1e-12)


def test_p_values_across_blocks_are_their_definition() -> None:
    rng = np.random.default_rng(0)
    values, ties = rng.integers(0, 50, 700).astype(float), rng.uniform(size=690)
    assert conformal_p(values, 10, ties) == pytest.approx(literal_p(values, 10, ties), abs=1e-12)


def test_wealth_is_its_definition() -> None:
    rng = np.random.default_rng(1)
    p = rng.uniform(size=12)
    nights = np.array([0, 0, 1, 1, 1, 4, 4, 5, 5, 5, 7, 7])  # some nights have none
    assert np.exp(log_wealth(p, nights)) == pytest.approx(literal_wealth(p, nights), rel=1e-9)
    late = np.array([3, 3, 4])  # none in the first nights
    assert np.exp(log_wealth(p[:3], late)) == pytest.approx(literal_wealth(p[:3], late), rel=1e-9)


def test_each_bet_is_fair() -> None:
    """The mean of a likelihood ratio under the standard normal is 1."""
    for expert in range(log_ratios(np.zeros(1)).shape[1]):
        mean = quad(lambda z, e=expert: math.exp(log_ratios(np.array([z]))[0, e]) * stats.norm.pdf(z), -12, 12)[0]
        assert mean == pytest.approx(1, abs=1e-7)


def test_weights_sum_to_one() -> None:
    weights, left = weights_of_nights(1000)
    assert np.cumsum(weights) + left == pytest.approx(np.ones(1000), abs=1e-12)
    assert (weights > 0).all()


def test_p_values_of_exchangeable_values_are_uniform_and_independent_for_a_small_reference() -> None:
    """Also for a statistic of few levels; a rank among the reference alone would fail the second half."""
    rng = np.random.default_rng(2)
    drawn = rng.integers(0, 4, (4000, 15)).astype(float)
    found = np.array([conformal_p(row, 5, rng.uniform(size=10)) for row in drawn])
    assert all(stats.kstest(column, "uniform").pvalue > 1e-4 for column in found.T)
    correlations = np.corrcoef(found.T)[np.triu_indices(10, 1)]
    assert np.abs(correlations).max() < 5 / math.sqrt(4000)


def test_false_alarms_stay_below_the_guarantee() -> None:
    """200 streams of 4 statistics with references of 50: at most 5 % alarms, and 3 standard errors."""
    rng = np.random.default_rng(3)
    nights, alarms = np.repeat(np.arange(60), 10), 0
    for _ in range(200):
        shared = rng.normal(size=650)
        wealth = [
            log_wealth(conformal_p(shared + rng.normal(size=650), 50, rng.uniform(size=600)), nights) for _ in range(4)
        ]
        alarms += max(one.max() for one in wealth) >= threshold(4)
    assert alarms <= 200 * 0.05 + 3 * math.sqrt(200 * 0.05 * 0.95)


def test_a_shift_is_found_early_and_late() -> None:
    rng = np.random.default_rng(4)
    nights = np.repeat(np.arange(100), 10)
    for begins in (0, 80):
        values = rng.normal(size=1300)
        values[300 + 10 * begins :] += 1.0
        wealth = log_wealth(conformal_p(values, 300, rng.uniform(size=1000)), nights)
        first = int(nights[np.argmax(wealth >= threshold(10))])
        assert begins <= first <= begins + 5


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(ValueError, match="need a reference, and finite values"):
        conformal_p(np.array([1.0, np.nan]), 1, np.array([0.5]))
    with pytest.raises(ValueError, match="need a reference"):
        conformal_p(np.ones(2), 0, np.ones(2))


def test_nothing_new_is_no_evidence() -> None:
    assert len(log_wealth(np.zeros(0), np.zeros(0, int))) == 0


def test_the_threshold_counts_the_statistics() -> None:
    assert threshold(16) == pytest.approx(math.log(320))
    assert threshold(0) == pytest.approx(math.log(20))

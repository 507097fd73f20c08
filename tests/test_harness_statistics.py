"""The patient bootstrap against literal resampling and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.statistics import patient_bootstrap, per_patient


def clustered(patients: int, seed: int, effect: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(patients), rng.integers(1, 5, patients))
    values = effect * rng.normal(size=patients)[groups] + rng.normal(size=len(groups))
    return values[:, None], groups


def test_sums_and_counts_leave_out_what_is_undefined() -> None:
    values = np.array([[1.0, np.nan], [2.0, 5.0], [4.0, np.nan]])
    sums, counts = per_patient(values, np.array(["b", "a", "b"]))
    assert sums.tolist() == [[2, 5], [5, 0]]
    assert counts.tolist() == [[1, 1], [2, 0]]


def test_interval_agrees_with_literal_resampling_of_whole_patients() -> None:
    values, groups = clustered(40, seed=1)
    found = patient_bootstrap(values, groups, seed=0)[0]
    rng = np.random.default_rng(123)
    members = [values[groups == patient, 0] for patient in range(40)]
    means = [np.concatenate([members[i] for i in rng.integers(0, 40, 40)]).mean() for _ in range(10_000)]
    low, high = np.percentile(means, [2.5, 97.5])
    width = high - low
    assert found.low == pytest.approx(low, abs=0.05 * width)
    assert found.high == pytest.approx(high, abs=0.05 * width)


def test_equal_values_have_an_interval_of_no_width() -> None:
    interval = patient_bootstrap(np.full((30, 1), 0.25), np.arange(30), seed=0)[0]
    assert (interval.low, interval.high) == (0.25, 0.25)


def test_same_seed_same_interval_whatever_stands_beside_it() -> None:
    values, groups = clustered(30, seed=2)
    alone = patient_bootstrap(values, groups, seed=5)[0]
    beside = patient_bootstrap(np.hstack([values * 3, values]), groups, seed=5)[1]
    assert (alone.low, alone.high) == pytest.approx((beside.low, beside.high), rel=1e-12)


def test_too_few_patients_have_no_interval_but_a_reason() -> None:
    values = np.ones((100, 1))
    interval = patient_bootstrap(values, np.arange(100) % 19, seed=0)[0]
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert interval.reason == "few_patients"


def test_patients_without_a_defined_value_do_not_count() -> None:
    values = np.where(np.arange(30) < 15, 1.0, np.nan)[:, None]
    assert patient_bootstrap(values, np.arange(30), seed=0)[0].reason == "few_patients"

"""The patient bootstrap, the stability index and the permutation test against literal versions and closed forms."""

from __future__ import annotations

import itertools
import math
import time
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from harness.common.errors import InputError
from harness.statistics.bootstrap import (
    Interval,
    PatientSums,
    Resampling,
    _Ascending,
    blocked_product,
    interval,
    mean,
    patient_codes,
)
from harness.statistics.hypothesis_tests import FLIPS, equivalence, holm, sign_flip
from harness.statistics.stability import stability_index


def clustered(patients: int, seed: int, effect: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(values (n, 1), groups (n,)): patients with 1..6 images that share a part of their value."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(patients), rng.integers(1, 7, patients))
    values = effect * rng.normal(size=patients)[groups] + rng.normal(size=len(groups))
    return values[:, None], groups


def bootstrap(values: np.ndarray, groups: np.ndarray, seed: int) -> list[Interval]:
    """The interval of the mean of each column."""
    resampling = Resampling(groups, seed)
    means = resampling.means(values)
    return [interval(means[:, c], int(n)) for c, n in enumerate(resampling.n_patients(values))]


# Means


@pytest.mark.parametrize("shape", [(64, 500, 300), (7, 3, 1), (2, 600_000, 1), (5, 4, 0)])
def test_a_product_in_blocks_is_the_product(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    drawn, table = rng.integers(0, 4, shape[:2]).astype(float), rng.normal(size=shape[1:])
    np.testing.assert_allclose(blocked_product(drawn, table), drawn @ table, rtol=1e-10, atol=1e-8)


def test_means_agree_with_a_loop_over_the_drawn_patients() -> None:
    """Witness: concatenate the images of the drawn patients, one at a time, and take the mean."""
    values, groups = clustered(12, seed=3)
    values = np.hstack([values, np.where(np.arange(len(values))[:, None] % 3 == 0, np.nan, values**2)])
    resampling = Resampling(groups, seed=11, resamples=50)
    weights = np.concatenate([chunk for _, chunk in resampling.image_weights()])  # (50, n)
    first = [int(np.flatnonzero(groups == patient)[0]) for patient in range(12)]
    expected = np.empty((50, 2))
    for r in range(50):
        pool = []
        for patient in range(12):
            pool += list(values[groups == patient]) * int(weights[r, first[patient]])
        expected[r] = np.nanmean(np.array(pool), axis=0)
    np.testing.assert_allclose(resampling.means(values), expected, rtol=1e-12)


def test_a_resample_draws_as_many_patients_as_there_are_and_keeps_them_whole() -> None:
    _, groups = clustered(30, seed=4)
    weights = np.concatenate([chunk for _, chunk in Resampling(groups, seed=1, resamples=200).image_weights()])
    for patient in range(30):
        of_patient = weights[:, groups == patient]
        assert (of_patient == of_patient[:, :1]).all()
    first = np.unique(groups, return_index=True)[1]
    assert (weights[:, first].sum(axis=1) == 30).all()


def test_the_number_of_times_that_a_patient_is_drawn_is_binomial() -> None:
    counts = np.concatenate([c for _, c in Resampling(np.arange(20), seed=2, resamples=20_000).image_weights()])[:, 7]
    expected = stats.binom.pmf(np.arange(5), 20, 1 / 20)
    found = [(counts == k).mean() for k in range(5)]
    np.testing.assert_allclose(found, expected, atol=4 * np.sqrt(0.25 / 20_000))


def test_draws_that_are_not_kept_are_the_ones_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    values, groups = clustered(40, seed=5)
    kept = Resampling(groups, seed=3, resamples=8_000)  # more than one chunk of 40 patients
    monkeypatch.setattr("harness.statistics.bootstrap._KEPT", 0)
    repeated = Resampling(groups, seed=3, resamples=8_000)
    assert kept._kept is not None
    assert repeated._kept is None
    np.testing.assert_array_equal(kept.means(values), repeated.means(values))
    np.testing.assert_array_equal(repeated.means(values), repeated.means(values))


def test_chunks_of_image_weights_cover_every_resample_once() -> None:
    groups = np.arange(5_000) % 900
    slices = [rows for rows, _ in Resampling(groups, seed=0, resamples=1_500).image_weights()]
    assert [r for rows in slices for r in range(rows.start, rows.stop)] == list(range(1_500))


def test_interval_agrees_with_literal_resampling_of_whole_patients() -> None:
    values, groups = clustered(40, seed=1)
    found = bootstrap(values, groups, seed=0)[0]
    rng = np.random.default_rng(123)
    members = [values[groups == patient, 0] for patient in range(40)]
    means = [np.concatenate([members[i] for i in rng.integers(0, 40, 40)]).mean() for _ in range(10_000)]
    low, high = np.percentile(means, [2.5, 97.5])
    width = high - low
    assert found.low == pytest.approx(low, abs=0.05 * width)
    assert found.high == pytest.approx(high, abs=0.05 * width)


def test_equal_values_have_an_interval_of_no_width() -> None:
    found = bootstrap(np.full((30, 1), 0.25), np.arange(30), seed=0)[0]
    assert (found.low, found.high) == (0.25, 0.25)


def test_same_seed_same_means_whatever_stands_beside() -> None:
    values, groups = clustered(30, seed=2)
    alone = Resampling(groups, seed=5).means(values)[:, 0]
    beside = Resampling(groups, seed=5).means(np.hstack([values * 3, np.where(values > 0, values, np.nan), values]))
    np.testing.assert_allclose(alone, beside[:, 2], rtol=1e-12, atol=1e-14)
    assert not np.allclose(alone, Resampling(groups, seed=6).means(values)[:, 0])


def test_order_of_the_images_does_not_matter() -> None:
    values, groups = clustered(30, seed=2)
    order = np.random.default_rng(0).permutation(len(groups))
    before = Resampling(groups, seed=5).means(values)
    after = Resampling(groups[order], seed=5).means(values[order])
    np.testing.assert_allclose(before, after, rtol=1e-12, atol=1e-14)


def test_rows_that_are_nan_leave_the_means_of_the_others_unchanged() -> None:
    values, groups = clustered(30, seed=2)
    extended = np.vstack([values, np.full((7, 1), np.nan)])
    found = Resampling(np.append(groups, np.arange(7)), seed=5).means(extended)
    np.testing.assert_allclose(found, Resampling(groups, seed=5).means(values), rtol=1e-12, atol=1e-14)


def test_infinite_values_are_not_in() -> None:
    resampling = Resampling(np.arange(25), seed=0, resamples=20)
    values = np.arange(25.0)[:, None]
    np.testing.assert_array_equal(
        resampling.means(np.where(values == 3, np.inf, values)), resampling.means(np.where(values == 3, np.nan, values))
    )


def test_a_draw_without_a_value_is_nan_and_the_interval_leaves_it_out() -> None:
    values = np.full((20, 1), np.nan)
    values[3] = 0.5
    resampling = Resampling(np.arange(20), seed=0, resamples=1_000)
    means = resampling.means(values)[:, 0]
    assert np.isnan(means).mean() == pytest.approx((19 / 20) ** 20, abs=0.06)
    assert set(means[~np.isnan(means)]) == {0.5}
    assert (interval(means, 20).low, interval(means, 20).high) == (0.5, 0.5)


def test_some_of_the_images_have_the_means_of_all_with_the_others_undefined() -> None:
    values, groups = clustered(30, seed=2)
    rows = np.flatnonzero(np.random.default_rng(0).random(len(groups)) < 0.4)
    others = np.where(np.isin(np.arange(len(groups)), rows)[:, None], values, np.nan)
    whole = Resampling(groups, seed=5, resamples=200)
    some = whole.of(rows)
    np.testing.assert_array_equal(some.means(values[rows]), whole.means(others))
    np.testing.assert_array_equal(some.quantiles(values[rows], (0.5,)), whole.quantiles(others, (0.5,)))
    assert some.n_patients(values[rows]) == whole.n_patients(others)
    assert np.isnan(whole.of(rows[:0]).means(values[:0])).all()


@pytest.mark.parametrize("rows", [np.arange(2, 60), np.arange(9, 60)])
def test_draws_among_some_images_are_those_of_a_study_without_the_others(rows: np.ndarray) -> None:
    """Of patients 0 .. 19, or of 3 .. 19 where the others have none of the images."""
    groups = np.repeat(np.arange(20), 3)
    values = np.random.default_rng(1).normal(size=(60, 2))[rows]
    among = Resampling(groups, 4, 500).among(rows)
    alone = Resampling(groups[rows], 4, 500)
    assert among.patients == alone.patients == len(set(groups[rows]))
    assert np.array_equal(among.means(values), alone.means(values))


def test_an_image_of_weight_two_counts_like_two_images() -> None:
    values, groups = clustered(25, seed=4)
    values = np.hstack([values, np.where(values > 0, values, np.nan)])
    times = np.random.default_rng(1).integers(1, 4, len(groups))
    twice = np.repeat(np.arange(len(groups)), times)
    resampling = Resampling(groups, seed=5, resamples=200)
    weighted, repeated = resampling.of(np.arange(len(groups)), times.astype(float)), resampling.of(twice)
    np.testing.assert_allclose(weighted.means(values), repeated.means(values[twice]), rtol=1e-12)
    assert weighted.n_patients(values).tolist() == repeated.n_patients(values[twice]).tolist()
    for column in values.T:
        assert mean(column, weighted.weights) == pytest.approx(mean(column[twice]))


def test_index_of_weighted_images_is_that_of_repeated_ones() -> None:
    chance, floor, observed = three_references(60, seed=8)
    chance[3] = np.nan
    times = np.random.default_rng(1).integers(1, 4, 60)
    twice = np.repeat(np.arange(60), times)
    resampling = Resampling(np.arange(60), seed=0, resamples=500)
    found = stability_index(resampling.of(np.arange(60), times.astype(float)), observed, chance, floor, [1])[0]
    expected = stability_index(resampling.of(twice), observed[twice], chance[twice], floor[twice], [1])[0]
    ends = [
        (index.value, index.low, index.high, index.observed, index.chance, index.floor) for index in (found, expected)
    ]
    np.testing.assert_allclose(*ends, rtol=1e-12)
    assert (found.n, expected.n) == (59, len(twice) - times[3])


def test_sums_over_patients_add_up_and_stand_side_by_side() -> None:
    """Streamed in stretches and in groups of columns they are the sums of all that is held at once."""
    values, groups = clustered(30, seed=2)
    values = np.hstack([values, values**2, np.where(values > 0, values, np.nan)])
    resampling = Resampling(groups, seed=5, resamples=100)
    whole = resampling.sums(values)
    beside = PatientSums.beside([resampling.sums(values[:, :1]), resampling.sums(values[:, 1:])])
    np.testing.assert_array_equal(beside.sums, whole.sums)
    np.testing.assert_array_equal(beside.counts[:, beside.pattern], whole.counts[:, whole.pattern])
    complete = values[:, :2]
    first, second = (rows := np.arange(len(groups)))[:50], rows[50:]
    added = resampling.of(first).sums(complete[first]) + resampling.of(second).sums(complete[second])
    np.testing.assert_allclose(added.sums, whole.sums[:, :2], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(resampling.means_of([added, whole])[0], resampling.means(complete), rtol=1e-12)
    np.testing.assert_array_equal(resampling.means_of([added, whole])[1], resampling.means(values))
    literal = [[np.nansum(values[groups == patient, c]) for c in range(3)] for patient in range(30)]
    np.testing.assert_allclose(whole.sums, literal, rtol=1e-12, atol=1e-14)


def test_no_columns_give_no_means_and_no_quantiles() -> None:
    resampling = Resampling(np.arange(5), seed=0, resamples=10)
    assert resampling.means(np.empty((5, 0))).shape == (10, 0)
    assert resampling.quantiles(np.empty((5, 0)), (0.1, 0.5)).shape == (10, 0, 2)


def test_patients_are_counted_where_they_have_a_defined_value() -> None:
    resampling = Resampling(["b", "a", "b", "c"], seed=0, resamples=10)
    values = np.array([[1.0, np.nan, np.nan], [2.0, np.nan, 1.0], [3.0, np.nan, np.nan], [np.nan, np.nan, 1.0]])
    assert resampling.n_patients(values).tolist() == [2, 0, 2]
    assert (resampling.images, resampling.patients) == (4, 3)
    assert patient_codes(["b", "a", "b", "c"]).tolist() == [1, 0, 1, 2]


# Intervals


def test_interval_ends_are_percentiles() -> None:
    found = interval(np.arange(1001.0), n_patients=20)
    assert (found.low, found.high) == pytest.approx((25.0, 975.0))
    narrower = interval(np.arange(1001.0), n_patients=20, level=0.5)
    assert (narrower.low, narrower.high) == pytest.approx((250.0, 750.0))


def test_too_few_patients_have_no_interval_but_a_reason() -> None:
    found = bootstrap(np.ones((100, 1)), np.arange(100) % 19, seed=0)[0]
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.reason == "few_patients"


def test_patients_without_a_defined_value_do_not_count() -> None:
    values = np.where(np.arange(30) < 15, 1.0, np.nan)[:, None]
    assert bootstrap(values, np.arange(30), seed=0)[0].reason == "few_patients"


def test_a_distribution_without_a_defined_draw_has_no_interval_but_a_reason() -> None:
    found = interval(np.full(10, np.nan), n_patients=30)
    assert math.isnan(found.low)
    assert found.reason == "undefined"


def coverage(patients: int, simulations: int) -> float:
    """Share of simulated studies whose 95 % interval holds the true mean, 0, of clustered values."""
    covered = 0
    for seed in range(simulations):
        values, groups = clustered(patients, seed=1_000 + seed)
        found = interval(Resampling(groups, seed, resamples=1_000).means(values)[:, 0], patients)
        covered += found.low <= 0.0 <= found.high
    return covered / simulations


@pytest.mark.slow
def test_intervals_cover_the_truth_in_93_to_97_percent_of_simulations() -> None:
    assert 0.93 <= coverage(patients=70, simulations=2_000) <= 0.97


def test_intervals_that_take_images_for_patients_would_not_cover() -> None:
    """The check can fail: as if every image were a patient of its own, the intervals are far too narrow."""
    covered = 0
    for seed in range(300):
        values, _ = clustered(70, seed=1_000 + seed, effect=2.0)
        found = interval(Resampling(np.arange(len(values)), seed, resamples=500).means(values)[:, 0], 70)
        covered += found.low <= 0.0 <= found.high
    assert covered / 300 < 0.85


# Stability index


def three_references(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(chance, floor, another draw like the floor), each (n, 1); n patients with one image."""
    rng = np.random.default_rng(seed)
    return rng.normal(0.3, 0.1, (n, 1)), rng.normal(0.8, 0.1, (n, 1)), rng.normal(0.8, 0.1, (n, 1))


def test_index_is_the_ratio_of_means_on_the_complete_images() -> None:
    """Witness: one image at a time."""
    chance, floor, observed = three_references(40, seed=0)
    observed = observed - 0.2
    chance[3], floor[5], observed[7] = np.nan, np.nan, np.inf
    found = stability_index(Resampling(np.arange(40), seed=0), observed, chance, floor, [1])[0]
    rows = [
        (o[0], c[0], f[0])
        for i, (o, c, f) in enumerate(zip(observed, chance, floor, strict=True))
        if i not in (3, 5, 7)
    ]
    o, c, f = (sum(row[k] for row in rows) / 37 for k in range(3))
    assert found.n == 37
    assert (found.observed, found.chance, found.floor) == pytest.approx((o, c, f))
    assert found.value == pytest.approx((o - c) / (f - c))
    assert found.low < found.value < found.high
    assert found.reason is None


def test_index_interval_agrees_with_literal_resampling() -> None:
    chance, floor, observed = three_references(50, seed=1)
    found = stability_index(Resampling(np.arange(50), seed=0), observed, chance, floor, [1])[0]
    rng = np.random.default_rng(9)
    draws = []
    for _ in range(10_000):
        i = rng.integers(0, 50, 50)
        draws.append((observed[i].mean() - chance[i].mean()) / (floor[i].mean() - chance[i].mean()))
    low, high = np.percentile(draws, [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_a_checkpoint_against_itself_scores_at_least_one() -> None:
    chance, floor, _ = three_references(60, seed=2)
    found = stability_index(Resampling(np.arange(60), seed=0), np.ones((60, 1)), chance, np.minimum(floor, 0.99), [1])[
        0
    ]
    assert found.value >= 1.0
    assert found.low >= 1.0


def test_drift_like_the_floor_scores_one_and_unrelated_maps_score_zero() -> None:
    chance, floor, observed = three_references(200, seed=3)
    unrelated = three_references(200, seed=4)[0]
    resampling = Resampling(np.arange(200), seed=0)
    like_floor, like_chance = stability_index(
        resampling, np.hstack([observed, unrelated]), np.hstack([chance] * 2), np.hstack([floor] * 2), [1, 1]
    )
    assert like_floor.low < 1.0 < like_floor.high
    assert like_chance.low < 0.0 < like_chance.high
    assert like_chance.value == pytest.approx(0.0, abs=0.1)


def test_index_of_a_metric_that_is_low_where_stable_is_the_mirror_image() -> None:
    chance, floor, observed = three_references(60, seed=5)
    resampling = Resampling(np.arange(60), seed=0)
    up = stability_index(resampling, observed, chance, floor, [1])[0]
    down = stability_index(resampling, -observed, -chance, -floor, [-1])[0]
    assert (down.value, down.low, down.high) == pytest.approx((up.value, up.low, up.high))
    assert stability_index(resampling, observed, chance, floor, [-1])[0].reason == "floor_not_separated"


@pytest.mark.parametrize("shift", [0.0, 0.001])
def test_index_without_a_floor_above_chance_is_undefined(shift: float) -> None:
    chance, floor, observed = three_references(60, seed=6)
    floor = chance.copy() if shift == 0 else floor - floor.mean() + chance.mean() + shift
    found = stability_index(Resampling(np.arange(60), seed=0), observed, chance, floor, [1])[0]
    assert found.reason == "floor_not_separated"
    assert math.isnan(found.value)
    assert math.isnan(found.low)
    assert found.floor == pytest.approx(chance.mean() + shift)


@pytest.mark.parametrize(("defined", "reason"), [(19, "few_patients"), (0, "no_images")])
def test_index_of_few_patients_is_undefined(defined: int, reason: str) -> None:
    chance, floor, observed = three_references(60, seed=7)
    observed[defined:] = np.nan
    found = stability_index(Resampling(np.arange(60), seed=0), observed, chance, floor, [1])[0]
    assert (found.reason, found.n) == (reason, defined)
    assert math.isnan(found.value)


# Permutation test, Holm, equivalence


def enumerated_p(sums: np.ndarray) -> float:
    """Exact two-sided p value: every pattern of signs of the patients."""
    totals = [abs(np.dot(signs, sums)) for signs in itertools.product([1, -1], repeat=len(sums))]
    return float(np.mean(np.array(totals) >= abs(sums.sum()) - 1e-9))


@pytest.mark.parametrize("seed", range(6))
def test_sign_flip_agrees_with_full_enumeration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(8), rng.integers(1, 4, 8))
    differences = rng.normal(0.4, 1.0, len(groups))
    sums = np.array([differences[groups == patient].sum() for patient in range(8)])
    exact = enumerated_p(sums)
    found = sign_flip(differences[:, None], groups, seed)[0]
    assert found == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / FLIPS) + 1 / FLIPS)


def test_sign_flip_counts_equal_sums_as_ties() -> None:
    """Differences of 0.1, 0.2 and 0.3: 0.1 + 0.2 - 0.3 is 0 up to rounding, and so is the observed sum."""
    differences = np.array([[0.1], [0.2], [-0.3]])
    assert sign_flip(differences, np.arange(3), seed=0)[0] == 1.0
    same = np.full((4, 1), 0.1)
    assert sign_flip(same, np.arange(4), seed=0)[0] == pytest.approx(2 / 16, abs=0.015)


def test_sign_flip_of_tenths_agrees_with_enumeration_in_whole_numbers() -> None:
    """Tenths tie often, and their sums differ in the last digit."""
    for seed in range(20):
        tenths = np.random.default_rng(seed).integers(-3, 5, 8)
        exact = enumerated_p(tenths)
        found = sign_flip(tenths[:, None] * 0.1, np.arange(8), seed)[0]
        assert found == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / FLIPS) + 1 / FLIPS)


def test_sign_flip_of_no_difference_is_one_and_of_one_patient_undefined() -> None:
    differences = np.zeros((6, 3))
    differences[:, 1] = [1, 2, 3, np.nan, np.nan, np.nan]
    differences[:, 2] = np.nan
    p = sign_flip(differences, np.array(["a", "a", "a", "b", "b", "c"]), seed=0)
    assert p[0] == 1.0
    assert np.isnan(p[1:]).all()


def test_sign_flip_leaves_out_what_is_nan_and_does_not_depend_on_the_order() -> None:
    values, groups = clustered(12, seed=8)
    values = values + 0.5
    order = np.random.default_rng(1).permutation(len(groups))
    alone = sign_flip(values, groups, seed=3)[0]
    assert sign_flip(values[order], groups[order], seed=3)[0] == alone
    longer = np.vstack([np.hstack([values, -values]), np.full((3, 2), np.nan)])
    assert sign_flip(longer, np.append(groups, [0, 1, 2]), seed=3).tolist() == [alone, alone]


def test_sign_flip_of_a_large_effect_has_the_smallest_p_that_the_flips_can_give() -> None:
    differences = np.random.default_rng(0).normal(1.0, 0.1, (100, 1))
    assert sign_flip(differences, np.arange(100), seed=0)[0] == pytest.approx(1 / (1 + FLIPS))


def test_sign_flip_rejects_a_true_null_as_often_as_it_says() -> None:
    """2,000 null studies: 30 patients whose images share a symmetric, heavy-tailed part."""
    rng = np.random.default_rng(42)
    groups = np.repeat(np.arange(30), rng.integers(1, 7, 30))
    shared = rng.standard_t(4, (30, 2_000))[groups]
    p = sign_flip(shared + rng.normal(size=shared.shape), groups, seed=0, flips=999)
    low, high = stats.binom.interval(0.99, 2_000, 0.05)
    assert low <= np.count_nonzero(p <= 0.05) <= high
    by_image = sign_flip(shared + rng.normal(size=shared.shape), np.arange(len(groups)), seed=0, flips=999)
    assert np.count_nonzero(by_image <= 0.05) > high  # the check can fail: flipping images, not patients


def test_holm_agrees_with_its_definition() -> None:
    """Witness: Holm's sequential rule; the adjusted p is the smallest level at which it rejects."""
    p = np.array([0.01, 0.04, 0.03, 0.005, 0.5])
    adjusted = holm(p)
    for level in np.linspace(0.0005, 1.0, 2_000):
        rejected = set()
        for step, index in enumerate(np.argsort(p)):
            if p[index] > level / (len(p) - step):
                break
            rejected.add(int(index))
        assert rejected == set(np.flatnonzero(adjusted <= level + 1e-12).tolist())
    np.testing.assert_allclose(adjusted, [0.04, 0.09, 0.09, 0.025, 0.5])


def test_holm_leaves_nan_out_of_the_family() -> None:
    adjusted = holm(np.array([np.nan, 0.02, 0.9, np.nan]))
    np.testing.assert_allclose(adjusted, [np.nan, 0.04, 0.9, np.nan])
    assert np.isnan(holm(np.array([np.nan]))).all()
    assert holm(np.array([])).shape == (0,)


def test_equivalence_of_a_normal_distribution_agrees_with_its_closed_form() -> None:
    draws = stats.norm(0.01, 0.02).ppf((np.arange(100_000) + 0.5) / 100_000)
    found = equivalence(draws, margin=0.05, n_patients=100)
    assert found.p == pytest.approx(stats.norm.sf(0.05, 0.01, 0.02), abs=1e-4)
    assert (found.low90, found.high90) == pytest.approx(stats.norm.interval(0.90, 0.01, 0.02), abs=1e-4)
    assert found.equivalent
    assert not equivalence(draws, margin=0.04, n_patients=100).equivalent
    assert not equivalence(-draws, margin=0.04, n_patients=100).equivalent


def test_equivalence_is_not_shown_by_few_patients() -> None:
    found = equivalence(np.zeros(100), margin=0.05, n_patients=19)
    assert (found.equivalent, found.reason) == (False, "few_patients")
    assert math.isnan(found.p)


# Refusals


@pytest.mark.parametrize("margin", [0.0, -0.1, float("nan")])
def test_a_margin_must_be_above_zero(margin: float) -> None:
    with pytest.raises(InputError, match=r"equivalence margin is .*: give a number above 0"):
        equivalence(np.zeros(100), margin, n_patients=30)


@pytest.mark.parametrize("shape", [(4, 1), (5,), (5, 1, 1)])
def test_values_need_one_row_per_image(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="there are 5 images: give one row per image"):
        Resampling(np.arange(5), seed=0, resamples=10).means(np.zeros(shape))
    with pytest.raises(InputError, match="there are 5 images: give one row per image"):
        sign_flip(np.zeros(shape), np.arange(5), seed=0)


def test_no_images_at_all_are_refused() -> None:
    with pytest.raises(InputError, match="there are no images to compute statistics on"):
        Resampling([], seed=0)


# Cost


def plain_bootstrap(values: np.ndarray, groups: np.ndarray, resamples: int) -> np.ndarray:
    """The plain NumPy way: one bincount per resample, stacked in chunks, times sums and counts."""
    patients = int(groups.max()) + 1
    table = np.stack(
        [np.bincount(groups, column, patients) for column in values.T]
        + [np.bincount(groups, np.isfinite(column), patients) for column in values.T],
        axis=1,
    )
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(0, resamples, 50):
        drawn = [np.bincount(rng.integers(0, patients, patients), minlength=patients) for _ in range(50)]
        totals = np.stack(drawn).astype(np.float64) @ table
        parts.append(totals[:, : values.shape[1]] / totals[:, values.shape[1] :])
    return np.percentile(np.concatenate(parts), [2.5, 97.5], axis=0)


@pytest.mark.slow
@pytest.mark.alone
def test_20_columns_of_5000_patients_cost_no_more_than_the_plain_way() -> None:
    values, groups = np.random.default_rng(0).random((5_000, 20)), np.arange(5_000)
    best = {bootstrap: math.inf, plain_bootstrap: math.inf}
    for _ in range(5):
        for way in best:
            start = time.perf_counter()
            way(values, groups, 10_000 if way is plain_bootstrap else 0)
            best[way] = min(best[way], time.perf_counter() - start)
    assert best[bootstrap] / best[plain_bootstrap] <= 1.1  # times of one run scatter by a few percent


@pytest.mark.slow
@pytest.mark.parametrize("patients", [1_600, 5_000])
def test_memory_is_bounded(patients: int) -> None:
    values, groups = np.random.default_rng(0).random((5_000, 20)), np.arange(5_000) % patients
    tracemalloc.start()
    bootstrap(values, groups, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 128 * 2**20  # half of it are draws that are kept for the next values


@pytest.mark.parametrize("reach", [0, 0.5, 8])
def test_quantiles_equal_those_of_the_drawn_images(monkeypatch: pytest.MonkeyPatch, reach: float) -> None:
    """Witness: the images of the drawn patients written out. The window holds none, some or all quantiles."""
    monkeypatch.setattr("harness.statistics.bootstrap._REACH", reach)
    values, groups = clustered(25, seed=3)
    values = np.hstack([values, np.where(values > 0, values, np.nan), np.round(values)])
    resampling = Resampling(groups, seed=5, resamples=40)
    found = resampling.quantiles(values, (0.05, 0.5, 0.95), draws=30)
    assert found.shape == (30, 3, 3)
    weights = np.concatenate([part for _, part in resampling.image_weights()])
    for draw in range(30):
        for column in range(3):
            defined = np.isfinite(values[:, column])
            drawn = np.repeat(values[defined, column], weights[draw, defined].astype(int))
            expected = np.quantile(drawn, [0.05, 0.5, 0.95], method="inverted_cdf")
            assert found[draw, column] == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("each", [1, 40])
def test_windows_hold_the_quantiles_of_all_draws(share: float, each: int) -> None:
    """Of independent images and of patients whose images are alike; a tenth of the reach does not do for all."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(500), each)
    values = rng.normal(size=500)[groups] + 0.01 * rng.normal(size=len(groups))
    resampling = Resampling(groups, seed=1, resamples=500)
    drawn = np.concatenate([counts for _, counts in resampling._counts()]).astype(np.int32)
    column = _Ascending.of(values, resampling.patient, 500, [share])
    total, below = (drawn @ column.table).T
    window, target = column.windows[0], np.ceil(share * total)
    assert np.isfinite(column._first(drawn, window, target - below)).all()
    assert window.stop - window.start < len(values)
    middle, reach = (window.start + window.stop) // 2, (window.stop - window.start) // 20
    narrow = slice(middle - reach, middle + reach)
    below = drawn @ np.bincount(column.patient[: narrow.start], minlength=500)
    assert np.isnan(column._first(drawn, narrow, target - below)).any()


@pytest.mark.parametrize("infinite", [np.inf, -np.inf])
def test_quantiles_leave_infinite_values_out(infinite: float) -> None:
    values, groups = clustered(30, seed=3)
    first = np.arange(len(values))[:, None] == 0
    resampling = Resampling(groups, seed=0, resamples=20)
    found, expected = (resampling.quantiles(np.where(first, x, values), (0.0, 0.5, 1.0)) for x in (infinite, np.nan))
    np.testing.assert_array_equal(found, expected)


def test_quantiles_without_values_are_undefined() -> None:
    values, groups = clustered(25, seed=3)
    assert np.isnan(Resampling(groups, 0, 20).quantiles(values * np.nan, (0.5,))).all()

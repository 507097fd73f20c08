"""Partners that have nothing to do with an image, and what metrics score on them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.chance import derangements, mean_over_draws, partner_metrics
from kernels.metrics import METRICS, pair_metrics
from kernels.reasons import Reason
from kernels.resize import upsample
from kernels.scoring import PairScores
from tests.map_samples import cam_like, related

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=30)  # (class, patient)


def names(count: int) -> list[str]:
    return [f"image{n:03d}" for n in range(count)]


@settings(max_examples=150, deadline=None)
@given(ROWS, st.integers(0, 3))
def test_partner_has_the_class_but_not_the_patient(rows: list[tuple[int, int]], seed: int) -> None:
    classes, groups = np.array(rows).T
    for draw in derangements(names(len(rows)), classes, groups, draws=3, seed=seed):
        for i, j in enumerate(draw):
            others = groups[classes == classes[i]] != groups[i]
            assert (j >= 0) == others.any()
            assert j < 0 or (classes[i] == classes[j] and groups[i] != groups[j])


@settings(max_examples=150, deadline=None)
@given(ROWS)
def test_each_draw_is_a_permutation_unless_a_patient_has_the_majority(rows: list[tuple[int, int]]) -> None:
    classes, groups = np.array(rows).T
    draw = derangements(names(len(rows)), classes, groups, draws=1)[0]
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        largest = np.unique(groups[members], return_counts=True)[1].max()
        if 2 * largest <= len(members):
            assert sorted(draw[members]) == members.tolist()


def test_partners_depend_neither_on_row_order_nor_on_other_classes() -> None:
    classes, groups = np.repeat([0, 1], 12), np.arange(24) // 2
    images = np.array(names(24))
    whole = derangements(images, classes, groups)
    shuffled = np.random.default_rng(0).permutation(24)
    moved = derangements(images[shuffled], classes[shuffled], groups[shuffled])
    assert np.array_equal(images[shuffled][moved], images[whole[:, shuffled]])
    assert np.array_equal(derangements(images[12:], classes[12:], groups[12:]) + 12, whole[:, 12:])


def test_draws_and_seeds_differ_and_repeat() -> None:
    arguments = names(30), np.zeros(30), np.arange(30)
    first = derangements(*arguments)
    assert first.shape == (20, 30)
    assert np.array_equal(first, derangements(*arguments))
    assert len({tuple(draw) for draw in first}) == 20
    assert not np.array_equal(first, derangements(*arguments, seed=1))


def test_every_other_image_is_met_about_equally_often() -> None:
    draws = derangements(names(6), np.zeros(6), np.arange(6), draws=3000)
    met = np.array([(draws[:, 0] == j).sum() for j in range(6)])
    assert met[0] == 0
    assert (abs(met[1:] - 600) < 4 * np.sqrt(3000 * 0.2 * 0.8)).all()  # four standard deviations


def sample() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    before = cam_like(8, (20, 20))
    partners = derangements(names(8), [0] * 6 + [1] * 2, [0, 0, 1, 1, 2, 2, 3, 3], draws=4)
    return before, related(before), partners


@pytest.mark.parametrize("threads", [1, 3])
def test_chance_is_the_pair_metric_of_the_partner(threads: int) -> None:
    before, after, partners = sample()
    scores = partner_metrics(before, after, partners, threads)
    assert scores.names == tuple(column for record in METRICS.values() for column in record.columns)
    for draw in range(4):
        expected = pair_metrics(before[:6], after[partners[draw, :6]])
        for name in scores.names:
            assert np.array_equal(scores.column(name)[0][draw, :6], expected.column(name)[0]), name


def test_a_class_of_one_patient_has_no_chance_level() -> None:
    scores = partner_metrics(*sample())
    assert np.isnan(scores.values[:, 6:]).all()
    assert (scores.reasons[:, 6:] == Reason.NO_PARTNER).all()
    mean = mean_over_draws(scores)
    assert (mean.reasons[6:] == Reason.NO_PARTNER).all()
    assert np.isfinite(mean.values[:6]).all()


def test_each_draw_has_its_shift() -> None:
    raw, _, partners = sample()
    moves = [(0.0, 0.0), (0.1, 0.0), (0.0, -0.05), (0.0, 0.0)]
    scores = partner_metrics(raw, raw, partners, size=(40, 40), shifts=moves)
    for draw, move in enumerate(moves):
        moved = upsample(raw[partners[draw, :6]], (40, 40), shift=move)
        expected = pair_metrics(upsample(raw[:6], (40, 40)), moved)
        assert np.array_equal(scores.values[draw, :6], expected.values)
    with pytest.raises(ValueError, match="there are 4 draws and 1 shifts"):
        partner_metrics(raw, raw, partners, size=(40, 40), shifts=moves[:1])


def test_raw_maps_serve_as_well_as_upsampled_ones() -> None:
    raw, _, partners = sample()
    direct = partner_metrics(raw, raw, partners, size=(30, 25))
    assert direct.values.shape == (4, 8, 23)
    expected = pair_metrics(raw[:6], raw[partners[2, :6]], size=(30, 25))
    assert np.array_equal(direct.column("ssim")[0][2, :6], expected.column("ssim")[0])


def test_chance_is_below_the_score_of_the_own_image() -> None:
    before, after, partners = sample()
    own = pair_metrics(before, after).column("pearson")[0][:6]
    assert mean_over_draws(partner_metrics(before, after, partners)).column("pearson")[0][:6].mean() < own.mean()


def test_mean_over_draws_counts_the_defined_ones() -> None:
    nan, code = np.nan, Reason
    values = np.array([[[0.2, nan, 0.0, nan]], [[0.4, 0.5, 0.0, nan]]])
    reasons = np.array(
        [[[0, code.EMPTY_MAP, code.VANISHED, code.NEGATIVE]], [[0, 0, code.VANISHED, code.EMPTY_MAP]]], np.uint8
    )
    mean = mean_over_draws(PairScores(("a", "b", "c", "d"), values, reasons))
    assert mean.values[0] == pytest.approx([0.3, 0.5, 0.0, nan], nan_ok=True)
    assert mean.reasons[0].tolist() == [code.DEFINED, code.DEFINED, code.VANISHED, code.NEGATIVE]


def test_refusals() -> None:
    before, after, partners = sample()
    with pytest.raises(ValueError, match="images, classes and groups have 3, 2 and 3 rows"):
        derangements(names(3), [0, 0], [0, 1, 2])
    with pytest.raises(ValueError, match="draws must be at least 1"):
        derangements(names(3), [0, 0, 0], [0, 1, 2], draws=0)
    with pytest.raises(ValueError, match=r"partners must be whole numbers \(draws, 8\)"):
        partner_metrics(before, after, partners[:, :5])
    with pytest.raises(ValueError, match=r"partners must lie between -1 \(nobody\) and 7"):
        partner_metrics(before, after, partners + 5)

"""Partners that have nothing to do with an image, and what metrics score on them."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.statistics.chance import derangements, sampled
from kernels.catalogue import METRICS
from kernels.metrics import pair_metrics
from kernels.partners import mean_over_draws, partner_metrics
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


# The sample of many rows


def test_few_rows_are_all_in_the_sample() -> None:
    assert sampled(names(7), [0] * 7, range(7), limit=7).tolist() == list(range(7))
    assert sampled([], [], []).tolist() == []


def literal_sample(images: list[str], classes: list[int], groups: list[int], seed: int, limit: int) -> set[int]:
    """One row after the other, each class in turn, until nothing more fits."""
    queues: dict[int, list[int]] = {}
    for row in sorted(
        range(len(images)), key=lambda i: blake2b(images[i].encode(), digest_size=8, key=b"%d" % seed).digest()
    ):
        queues.setdefault(classes[row], []).append(row)
    share = 1
    while sum(min(len(queue), share + 1) for queue in queues.values()) <= limit:
        share += 1
    chosen = {label: queue[: max(share, 2)] for label, queue in queues.items()}
    for label, rows in chosen.items():
        others = [row for row in queues[label] if groups[row] != groups[rows[0]]]
        if len({groups[row] for row in rows}) == 1 and others:
            rows[-1] = others[0]
    return {row for rows in chosen.values() for row in rows}


@settings(max_examples=150, deadline=None)
@given(ROWS, st.integers(0, 3), st.integers(1, 12))
def test_sample_is_the_literal_one(rows: list[tuple[int, int]], seed: int, limit: int) -> None:
    classes, groups = zip(*rows, strict=True)
    found = sampled(names(len(rows)), classes, groups, seed, limit)
    whole = len(rows) <= limit
    expected = set(range(len(rows))) if whole else literal_sample(names(len(rows)), classes, groups, seed, limit)
    assert found.tolist() == sorted(expected)
    for label in set(classes):
        patients = {group for of, group in rows if of == label}
        assert len({groups[row] for row in found if classes[row] == label}) >= min(2, len(patients))


def test_every_class_gives_as_many_rows_or_all_that_it_has() -> None:
    classes = np.repeat([0, 1, 2], [500, 30, 200])
    found = sampled(names(730), classes, np.arange(730), limit=200)
    assert np.bincount(classes[found]).tolist() == [85, 30, 85]


def test_sample_depends_on_names_and_seed_but_not_on_the_order() -> None:
    classes, groups, images = np.arange(300) % 3, np.arange(300) // 2, np.array(names(300))
    found = sampled(images, classes, groups, seed=4, limit=60)
    order = np.random.default_rng(0).permutation(300)
    moved = sampled(images[order], classes[order], groups[order], seed=4, limit=60)
    assert set(images[order][moved]) == set(images[found])
    assert set(images[sampled(images, classes, groups, seed=5, limit=60)]) != set(images[found])


def test_every_row_is_as_likely_as_any_other() -> None:
    drawn = np.zeros(40)
    for seed in range(2000):
        drawn[sampled(names(40), [0] * 40, range(40), seed, limit=10)] += 1
    assert (abs(drawn - 500) < 4.5 * np.sqrt(2000 * 0.25 * 0.75)).all()  # 4.5 standard deviations, 40 rows


def test_chance_of_a_sample_estimates_the_chance_of_all() -> None:
    """Within four standard errors."""
    before = cam_like(600, (12, 12))
    after, classes, groups = related(before), np.arange(600) % 2, np.arange(600)
    metrics = [METRICS[name] for name in ("iou_top20", "pearson", "js_divergence")]
    whole = partner_metrics(before, after, derangements(names(600), classes, groups, draws=20), metrics=metrics)
    rows = sampled(names(600), classes, groups, limit=150)
    partners = derangements(np.array(names(600))[rows], classes[rows], rows)
    part = partner_metrics(before[rows], after[rows], partners, metrics=metrics)
    for name in whole.names:
        all_rows, some = (mean_over_draws(scores).column(name)[0] for scores in (whole, part))
        assert some.mean() == pytest.approx(all_rows.mean(), abs=4 * all_rows.std() / np.sqrt(150)), name


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
    assert direct.values.shape == (4, 8, sum(len(record.columns) for record in METRICS.values()))
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
    with pytest.raises(ValueError, match="images, classes and groups have 2, 3 and 3 rows"):
        sampled(names(2), [0, 0, 0], [0, 1, 2])
    with pytest.raises(ValueError, match="draws must be at least 1"):
        derangements(names(3), [0, 0, 0], [0, 1, 2], draws=0)
    with pytest.raises(ValueError, match=r"partners must be whole numbers \(draws, 8\)"):
        partner_metrics(before, after, partners[:, :5])
    with pytest.raises(ValueError, match=r"partners must lie between -1 \(nobody\) and 7"):
        partner_metrics(before, after, partners + 5)

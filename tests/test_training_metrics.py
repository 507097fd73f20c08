"""Metrics of a classifier against literal versions and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training import metrics


def literal_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Every pair of a positive and a negative: won, tied or lost."""
    pairs = [(p, n) for p in scores[positive] for n in scores[~positive]]
    return sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs) / len(pairs)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40))
@settings(deadline=None)
def test_auc_counts_pairs(drawn: list[tuple[int, bool]]) -> None:
    scores, positive = np.array([s for s, _ in drawn], float), np.array([p for _, p in drawn])
    found = metrics.macro_auc(scores[:, None], positive[:, None].astype(float))
    if positive.all() or not positive.any():
        assert np.isnan(found[0])
    else:
        assert found[0] == pytest.approx(literal_auc(scores, positive))


def test_weighted_auc_is_auc_of_repeated_images() -> None:
    rng = np.random.default_rng(0)
    scores, targets = rng.integers(0, 5, (30, 3)).astype(float), np.eye(3)[rng.integers(0, 3, 30)]
    weights = rng.integers(0, 4, (5, 30)).astype(float)
    found = metrics.macro_auc(scores, targets, weights)
    for row, counts in enumerate(weights.astype(int)):
        again = np.repeat(np.arange(30), counts)
        assert found[row] == pytest.approx(metrics.macro_auc(scores[again], targets[again])[0])


def test_loss_of_equal_logits_is_log_of_the_number_of_classes() -> None:
    assert metrics.loss(np.zeros((4, 5)), np.eye(5)[:4], multi=False) == pytest.approx(math.log(5))
    assert metrics.loss(np.zeros((4, 5)), np.eye(5)[:4], multi=True) == pytest.approx(math.log(2))
    assert metrics.loss(np.array([[1000.0, -1000.0]]), np.array([[0.0, 1.0]]), multi=False) == pytest.approx(2000)


def test_correct_counts_images_or_decisions() -> None:
    logits, targets = np.array([[2.0, -1, -1], [-1, 3, 1]]), np.array([[1.0, 0, 0], [0, 0, 1]])
    assert metrics.correct(logits, targets, multi=False).tolist() == [1, 0]
    assert metrics.correct(logits, targets, multi=True).tolist() == [1, pytest.approx(2 / 3)]


def test_calibration_error_of_a_known_network() -> None:
    """Always 80 % sure and right in half the cases: off by 0.3."""
    chance = np.tile([0.8, 0.2], (10, 1))
    targets = np.eye(2)[[0, 1] * 5]
    assert metrics.calibration_error(chance, targets, multi=False) == pytest.approx(0.3)
    assert metrics.calibration_error(targets, targets, multi=False) == 0
    assert metrics.calibration_error(np.full((8, 2), 0.5), np.eye(2)[[0, 1] * 4], multi=True) == 0


def test_calibration_error_is_the_literal_sum_over_bins() -> None:
    rng = np.random.default_rng(1)
    logits, targets = 2 * rng.standard_normal((200, 4)), np.eye(4)[rng.integers(0, 4, 200)]
    chance = metrics.probabilities(logits, multi=False)
    top, total = chance.max(axis=1), 0.0
    hit = chance.argmax(axis=1) == targets.argmax(axis=1)
    for k in range(15):
        inside = (top >= k / 15) & (top < (k + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(top[inside].mean() - hit[inside].mean())
    assert metrics.calibration_error(chance, targets, multi=False) == pytest.approx(total)


def test_recall_of_an_absent_class_is_undefined() -> None:
    found = metrics.recalls(np.array([[1.0, 0, 0], [1, 0, 0]]), np.array([[1.0, 0, 0], [0, 1, 0]]), multi=False)
    assert found[:2].tolist() == [1, 0]
    assert np.isnan(found[2])


def test_resamples_draw_whole_patients() -> None:
    groups = np.array([str(k // 3) for k in range(90)])
    weights = metrics.patient_resamples(groups, seed=0)
    assert weights is not None
    assert np.array_equal(weights[:, 0::3], weights[:, 1::3])
    assert np.all(weights.sum(axis=1) == 90)
    assert metrics.patient_resamples(groups[:57], seed=0) is None  # 19 patients


def test_interval_covers_a_known_rate() -> None:
    """Accuracy of 400 independent patients at p = 0.8: the normal interval is +-1.96 * sqrt(p q / n)."""
    right = np.arange(400) % 5 != 0
    logits = np.where(right[:, None], [[1.0, 0.0]], [[0.0, 1.0]])
    targets = np.tile([1.0, 0.0], (400, 1))
    targets[0] = [0.0, 1.0]  # both classes occur; image 0 is wrong for class 0, so right now
    found = metrics.summary(logits, targets, np.arange(400).astype(str), ("a", "b"), multi=False)
    half = 1.96 * math.sqrt(0.8 * 0.2 / 400)
    assert found["accuracy_interval"] == pytest.approx([found["accuracy"] - half, found["accuracy"] + half], abs=0.008)


def test_summary_is_json_without_nan() -> None:
    found = metrics.summary(np.zeros((3, 2)), np.eye(2)[[0, 0, 0]], np.array(["1", "2", "3"]), ("a", "b"), multi=False)
    assert found["auc"] is None
    assert found["recall"]["b"] is None
    assert found["accuracy_interval"] is None

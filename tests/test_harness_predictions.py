"""Accuracy, AUC, calibration and agreement against loops, SciPy and closed forms."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from harness.common.errors import InputError
from harness.evaluation.classification_metrics import Quality, agreement, qualities
from harness.models.score_kinds import decisions
from harness.statistics.bootstrap import Resampling, interval
from tests import made_results


def study(n: int = 120, classes: int = 4, seed: int = 0, digits: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(probabilities with ties, one-hot truth, patients): 40 % of the probability mass is pulled to the truth."""
    rng = np.random.default_rng(seed)
    truth = np.eye(classes, dtype=bool)[rng.integers(0, classes, n)]
    probabilities = np.round(0.6 * rng.dirichlet(np.ones(classes), n) + 0.4 * truth * rng.random((n, 1)), digits)
    return probabilities, truth, rng.integers(0, n // 2, n)


def labels(n: int = 120, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(probabilities, truth with none, one or several labels, patients)."""
    rng = np.random.default_rng(seed)
    truth = rng.random((n, classes)) < 0.3
    return np.round(0.7 * rng.random((n, classes)) + 0.3 * truth, 2), truth, rng.integers(0, n // 2, n)


def slow_ece(confidence: list[float], right: list[bool]) -> float:
    """Guo et al. 2017, equation 3, one decision at a time."""
    total = 0.0
    for b in range(15):
        members = [i for i, c in enumerate(confidence) if b / 15 < c <= (b + 1) / 15 or (b == 0 and c == 0)]
        if members:
            accuracy = sum(right[i] for i in members) / len(members)
            total += len(members) / len(confidence) * abs(accuracy - sum(confidence[i] for i in members) / len(members))
    return total


def slow_auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Every pair of a positive and a negative image of every class."""
    areas = []
    for k in range(truth.shape[1]):
        positive, negative = scores[truth[:, k], k], scores[~truth[:, k], k]
        wins = [float(p > q) + 0.5 * float(p == q) for p in positive for q in negative]
        if wins:
            areas.append(sum(wins) / len(wins))
    return sum(areas) / len(areas)


@pytest.mark.parametrize("kind", ["binary", "softmax", "multilabel"])
def test_sure_answers_keep_their_order(kind: str) -> None:
    """Logits up to 30, as float32: their probabilities are apart by less than float32 can tell."""
    margins = np.array([18, 20, 22, 24, 26, 30], np.float32)[:, None]
    logits = {"binary": margins, "softmax": np.hstack([-margins, margins]) / 2, "multilabel": margins}[kind]
    metadata = made_results.checkpoint("a", 0.5).metadata.model_copy(update={"score_kind": kind})
    found = metadata.probabilities(logits)
    assert (np.diff(found[:, -1]) > 0).all()
    if kind != "multilabel":
        assert (np.diff(found[:, 0]) < 0).all()
        np.testing.assert_allclose(found[:, 0], np.exp(-margins[:, 0].astype(float)), rtol=1e-6)


def drawn_images(resampling: Resampling) -> list[np.ndarray]:
    """The images of each draw, repeated as often as their patient was drawn."""
    weights = np.concatenate([chunk for _, chunk in resampling.image_weights()])
    return [np.repeat(np.arange(resampling.images), row.astype(int)) for row in weights]


def test_single_label_values_agree_with_loops() -> None:
    p, truth, groups = study()
    found = qualities(p, truth, Resampling(groups, seed=0, resamples=10), "softmax")
    said = p.argmax(axis=1)
    right = [bool(truth[i, said[i]]) for i in range(len(p))]
    assert found["accuracy"].value == pytest.approx(sum(right) / len(right))
    assert found["ece"].value == pytest.approx(slow_ece([p[i, said[i]] for i in range(len(p))], right))
    assert found["auc"].value == pytest.approx(slow_auc(p, truth))


def test_multi_label_values_agree_with_loops() -> None:
    p, truth, groups = labels()
    thresholds = [0.5, 0.3, 0.7, 0.42]
    found = qualities(p, truth, Resampling(groups, seed=0, resamples=10), "multilabel", thresholds)
    pairs = [(i, k) for i in range(len(p)) for k in range(4)]
    right = [bool((p[i, k] >= thresholds[k]) == truth[i, k]) for i, k in pairs]
    assert found["accuracy"].value == pytest.approx(sum(right) / len(right))
    even = [bool((p[i, k] >= 0.5) == truth[i, k]) for i, k in pairs]
    assert found["ece"].value == pytest.approx(slow_ece([max(p[i, k], 1 - p[i, k]) for i, k in pairs], even))
    assert found["auc"].value == pytest.approx(slow_auc(p, truth))


def test_auc_agrees_with_the_mann_whitney_statistic() -> None:
    p, truth, groups = study(n=300, seed=4)
    expected = [
        stats.mannwhitneyu(p[truth[:, k], k], p[~truth[:, k], k]).statistic / (truth[:, k].sum() * (~truth[:, k]).sum())
        for k in range(4)
    ]
    assert qualities(p, truth, Resampling(groups, 0, 10), "softmax")["auc"].value == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("kind", ["softmax", "multilabel"])
def test_every_draw_is_the_value_on_the_drawn_images(kind: str) -> None:
    """Witness: repeat the images of the drawn patients and compute the value on them from the start."""
    p, truth, groups = study(n=40) if kind == "softmax" else labels(n=40)
    resampling = Resampling(groups, seed=3, resamples=30)
    found = qualities(p, truth, resampling, kind)
    for r, images in enumerate(drawn_images(resampling)):
        again = qualities(p[images], truth[images], Resampling(np.arange(len(images)), 0, 1), kind)
        for name in ("accuracy", "auc", "ece"):
            assert found[name].distribution[r] == pytest.approx(again[name].value, abs=1e-12)
        assert found["auc"].distribution[r] == pytest.approx(slow_auc(p[images], truth[images]))


def test_a_class_without_positives_leaves_the_mean() -> None:
    """Class 2 has one positive, of one patient; draws without that patient have the AUC of classes 0 and 1."""
    p, truth, _ = study(n=30, classes=3, seed=1)
    truth = np.eye(3, dtype=bool)[np.where(np.arange(30) == 0, 2, np.arange(30) % 2)]
    resampling = Resampling(np.arange(30), seed=0, resamples=100)
    found = qualities(p, truth, resampling, "softmax")["auc"].distribution
    drawn = drawn_images(resampling)
    without = [r for r, images in enumerate(drawn) if 0 not in images]
    assert 15 < len(without) < 60
    for r in without:
        assert found[r] == pytest.approx(slow_auc(p[drawn[r]][:, :2], truth[drawn[r]][:, :2]))


def test_perfect_and_uninformative_scores() -> None:
    truth = np.eye(3, dtype=bool)[np.arange(60) % 3]
    resampling = Resampling(np.arange(60), seed=0, resamples=200)
    perfect = qualities(truth.astype(float), truth, resampling, "softmax")
    assert [perfect[name].value for name in ("accuracy", "auc", "ece")] == [1.0, 1.0, 0.0]
    assert (perfect["auc"].distribution == 1.0).all()
    flat = qualities(np.full((60, 3), 1 / 3), truth, resampling, "softmax")
    assert flat["auc"].value == 0.5
    assert flat["accuracy"].value == pytest.approx(1 / 3)
    assert flat["ece"].value == pytest.approx(0.0, abs=1e-12)


def test_ece_of_a_constant_confidence_is_the_gap() -> None:
    truth = np.eye(2, dtype=bool)[(np.arange(50) < 10).astype(int)]  # class 1 in 20 %
    probabilities = np.tile([0.1, 0.9], (50, 1))
    found = qualities(probabilities, truth, Resampling(np.arange(50), 0, 10), "binary")
    assert found["ece"].value == pytest.approx(0.7)
    assert found["accuracy"].value == pytest.approx(0.2)


def test_ece_counts_a_confidence_on_an_edge_in_the_bin_below() -> None:
    """0.6 = 9 / 15 shares a bin with 0.58 and not with 0.62: (|0.4 - 0.58| + 0.38) / 3."""
    confidence = np.array([0.58, 0.6, 0.62])
    truth = np.array([[True, False], [False, True], [False, True]])
    found = qualities(np.stack([1 - confidence, confidence], axis=1), truth, Resampling(np.arange(3), 0, 10), "binary")
    assert found["ece"].value == pytest.approx(0.56 / 3)


def test_auc_of_normal_scores_agrees_with_its_closed_form() -> None:
    """Positives N(1, 1), negatives N(0, 1): AUC = Phi(1 / sqrt(2)); the interval holds it."""
    rng = np.random.default_rng(0)
    positive = np.arange(4_000) < 2_000
    scores = stats.norm.cdf(rng.normal(positive.astype(float), 1.0))
    p, truth = np.stack([1 - scores, scores], axis=1), np.stack([~positive, positive], axis=1)
    found = qualities(p, truth, Resampling(np.arange(4_000), 0, 1_000), "binary")["auc"]
    exact = stats.norm.cdf(1 / math.sqrt(2))
    assert found.value == pytest.approx(exact, abs=0.02)
    ends = interval(found.distribution, found.n_patients)
    assert ends.low < exact < ends.high
    # Hanley & McNeil 1982: standard error of the area
    q1, q2 = exact / (2 - exact), 2 * exact**2 / (1 + exact)
    error = math.sqrt((exact * (1 - exact) + 1999 * (q1 - exact**2) + 1999 * (q2 - exact**2)) / 2_000**2)
    assert found.distribution.std() == pytest.approx(error, rel=0.15)


def test_unreadable_images_leave_everything_else_unchanged() -> None:
    p, truth, groups = study(n=60)
    extended = np.vstack([p, np.full((5, 4), np.nan)])
    extended[-1] = [np.nan, 0.5, 0.25, 0.25]
    longer = Resampling(np.append(groups, groups[:5]), seed=2, resamples=50)
    found = qualities(extended, np.vstack([truth, truth[:5]]), longer, "softmax")
    expected = qualities(p, truth, Resampling(groups, seed=2, resamples=50), "softmax")
    for name, quality in found.items():
        assert quality.value == pytest.approx(expected[name].value)
        assert quality.n_patients == expected[name].n_patients == len(set(groups))
        np.testing.assert_allclose(quality.distribution, expected[name].distribution, atol=1e-12)


def test_order_of_the_images_does_not_matter() -> None:
    p, truth, groups = study(n=60)
    order = np.random.default_rng(0).permutation(60)
    first = qualities(p, truth, Resampling(groups, 2, 50), "softmax")
    second = qualities(p[order], truth[order], Resampling(groups[order], 2, 50), "softmax")
    for name in first:
        np.testing.assert_allclose(first[name].distribution, second[name].distribution, atol=1e-12)


def test_change_of_two_checkpoints_is_joint() -> None:
    """The same checkpoint twice has no change in any draw, although each draw has another accuracy."""
    p, truth, groups = study()
    resampling = Resampling(groups, seed=0, resamples=50)
    before, after = (qualities(p, truth, resampling, "softmax") for _ in range(2))
    for name in before:
        assert (after[name].distribution - before[name].distribution == 0).all()
        assert before[name].distribution.std() > 0


def is_undefined(quality: Quality, reason: str) -> bool:
    return quality.reason == reason and math.isnan(quality.value) and bool(np.isnan(quality.distribution).all())


def test_auc_of_one_class_is_undefined() -> None:
    p, _, groups = study(n=30)
    truth = np.tile([False, True, False, False], (30, 1))
    found = qualities(p, truth, Resampling(groups, 0, 10), "softmax")
    assert is_undefined(found["auc"], "one_class")
    assert found["accuracy"].reason is None


def test_no_readable_image_leaves_everything_undefined() -> None:
    p, truth, groups = study(n=30)
    found = qualities(np.full_like(p, np.nan), truth, Resampling(groups, 0, 10), "softmax")
    assert all(is_undefined(quality, "no_images") and quality.n_patients == 0 for quality in found.values())


def test_decisions() -> None:
    p = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    assert decisions(p, "softmax").tolist() == [[True, False, False], [False, False, True]]
    assert decisions(p, "multilabel").tolist() == [[True, True, False], [False, False, True]]
    assert decisions(p, "multilabel", [0.6, 0.3, 0.0]).tolist() == [[False, True, True], [False, True, True]]


def test_agreement_agrees_with_a_loop() -> None:
    before, _, groups = study(seed=1)
    after, _, _ = study(seed=2)
    after[7] = np.nan
    found = agreement(before, after, Resampling(groups, 0, 50), "softmax")
    same = [before[i].argmax() == after[i].argmax() for i in range(len(before)) if i != 7]
    assert found.value == pytest.approx(sum(same) / len(same))
    assert found.distribution.mean() == pytest.approx(found.value, abs=0.05)


def test_agreement_of_labels_uses_the_thresholds_of_each_checkpoint() -> None:
    p, _, groups = labels()
    resampling = Resampling(groups, 0, 10)
    assert agreement(p, p, resampling, "multilabel", [0.3] * 4).value == 1.0
    found = agreement(p, p, resampling, "multilabel", [0.3] * 4, after_thresholds=[0.6] * 4).value
    assert found == pytest.approx(1 - ((p >= 0.3) & (p < 0.6)).mean())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "regression"}, "the score kind 'regression' is not known: give one of softmax, binary, multilabel"),
        ({"kind": "multilabel", "thresholds": [0.5]}, "there are 1 thresholds for 4 classes"),
        ({"probabilities": np.zeros((29, 4))}, r"shape \(29, 4\), and there are 30 images: give one row per image"),
        ({"probabilities": np.zeros((30, 0))}, "one column per class"),
        ({"probabilities": np.full((30, 4), 1.5)}, r"row 0 of the probabilities leaves 0\.\.1: apply softmax"),
        ({"truth": np.zeros((30, 3), dtype=bool)}, r"truth has shape \(30, 3\), the probabilities \(30, 4\)"),
        (
            {"truth": np.zeros((30, 4), dtype=bool)},
            "row 0 of the truth has 0 classes: a softmax model needs exactly one",
        ),
    ],
)
def test_input_that_does_not_fit_is_refused(change: dict, message: str) -> None:
    p, truth, groups = study(n=30)
    given = {"probabilities": p, "truth": truth, "kind": "softmax", "thresholds": None, **change}
    with pytest.raises(InputError, match=message):
        qualities(resampling=Resampling(groups, 0, 10), **given)


def test_models_with_other_classes_do_not_agree_or_disagree() -> None:
    with pytest.raises(InputError, match="one model has 4 classes and the other 3"):
        agreement(np.zeros((30, 4)), np.zeros((30, 3)), Resampling(np.arange(30), 0, 10), "softmax")


@pytest.mark.slow
def test_memory_of_a_large_evaluation_is_bounded() -> None:
    p, truth, groups = study(n=20_000, classes=5)
    resampling = Resampling(groups, 0, resamples=500)
    tracemalloc.start()
    qualities(p, truth, resampling, "softmax")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * 2**20

"""How well a checkpoint classifies: accuracy, AUC and calibration, and how often two checkpoints agree.

Every quality comes with its distribution over the draws of one `Resampling`, so before, after, their change and the
difference between architectures are joint: subtract the distributions element by element.

Shapes: n images, K classes, R resamples. Probabilities (n, K) lie in 0..1, softmax or sigmoid applied; a row with a
NaN is an image that could not be read, and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from harness.common.errors import InputError
from harness.models.score_kinds import MULTI_LABEL, decisions
from harness.statistics.bootstrap import NO_IMAGES, Resampling, mean_of_defined
from kernels.weighted_ranking import weight_beaten

BINS = 15  # of the expected calibration error, as in Guo et al. 2017
ONE_CLASS = "one_class"


@dataclass(frozen=True, eq=False)
class Quality:
    """A number between 0 and 1 with its distribution (R,) over the draws; NaN with a reason where undefined."""

    value: float
    distribution: np.ndarray
    n_patients: int
    reason: str | None = None


def qualities(
    probabilities: np.ndarray,
    truth: np.ndarray,
    resampling: Resampling,
    kind: str,
    thresholds: Sequence[float] | None = None,
) -> dict[str, Quality]:
    """`accuracy`, `auc` and `ece` of one checkpoint; see the functions of these names.

    :param probabilities: (n, K), rows of NaN for images that could not be read.
    :param truth: (n, K) bool; exactly one per row for a single label, any number for `multilabel`.
    :param kind: score kind: `softmax`, `binary` (with K = 2 columns) or `multilabel`.
    :param thresholds: (K,) least probability of a positive decision, `multilabel` only; 0.5 by default.
    :raises InputError: for shapes that do not fit, values outside 0..1, an unknown kind, a missing true class.
    """
    probabilities = _checked(probabilities, resampling.images)
    truth = _checked_truth(truth, probabilities, kind)
    decided = decisions(probabilities, kind, thresholds)
    return {
        "accuracy": accuracy(probabilities, decided, truth, resampling, kind),
        "auc": auc(probabilities, truth, resampling),
        "ece": ece(probabilities, truth, resampling, kind),
    }


def agreement(
    before: np.ndarray,
    after: np.ndarray,
    resampling: Resampling,
    kind: str,
    thresholds: Sequence[float] | None = None,
    after_thresholds: Sequence[float] | None = None,
) -> Quality:
    """Share of images (for `multilabel` of image and label) on which two checkpoints decide alike, 0..1.

    :param before, after: (n, K) probabilities; images that either could not read are left out.
    :param thresholds: of `before`, and of `after` too unless it has its own.
    """
    before, after = _checked(before, resampling.images), _checked(after, resampling.images)
    if before.shape != after.shape:
        raise InputError(
            f"one model has {before.shape[1]} classes and the other {after.shape[1]}: compare like with like"
        )
    first = decisions(before, kind, thresholds)
    second = decisions(after, kind, thresholds if after_thresholds is None else after_thresholds)
    return accuracy(before + after, first, second, resampling, kind)


def accuracy(
    probabilities: np.ndarray, decided: np.ndarray, truth: np.ndarray, resampling: Resampling, kind: str
) -> Quality:
    """Share of images whose decision is the true class; for `multilabel` the mean share of labels that are right.

    :param probabilities: (n, K), used for which images were read.
    :param decided, truth: (n, K) bool.
    """
    same = (decided == truth).astype(np.float64)  # (n, K)
    right = same.mean(axis=1) if kind == MULTI_LABEL else same.min(axis=1)
    right[~_readable(probabilities)] = np.nan
    return _of_means(right[:, None], resampling)


def ece(probabilities: np.ndarray, truth: np.ndarray, resampling: Resampling, kind: str) -> Quality:
    """Expected calibration error of the top label: sum_b (n_b / n) |accuracy_b - confidence_b|, 0..1.

    15 bins of equal width, (b / 15, (b + 1) / 15]. The confidence is the largest probability; for `multilabel`
    every image and label is a decision with confidence max(p, 1 - p), taken at 0.5 whatever the thresholds are.
    n_b / n times the gap is the mean of (right - confidence) over all decisions, with 0 outside the bin, so the draws
    need only means. The error is a sum of magnitudes: its draws lie above its value where bins hold few images.

    Source: Naeini, Cooper & Hauskrecht 2015 (AAAI); Guo et al. 2017, arXiv 1706.04599.
    """
    if kind == MULTI_LABEL:
        confidence = np.maximum(probabilities, 1 - probabilities)  # (n, decisions)
        right = (probabilities >= 0.5) == truth
    else:
        confidence = probabilities.max(axis=1, keepdims=True)
        right = np.take_along_axis(truth, probabilities.argmax(axis=1)[:, None], axis=1)
    bins = np.clip(np.ceil(confidence * BINS) - 1, 0, BINS - 1)
    gap = np.stack([np.where(bins == b, right - confidence, 0.0).mean(axis=1) for b in range(BINS)], axis=1)
    gap[~_readable(probabilities)] = np.nan  # (n, bins)
    return _of_means(gap, resampling)


def _of_means(values: np.ndarray, resampling: Resampling) -> Quality:
    """Sum of the magnitudes of the columns' means; the columns of values (n, C) are defined on the same images."""
    readable = np.isfinite(values[:, 0])
    if not readable.any():
        return _undefined(resampling, 0, NO_IMAGES)
    value = float(np.abs(values[readable].mean(axis=0)).sum())
    patients = int(resampling.n_patients(values[:, :1])[0])
    return Quality(value, np.abs(resampling.means(values)).sum(axis=1), patients)


@dataclass(frozen=True, eq=False)
class _OneAgainstRest:
    """The images of one class and the others, each in ascending order of the score of the class.

    `below` and `upto` are the numbers of negatives with a lower, and with a lower or equal score, of each positive.
    """

    positives: np.ndarray
    negatives: np.ndarray
    below: np.ndarray
    upto: np.ndarray

    def auc(self, weights: np.ndarray) -> np.ndarray:
        """(r,) AUC for weights (n, r); NaN where positives or negatives weigh nothing."""
        beaten, negative = weight_beaten(weights, self.positives, self.negatives, self.below, self.upto)
        with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of a draw without positives or negatives
            return beaten / (weights[self.positives].sum(axis=0) * negative)


def auc(probabilities: np.ndarray, truth: np.ndarray, resampling: Resampling) -> Quality:
    """Macro one-vs-rest area under the ROC curve, 0..1, and 0.5 for scores that tell nothing.

    AUC of class k = P(score of a positive > score of a negative) + P(equal) / 2, with images weighted by the draw;
    the mean runs over the classes that have both positives and negatives, in each draw anew. Undefined
    (`one_class`) where no class has both.

    Source: Hanley & McNeil 1982, doi:10.1148/radiology.143.1.7063747.
    """
    readable = _readable(probabilities)
    patients = int(resampling.n_patients(np.where(readable, 1.0, np.nan)[:, None])[0])
    classes = list(_two_sided_classes(probabilities, truth, readable))
    if not classes:
        return _undefined(resampling, patients, ONE_CLASS if readable.any() else NO_IMAGES)
    distribution = np.empty(resampling.resamples)
    for rows, weights in resampling.image_weights():
        distribution[rows] = mean_of_defined(np.stack([one.auc(weights.T) for one in classes]))
    ones = np.ones((resampling.images, 1))
    value = float(np.mean([one.auc(ones)[0] for one in classes]))
    return Quality(value, distribution, patients)


def _two_sided_classes(probabilities: np.ndarray, truth: np.ndarray, readable: np.ndarray) -> Iterator[_OneAgainstRest]:
    """The classes that have both positives and negatives among the readable images."""
    for scores, positive in zip(probabilities.T, truth.T, strict=True):
        ascending = np.argsort(np.where(readable, scores, np.inf), kind="stable")[: np.count_nonzero(readable)]
        positives, negatives = ascending[positive[ascending]], ascending[~positive[ascending]]
        if not (positives.size and negatives.size):
            continue
        below, upto = (np.searchsorted(scores[negatives], scores[positives], side) for side in ("left", "right"))
        yield _OneAgainstRest(positives, negatives, below, upto)


def _undefined(resampling: Resampling, n_patients: int, reason: str) -> Quality:
    return Quality(float("nan"), np.full(resampling.resamples, np.nan), n_patients, reason)


def _readable(probabilities: np.ndarray) -> np.ndarray:
    return np.isfinite(probabilities).all(axis=1)


def _checked(probabilities: np.ndarray, images: int) -> np.ndarray:
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or len(probabilities) != images or not probabilities.shape[1]:
        raise InputError(
            f"the probabilities have shape {probabilities.shape}, and there are {images} images: "
            "give one row per image and one column per class"
        )
    outside = np.flatnonzero(((probabilities < 0) | (probabilities > 1)).any(axis=1))
    if outside.size:
        raise InputError(f"row {outside[0]} of the probabilities leaves 0..1: apply softmax or sigmoid to logits first")
    return probabilities


def _checked_truth(truth: np.ndarray, probabilities: np.ndarray, kind: str) -> np.ndarray:
    truth = np.asarray(truth, dtype=bool)
    if truth.shape != probabilities.shape:
        raise InputError(f"truth has shape {truth.shape}, the probabilities {probabilities.shape}: make them equal")
    count = truth.sum(axis=1)
    if kind != MULTI_LABEL and (count != 1).any():
        row = int(np.flatnonzero(count != 1)[0])
        raise InputError(f"row {row} of the truth has {count[row]} classes: a {kind} model needs exactly one per image")
    return truth

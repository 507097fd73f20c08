"""How well logits predict labels: loss, accuracy, macro-AUC with a patient-bootstrap interval, calibration, recall.

Shapes: logits and targets (N, K), groups (N,). Targets are 0 or 1: one per row, or any number with multi-label.
An undefined value (a class without positives or without negatives) is NaN, and None in JSON.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.special import expit, log_expit, log_softmax, softmax

RESAMPLES, BINS, LEVEL = 2000, 15, 0.95
MIN_PATIENTS = 20  # fewer carry no bootstrap interval (the project's rule for every interval)


def probabilities(logits: np.ndarray, multi: bool) -> np.ndarray:
    """Softmax over the classes, or with multi-label a sigmoid per class."""
    logits = logits.astype(np.float64)  # in float32 sure answers would be equal, and lose their order
    return expit(logits) if multi else softmax(logits, axis=1)


def loss(logits: np.ndarray, targets: np.ndarray, multi: bool) -> float:
    """Mean cross-entropy in nats, without class weights or label smoothing, so that runs compare."""
    logits = logits.astype(np.float64)
    if multi:
        return float(-np.mean(targets * log_expit(logits) + (1 - targets) * log_expit(-logits)))
    return float(-np.mean(np.sum(targets * log_softmax(logits, axis=1), axis=1)))


def correct(logits: np.ndarray, targets: np.ndarray, multi: bool) -> np.ndarray:
    """Share of right decisions per image, (N,): 0 or 1, or with multi-label the share of its K decisions."""
    if multi:
        return np.mean((logits > 0) == (targets > 0.5), axis=1)
    return (logits.argmax(axis=1) == targets.argmax(axis=1)).astype(float)


def macro_auc(scores: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean over classes of the one-vs-rest area under the ROC curve; ties count half (Mann-Whitney).

    `weights` (R, N) gives R results, shape (R,): image i counts weights[r, i] times. Without it R = 1.
    """
    weights = np.ones((1, len(scores))) if weights is None else weights
    return np.mean([_auc(scores[:, k], targets[:, k] > 0.5, weights) for k in range(scores.shape[1])], axis=0)


def _auc(score: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted P(score of a positive > score of a negative) + P(equal) / 2, for each row of `weights`."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))  # first of each run of ties
    ups = np.add.reduceat((weights * positive)[:, order], starts, axis=1)  # (R, distinct scores)
    downs = np.add.reduceat((weights * ~positive)[:, order], starts, axis=1)
    below = np.cumsum(downs, axis=1) - downs / 2
    pairs = ups.sum(axis=1) * downs.sum(axis=1)
    won = np.sum(ups * below, axis=1)
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def calibration_error(chance: np.ndarray, targets: np.ndarray, multi: bool) -> float:
    """Expected calibration error: mean |confidence - hit rate| over 15 equal-width bins, weighted by their size.

    Of the top label (Guo 2017, arXiv 1706.04599); with multi-label of every (image, class) probability.
    """
    if multi:
        confidence, hit = chance.ravel(), targets.ravel() > 0.5
    else:
        top = chance.argmax(axis=1)
        confidence, hit = chance[np.arange(len(top)), top], top == targets.argmax(axis=1)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, confidence - hit, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def recalls(logits: np.ndarray, targets: np.ndarray, multi: bool) -> np.ndarray:
    """Share of each class's images that are predicted as it, (K,)."""
    predicted = logits > 0 if multi else np.eye(logits.shape[1], dtype=bool)[logits.argmax(axis=1)]
    total = targets.sum(axis=0, dtype=np.float64)
    return np.divide((predicted * targets).sum(axis=0), total, out=np.full(len(total), np.nan), where=total > 0)


def patient_resamples(groups: np.ndarray, seed: int) -> np.ndarray | None:
    """How often each image counts in each of R bootstrap samples of patients, (R, N); None below 20 patients."""
    names, member = np.unique(groups, return_inverse=True)
    if len(names) < MIN_PATIENTS:
        return None
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    return drawn[:, member].astype(float)


def interval(values: np.ndarray) -> list[float] | None:
    """95 % percentile interval, over the defined resamples."""
    defined = values[np.isfinite(values)]
    if not defined.size:
        return None
    return [float(edge) for edge in np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


def summary(
    logits: np.ndarray, targets: np.ndarray, groups: np.ndarray, classes: tuple[str, ...], multi: bool
) -> dict[str, Any]:
    """Every metric of one split, ready for JSON."""
    chance, right = probabilities(logits.astype(np.float64), multi), correct(logits, targets, multi)
    weights = patient_resamples(groups, seed=0)
    spread = None if weights is None else interval(macro_auc(chance, targets, weights))
    accuracies = None if weights is None else interval(weights @ right / weights.sum(axis=1))
    return {
        "images": len(logits),
        "patients": len(np.unique(groups)),
        "loss": loss(logits, targets, multi),
        "accuracy": float(right.mean()),
        "accuracy_interval": accuracies,
        "auc": or_none(float(macro_auc(chance, targets)[0])),
        "auc_interval": spread,
        "calibration_error": calibration_error(chance, targets, multi),
        "recall": dict(zip(classes, map(or_none, recalls(logits, targets, multi).tolist()), strict=True)),
    }


def or_none(value: float) -> float | None:
    """NaN has no place in JSON."""
    return value if math.isfinite(value) else None

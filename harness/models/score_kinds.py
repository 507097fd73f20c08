"""What logits mean: the kinds of score, and the classes that a model decides for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.common.errors import InputError

SINGLE_LABEL = ("softmax", "binary")
MULTI_LABEL = "multilabel"


def decisions(probabilities: np.ndarray, kind: str, thresholds: Sequence[float] | None = None) -> np.ndarray:
    """(n, K) bool: the most probable class (the first of equals), or every class at or above its threshold."""
    classes = probabilities.shape[1]
    if kind == MULTI_LABEL:
        least = np.full(classes, 0.5) if thresholds is None else np.asarray(thresholds, dtype=np.float64)
        if least.shape != (classes,):
            raise InputError(f"there are {least.size} thresholds for {classes} classes: give one threshold per class")
        return probabilities >= least
    if kind not in SINGLE_LABEL:
        known = ", ".join((*SINGLE_LABEL, MULTI_LABEL))
        raise InputError(f"the score kind {kind!r} is not known: give one of {known}")
    return np.arange(classes) == probabilities.argmax(axis=1)[:, None]


def margins(logits: np.ndarray, target: np.ndarray, kind: str) -> np.ndarray:
    """(n,) float64: by how much the logits speak for class `target` (n,) rather than for any other.

    softmax: the class's logit minus the largest other one; binary: the one logit, for class 0 its negative;
    multi-label: the class's own logit, the log-odds of yes.
    """
    logits = np.asarray(logits, np.float64)
    if kind == "binary":
        return logits[:, 0] * np.where(np.asarray(target) == 1, 1, -1)
    own = np.take_along_axis(logits, np.asarray(target)[:, None], axis=1)[:, 0]
    if kind == MULTI_LABEL:
        return own
    others = np.where(np.arange(logits.shape[1]) == np.asarray(target)[:, None], -np.inf, logits)
    return own - others.max(axis=1)

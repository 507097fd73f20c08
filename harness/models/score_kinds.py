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

"""The score that is explained, computed from logits in NumPy."""

from __future__ import annotations

import numpy as np


def explained_score(logits: np.ndarray, target: np.ndarray, score_kind: str, probability: bool) -> np.ndarray:
    """(N,) explained scores. A binary model has one logit; argmax of one column is class 0, its negative."""
    if probability:
        logits = scores_to_probabilities(logits, score_kind)
    chosen = np.take_along_axis(logits, target[:, None], axis=1)[:, 0]
    return -chosen if score_kind == "binary" else chosen


def scores_to_probabilities(logits: np.ndarray, score_kind: str) -> np.ndarray:
    """Softmax over classes, or a sigmoid per class."""
    if score_kind != "softmax":
        return 1 / (1 + np.exp(-logits))
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)

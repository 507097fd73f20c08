"""The score that is explained, computed from logits in NumPy, and whether scores are logits or probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

AMPLITUDES = (1.0, 4.0, 20.0)  # of the noise probes, in ranges of grey levels
ROUNDING = 1e-5  # by which probabilities leave 0..1 in float32
SUMS = 1e-3  # relative spread of the sums of probabilities, which half precision may have


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


@dataclass(frozen=True)
class Probabilities:
    """Scores that are probabilities: `total` is what they sum to on each image, None where each stands alone."""

    total: float | None

    def __str__(self) -> str:
        return "lie in 0..1" if self.total is None else f"lie in 0..{self.total:.4g} and sum to {self.total:.4g}"


def probabilities_in(values: np.ndarray, varying: bool = True) -> Probabilities | None:
    """What the numbers (N, K) of an output show, None where they are no probabilities.

    :param varying: whether numbers that are the same on every image show nothing.
    """
    values = values[np.isfinite(values).all(axis=1)].astype(np.float64)
    if not len(values) or (varying and np.ptp(values, axis=0).max() <= ROUNDING):
        return None
    sums = values.sum(axis=1)
    total = float(np.median(sums))
    if values.shape[1] > 1 and values.min() >= -ROUNDING * total and np.ptp(sums) <= SUMS * total:
        return Probabilities(total)
    return Probabilities(None) if values.min() >= -ROUNDING and values.max() <= 1 + ROUNDING else None


def probes(size: Sequence[int]) -> np.ndarray:
    """(n, H, W): black, white, and noise of growing amplitude around grey."""
    rng = np.random.default_rng(0)
    noise = [128 + 255 * scale * rng.normal(size=(2, *size)) for scale in AMPLITUDES]
    flat = [np.full((1, *size), grey) for grey in (0.0, 255.0)]
    return np.concatenate([*flat, *noise]).astype(np.float32)

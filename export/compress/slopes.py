"""Gradients against slopes: central differences of the part of a graph behind a CAM layer.

For sources that have no gradients of their own (a foreign ONNX file, a compressed graph). In float32, across kinks,
slopes and right gradients agree to a relative L2 error of 0.2, which no wrong rule has come near.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from export.proof.parity import Difference, difference
from export.proof.sessions import open_session, run

DIRECTIONS = 16
STEP = 1e-3  # of the central differences, relative to the activations' standard deviation
ABOVE_ROUNDING = 30.0  # times the rounding of a score, that its changes must have on average


def compare_slopes(
    tail: bytes, name: str, a: np.ndarray, g: np.ndarray, score: Callable[[np.ndarray], np.ndarray]
) -> Difference:
    """Gradients g at activations a, both (N, C, h, w), against central differences along seeded directions of noise.

    Where the score hardly varies (a saturated probability), noise alone drowns in rounding. Then the gradient itself is
    added to each direction, which lets less be seen: that g points uphill, and how steep it is.

    :param tail: the part of the graph from tensor `name`, which holds a, to the logits.
    :param score: (N, K) logits to the explained score (N,).
    """
    session = open_session(tail, "disabled")

    def scores(moved: np.ndarray) -> np.ndarray:
        return score(run(session, {name: moved.astype(np.float32)}, ["logits"])["logits"])

    by_gradient, by_differences = _slopes(scores, a, g, along=0.0)
    rounding = float(np.finfo(np.float32).eps) * float(np.abs(scores(a)).max())
    if np.abs(by_differences).mean() < ABOVE_ROUNDING * rounding:
        by_gradient, by_differences = _slopes(scores, a, g, along=1.0)
    return difference("disabled", f"slopes:{name}", by_gradient, by_differences)


def _slopes(
    scores: Callable[[np.ndarray], np.ndarray], a: np.ndarray, g: np.ndarray, along: float
) -> tuple[np.ndarray, np.ndarray]:
    """(DIRECTIONS, N) changes of the score over half a step, by the gradient and by central differences."""
    rng = np.random.default_rng(0)
    scale, steepness = float(a.std()) or 1.0, float(g.std()) or 1.0
    by_gradient, by_differences = [], []
    for _ in range(DIRECTIONS):
        step = STEP * scale * (rng.normal(size=a.shape) + along * g / steepness)
        by_gradient.append((g.astype(np.float64) * step).sum(axis=(1, 2, 3)))
        by_differences.append((scores(a + step) - scores(a - step)) / 2)
    return np.array(by_gradient), np.array(by_differences)

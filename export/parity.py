"""Whether an exported graph computes what its source computes, at every optimisation level of ONNX Runtime.

Logits and activations must agree to a relative L2 error of 1e-5, gradients to 1e-4. A rectifier whose input is
within rounding of zero may switch, and moves single gradient elements by their full size: beyond 1e-4 gradients
still pass with a cosine of at least 0.9999, and the elements that differ are counted.

Where the source has no gradients (a foreign ONNX file), slopes along seeded directions stand in for them: central
differences of the part of the graph behind the CAM layer. In float32, across kinks, they agree to a relative L2 error
of 0.2, which no wrong rule has come near.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from harness.common.errors import CannotEvaluateError

FORWARD_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
COSINE = 0.9999
SLOPES = 0.2  # relative L2 error of slopes; right gradients had up to 0.04, across the kinks of ResNet18 from layer1
DIRECTIONS = 16
STEP = 1e-3  # of the central differences, relative to the activations' standard deviation
ABOVE_ROUNDING = 30.0  # times the rounding of a score, that its changes must have on average
SWITCHED = 1e-3  # an element has switched where it is off by this share of the largest gradient

LEVELS = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


@dataclass(frozen=True)
class Difference:
    """How far one output at one optimisation level is from its source."""

    level: str
    output: str
    relative_l2: float
    cosine: float
    switched: int

    @property
    def passes(self) -> bool:
        if self.output.startswith("slopes"):
            return self.relative_l2 <= SLOPES
        if not self.output.startswith("gradients"):
            return self.relative_l2 <= FORWARD_TOLERANCE
        return self.relative_l2 <= GRADIENT_TOLERANCE or self.cosine >= COSINE


def compare(model: bytes, feeds: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> list[Difference]:
    """Run a serialised model at all four optimisation levels against the outputs that are expected of it."""
    differences = []
    for level in LEVELS:
        found = run(open_session(model, level), feeds, list(expected))
        differences += [difference(level, name, found[name], expected[name]) for name in expected]
    return differences


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


def difference(level: str, output: str, found: np.ndarray, expected: np.ndarray) -> Difference:
    """Relative L2 error, cosine and number of switched elements of one output, in float64."""
    a, b = found.astype(np.float64), expected.astype(np.float64)
    scale = float(np.linalg.norm(b))
    apart = float(np.linalg.norm(a - b))
    relative = apart / scale if scale else (0.0 if apart == 0 else float("inf"))
    product = float(np.linalg.norm(a)) * scale
    cosine = float((a * b).sum()) / product if product else float(apart == 0)
    switched = int((np.abs(a - b) > SWITCHED * np.abs(b).max()).sum())
    return Difference(level, output, relative, cosine, switched)


def summary(differences: Sequence[Difference]) -> list[Difference]:
    """The worst optimisation level of each output."""
    worst: dict[str, Difference] = {}
    for item in differences:
        if item.output not in worst or item.relative_l2 > worst[item.output].relative_l2:
            worst[item.output] = item
    return list(worst.values())


def require(differences: list[Difference]) -> None:
    """Raise CannotEvaluateError, naming the worst output, unless every difference passes."""
    failed = [item for item in differences if not item.passes]
    if failed:
        worst = max(failed, key=lambda item: item.relative_l2)
        raise CannotEvaluateError(
            f"the exported graph differs from its source: {worst.output} at optimisation level {worst.level} has "
            f"relative L2 error {worst.relative_l2:.2g} and cosine {worst.cosine:.6f}; nothing was written"
        )


def open_session(model: bytes, level: str) -> ort.InferenceSession:
    """A serialised model on the CPU provider, at one optimisation level."""
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(session: ort.InferenceSession, feeds: Mapping[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
    """The named outputs."""
    return dict(zip(outputs, session.run(outputs, dict(feeds)), strict=True))

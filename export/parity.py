"""Whether an exported graph computes what its source computes, at every optimisation level of ONNX Runtime.

Logits and activations must agree to a relative L2 error of 1e-5, gradients to 1e-4. A rectifier whose input is
within rounding of zero may switch, and moves single gradient elements by their full size: beyond 1e-4 gradients
still pass with a cosine of at least 0.9999, and the elements that differ are counted.

Where the source has no gradients (a foreign ONNX file), slopes along seeded directions stand in for them: central
differences of the part of the graph behind the CAM layer. In float32, across kinks, they agree to a cosine of 0.99.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from harness.errors import CannotEvaluateError

FORWARD_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
COSINE = 0.9999
SLOPE_COSINE = 0.99
DIRECTIONS = 16
STEP = 3e-3  # of the central differences, relative to the activations' standard deviation
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
            return self.cosine >= SLOPE_COSINE
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
    """Gradients g at activations a, both (N, C, h, w), against central differences along seeded directions.

    Half of each direction is noise, half the gradient itself, so that the slope stands out from rounding.

    :param tail: the part of the graph from tensor `name`, which holds a, to the logits.
    :param score: (N, K) logits to the explained score (N,).
    """
    rng = np.random.default_rng(0)
    scale = float(a.std()) or 1.0
    session = open_session(tail, "disabled")
    by_gradient, by_differences = [], []
    for _ in range(DIRECTIONS):
        direction = rng.normal(size=a.shape) + g / (float(g.std()) or 1.0)
        step = STEP * scale * direction
        high, low = (
            score(run(session, {name: (a + sign * step).astype(np.float32)}, ["logits"])["logits"]) for sign in (1, -1)
        )
        by_gradient.append((g.astype(np.float64) * step).sum(axis=(1, 2, 3)))
        by_differences.append((high - low) / 2)
    return difference("disabled", f"slopes:{name}", np.array(by_gradient), np.array(by_differences))


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

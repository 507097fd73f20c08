"""Whether an exported graph computes what its source computes, at every optimisation level of ONNX Runtime.

Logits and activations must agree to a relative L2 error of 1e-5, gradients to 1e-4. A rectifier whose input is
within rounding of zero may switch, and moves single gradient elements by their full size: beyond 1e-4 gradients
still pass with a cosine of at least 0.9999, and the elements that differ are counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from export.proof.sessions import LEVELS, open_session, run
from harness.common.errors import CannotEvaluateError

FORWARD_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
COSINE = 0.9999
SLOPES = 1e-3  # relative error of slopes; DenseNet121 from its first pooling has 4e-7, float32 through 420 nodes
RULES = 1e-3  # and of single rules, which had up to 5e-6; a rule that is 1 % wrong has 1e-2
SWITCHED = 1e-3  # an element has switched where it is off by this share of the largest gradient


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
        if self.output.startswith("rules"):
            return self.relative_l2 <= RULES
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


def difference(level: str, output: str, found: np.ndarray, expected: np.ndarray) -> Difference:
    """Relative L2 error, cosine and number of switched elements of one output, in float64."""
    a, b = found.astype(np.float64), expected.astype(np.float64)
    relative = relative_l2(a, b)
    product = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float((a * b).sum()) / product if product else float(relative == 0)
    switched = int((np.abs(a - b) > SWITCHED * np.abs(b).max()).sum())
    return Difference(level, output, relative, cosine, switched)


def relative_l2(found: np.ndarray, expected: np.ndarray) -> float:
    """|found - expected| / |expected|; 0 where both are zero, infinity where only `expected` is."""
    apart = float(np.linalg.norm(found - expected))
    scale = float(np.linalg.norm(expected))
    return apart / scale if scale else (0.0 if apart == 0 else float("inf"))


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

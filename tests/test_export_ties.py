"""Where an operator has no derivative (ties, kinks, a norm of 0): the value that each rule documents as `ties`."""

from __future__ import annotations

import numpy as np
import pytest

from export.autodiff import engine
from tests.gradient_cases import ints
from tests.gradient_checks import Case, engine_gradients, output_cotangents

EQUAL, ZEROS = np.ones((1, 1, 2, 2)), np.zeros((1, 1, 2, 2))
FIRST, SHARES, NOTHING = [[[[1, 0], [0, 0]]]], [[[[0.25] * 2] * 2]], [[[[0] * 2] * 2]]
WINDOW = {"kernel_shape": [2, 2]}
SELU_AT_ZERO = 1.0507009873554805 * 1.6732632423543772  # gamma alpha of Klambauer et al. 2017

# The cotangent is 1 everywhere; the expected ones are those of the active inputs in their order.
TIES: list[tuple[Case, list]] = [
    (Case("Abs", [np.zeros(2)]), [[0, 0]]),
    (Case("Clip", [np.array([-1.0, 1.0]), np.float64(-1), np.float64(1)]), [[0, 0]]),
    (Case("Elu", [np.zeros(2)], {"alpha": 0.3}), [[0.3, 0.3]]),
    (Case("GlobalLpPool", [ZEROS]), [NOTHING]),
    (Case("GlobalMaxPool", [EQUAL]), [SHARES]),
    (Case("HardSigmoid", [np.array([-2.5, 2.5])]), [[0, 0]]),
    (Case("HardSwish", [np.array([-3.0, 3.0])]), [[0, 1]]),
    (Case("LeakyRelu", [np.zeros(2)], {"alpha": 0.3}), [[0.3, 0.3]]),
    (Case("LpNormalization", [np.zeros((1, 2))], {"p": 1}), [[[0, 0]]]),
    (Case("LpNormalization", [np.zeros((1, 2))], {"p": 2}), [[[0, 0]]]),
    (Case("LpPool", [ZEROS], WINDOW), [NOTHING]),
    (Case("Max", [np.zeros(2)] * 3, active=(0, 1, 2)), [[1, 1], [0, 0], [0, 0]]),
    (Case("MaxPool", [EQUAL], WINDOW), [FIRST]),
    (Case("Min", [np.zeros(2)] * 3, active=(0, 1, 2)), [[1, 1], [0, 0], [0, 0]]),
    (Case("Mod", [np.array([4.0]), np.array([2.0])], {"fmod": 1}, active=(0, 1)), [[1], [-2]]),
    (Case("PRelu", [np.zeros(2), np.array([0.3, 0.4])], active=(0, 1)), [[0.3, 0.4], [0, 0]]),
    (Case("ReduceL1", [np.zeros((1, 2)), ints(1)]), [[[0, 0]]]),
    (Case("ReduceL2", [np.zeros((1, 2)), ints(1)]), [[[0, 0]]]),
    (Case("ReduceMax", [np.array([[5.0, 5.0, 1.0]]), ints(1)]), [[[0.5, 0.5, 0]]]),
    (Case("ReduceMin", [np.array([[5.0, 1.0, 1.0]]), ints(1)], {"keepdims": 0}), [[[0, 0.5, 0.5]]]),
    (Case("Relu", [np.zeros(2)]), [[0, 0]]),
    *(
        (Case(operator, [np.ones(2), indices, np.ones(1)], {"reduction": reduction}, active=(0, 2)), [[1, 1], [1]])
        for operator, indices in (("ScatterElements", ints(0)), ("ScatterND", ints(0)[:, None]))
        for reduction in ("max", "min")
    ),
    (Case("Selu", [np.zeros(2)]), [[SELU_AT_ZERO] * 2]),
    (Case("Shrink", [np.array([-0.5, 0.5])], {"lambd": 0.5}), [[0, 0]]),
    (Case("ThresholdedRelu", [np.ones(2)]), [[0, 0]]),
    (Case("TopK", [np.ones((1, 3)), ints(2)], outputs=2), [[[1, 1, 0]]]),
]


@pytest.mark.parametrize(("case", "expected"), TIES, ids=lambda item: item.id if isinstance(item, Case) else "")
def test_a_tie_is_resolved_as_documented(case: Case, expected: list) -> None:
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 of a norm, and in the branch that a Where leaves
        ones = [np.ones_like(g) for g in output_cotangents(case)]
        found = list(engine_gradients(case, ones).values())
    assert len(found) == len(expected)
    for gradient, values in zip(found, expected, strict=True):
        assert gradient.tolist() == pytest.approx(np.array(values, float), rel=1e-6)  # attributes are float32


def test_every_documented_tie_has_a_case() -> None:
    assert {case.operator for case, _ in TIES} == {rule.operator for rule in engine.all_rules() if rule.ties}

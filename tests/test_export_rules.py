"""Every gradient rule against central differences in float64."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from export import engine
from tests.gradient_cases import CASES, values
from tests.gradient_checks import (
    TOLERANCE,
    Case,
    engine_gradients,
    forward_agrees,
    numerical_gradients,
    output_cotangents,
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_rule_equals_central_differences(case: Case) -> None:
    cotangents = output_cotangents(case)
    found, expected = engine_gradients(case, cotangents), numerical_gradients(case, cotangents)
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].shape == expected[name].shape
        np.testing.assert_allclose(found[name], expected[name], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_witness_of_the_forward_pass_agrees_with_onnx_runtime(case: Case) -> None:
    found, expected = forward_agrees(case)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_every_rule_has_a_case() -> None:
    differentiable = {rule.operator for rule in engine.all_rules() if rule.vjp is not None}
    assert differentiable <= {case.operator for case in CASES}, "a rule without a case is not known to be right"


def test_a_wrong_rule_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("Neg", [values(2, 3)])
    right = engine.rule_for(_node("Neg"), 18)
    assert right is not None

    def wrong_vjp(step: engine.Step, _active: frozenset[int]) -> list:
        return [step.op.Mul(step.op.Neg(step.g), step.number(1.001))]

    monkeypatch.setitem(engine._RULES, ("", "Neg"), [dataclasses.replace(right, vjp=wrong_vjp)])
    with pytest.raises(AssertionError, match="Mismatched elements"):
        test_rule_equals_central_differences(case)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (Case("Relu", [np.zeros(2)]), [0, 0]),
        (Case("Clip", [np.array([-1.0, 1.0]), np.float64(-1), np.float64(1)]), [0, 0]),
        (Case("MaxPool", [np.zeros((1, 1, 2, 2))], {"kernel_shape": [2, 2]}), [[[[1, 0], [0, 0]]]]),
    ],
    ids=["Relu", "Clip", "MaxPool"],
)
def test_ties(case: Case, expected: list) -> None:
    ones = [np.ones_like(g) for g in output_cotangents(case)]
    assert engine_gradients(case, ones)["x0"].tolist() == expected


def test_ties_of_max_go_to_the_first_input() -> None:
    case = Case("Max", [np.zeros(2), np.zeros(2)], active=(0, 1))
    found = engine_gradients(case, [np.ones(2)])
    assert (found["x0"].tolist(), found["x1"].tolist()) == ([1, 1], [0, 0])


def test_a_second_rule_for_an_operator_is_an_error() -> None:
    with pytest.raises(ValueError, match="Neg already has a rule"):
        engine.define("Neg", lambda s: s.g)


def _node(operator: str) -> engine.ir.Node:
    return engine.ir.Node("", operator, [])

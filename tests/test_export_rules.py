"""Every gradient rule against central differences in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export import passes
from export.autodiff import coverage, engine
from export.autodiff.emit import Emitter
from export.proof.sessions import open_session
from harness.common.errors import InputError
from tests.gradient_cases import CASES, PAIRS, Pair, values
from tests.gradient_checks import (
    TOLERANCE,
    Case,
    Derivation,
    build,
    engine_gradients,
    output_cotangents,
)

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_rule_equals_central_differences(case: Case) -> None:
    """And the witness of the forward pass is right, and ONNX Runtime and the newest opset have the same gradient."""
    derivation = Derivation(case)
    require_central_differences(derivation)
    for found, expected in zip(derivation.values_in_onnxruntime(), derivation.values, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    require_same_at_the_newest_opset(derivation)
    if case.operator != "Cast":  # its float64 cases have no counterpart in float32
        require_same_in_onnxruntime(derivation)


def require_central_differences(derivation: Derivation) -> None:
    found, expected = derivation.gradients, derivation.numerical_gradients()
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].shape == expected[name].shape
        np.testing.assert_allclose(found[name], expected[name], rtol=TOLERANCE, atol=TOLERANCE)


def require_same_at_the_newest_opset(derivation: Derivation) -> None:
    found = derivation.gradients_at(engine.OPSETS[-1])
    for name, expected in derivation.gradients.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-12, atol=1e-12)


def require_same_in_onnxruntime(derivation: Derivation) -> None:
    found = derivation.gradients_in_onnxruntime()
    for name, expected in derivation.gradients.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-4 * max(np.abs(expected).max(), 1))


def test_every_rule_has_a_case() -> None:
    differentiable = {rule.operator for rule in engine.all_rules() if rule.vjp is not None}
    straight_through = {"QuantizeLinear", "DequantizeLinear"}  # not derivatives: PAIRS holds their cases
    assert differentiable == {case.operator for case in CASES} | straight_through, (
        "a rule without a case is not known to be right"
    )


def test_a_wrong_rule_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("Neg", [values(2, 3)])
    right = engine.rule_for(_node("Neg"), 18)
    assert right is not None

    def wrong_vjp(step: engine.Step, _active: frozenset[int]) -> list:
        return [step.op.Mul(step.op.Neg(step.g), step.number(1.001))]

    monkeypatch.setitem(engine._RULES, ("", "Neg"), [dataclasses.replace(right, vjp=wrong_vjp)])
    with pytest.raises(AssertionError, match="Mismatched elements"):
        require_central_differences(Derivation(case))


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


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        (Case("MaxPool", [values(1, 1, 4, 4)], {"kernel_shape": [2, 2], "storage_order": 1}), "by columns"),
        (Case("Dropout", [values(2), np.float64(0.5), np.array(True)]), "is in training mode"),
        (
            Case("ConvTranspose", [values(1, 1, 3, 3), values(1, 1, 3, 3)],
                 {"strides": [2, 2], "output_padding": [1, 1], "auto_pad": "SAME_UPPER"}),
            "has both output_padding and another rule for its size",
        ),
        (Case("Mod", [values(2), values(2, low=1)], {"fmod": 0}), "only fmod=1 is defined"),
        (Case("Attention", [values(1, 1, 2, 2)] * 3, {"softcap": 2.0}, opset=23), "attention with softcap"),
    ],
    ids=lambda item: item.operator if isinstance(item, Case) else "",
)  # fmt: skip
def test_what_a_rule_does_not_cover_is_refused(case: Case, sentence: str) -> None:
    built = build(case)
    y = built.outputs[0]
    op = Emitter(built.model.graph)
    with pytest.raises(InputError, match=sentence):
        engine.backward(built.model.graph, case.opset, y, op.constant(np.ones(1)), list(built.model.graph.inputs), op)


@pytest.mark.parametrize("scale", [2.4, 1.7, 1.2, 1 / 3, 0.7])
@pytest.mark.parametrize(
    ("place", "rounding"),
    [("asymmetric", "floor"), ("half_pixel", "round_prefer_ceil"), ("pytorch_half_pixel", "floor"),
     ("half_pixel", "round_prefer_floor")],
)  # fmt: skip
def test_nearest_resizing_reads_the_pixels_that_onnx_runtime_reads(scale: float, place: str, rounding: str) -> None:
    """Resizing is linear: sum(g y) = sum(x' x). The float64 witness rounds positions in another way."""
    factors = np.array([1, 1, scale, scale], np.float32)
    how = {"coordinate_transformation_mode": place, "nearest_mode": rounding}
    case = Case("Resize", [values(1, 1, 12, 15), None, factors], how)
    derivation = Derivation(case)
    (y,) = derivation.values_in_onnxruntime()
    g = np.random.default_rng(0).uniform(-1, 1, y.shape)
    gradient = derivation.gradients_in_onnxruntime([g])["x0"]
    assert (gradient * case.inputs[0]).sum() == pytest.approx((g * y).sum(), abs=1e-4)


def test_a_second_rule_for_an_operator_is_an_error() -> None:
    with pytest.raises(ValueError, match="Neg already has a rule"):
        engine.define("Neg", lambda s: s.g)


def _node(operator: str) -> engine.ir.Node:
    return engine.ir.Node("", operator, [])


class Small:
    """A graph under construction, with one float32 input `x`."""

    def __init__(self, shape: Sequence[int | str], opset: int = 18, dtype: Any = np.float32) -> None:
        self.opset = opset
        self.graph = ir.Graph([], [], nodes=[], opset_imports={"": opset}, name="small")
        self.op = Emitter(self.graph, "small")
        self.x = ir.val("x", ir.DataType.from_numpy(np.dtype(dtype)), list(shape))
        self.graph.inputs.append(self.x)

    def pair(self, value: ir.Value, scale: Any, zero_point: Any, axis: int = 1) -> ir.Value:
        steps = [self.op.constant(np.asarray(scale, np.float32)), self.op.constant(zero_point)]
        integers = self.op.QuantizeLinear(value, *steps, axis=axis)
        return self.op.DequantizeLinear(integers, *steps, axis=axis)

    def weight(self, integers: np.ndarray, scale: Any, axis: int = 0) -> ir.Value:
        zero_point = np.zeros(np.shape(scale), integers.dtype)
        inputs = [self.op.constant(array) for array in (integers, np.asarray(scale, np.float32), zero_point)]
        return self.op.DequantizeLinear(*inputs, axis=axis)

    def gradient(self, y: ir.Value, cotangent: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(y, gradient of sum(cotangent * y) with respect to x)."""
        y.name = "y"
        y.type = self.x.type
        self.graph.outputs.append(y)
        model = ir.Model(self.graph, ir_version=10)
        passes.infer_shapes(model)
        (found,) = engine.backward(self.graph, self.opset, y, self.op.constant(cotangent), [self.x], self.op)
        gradient = self.op.Identity(found)
        gradient.name, gradient.type, gradient.shape = "dx", self.x.type, self.x.shape
        self.graph.outputs.append(gradient)
        session = open_session(ir.to_proto(model).SerializeToString(), "disabled")
        return tuple(session.run(["y", "dx"], {"x": x}))


def test_the_mask_of_a_rectifier_is_exact_and_spells_out_its_offset() -> None:
    """OpenVINO takes a beta of 0 for the default, 0.5: where a rectifier is off, half of a gradient would pass."""
    x = np.array([[-1, 0, np.finfo(np.float32).tiny, 1e-3, 2]], np.float32)
    small = Small(x.shape)
    assert small.gradient(small.op.Relu(small.x), np.full(x.shape, 3, np.float32), x)[1].tolist() == [[0, 0, 3, 3, 3]]
    (mask,) = (node for node in small.graph if node.op_type == "HardSigmoid")
    assert mask.attributes.get_float("beta", 0.5) < 0


def test_a_size_that_a_rule_must_know_is_asked_for() -> None:
    small = Small((1, 4, "H", 2))
    y = small.op.DepthToSpace(small.x, blocksize=2, mode="CRD")
    with pytest.raises(InputError, match="axis 2 of x has no fixed size; export the model with fixed sizes"):
        small.gradient(y, np.ones((1, 1, 4, 4), np.float32), np.zeros((1, 4, 2, 2), np.float32))


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.id)
def test_a_pair_passes_the_cotangent_unchanged(pair: Pair) -> None:
    x, g = values(2, 3, 4, low=-20, high=20), values(2, 3, 4, seed=1)
    small = Small(x.shape, pair.opset, np.float64)
    narrow = small.op.Cast(small.x, to=ir.DataType.FLOAT)  # ONNX quantises float32 only
    made = small.op.Cast(small.pair(narrow, pair.scale, pair.zero_point, pair.axis), to=ir.DataType.DOUBLE)
    y, gradient = small.gradient(made, g, x)
    assert np.unique(np.abs(y - x) > 1e-6).tolist() == [True], "every value was rounded, or saturated"
    np.testing.assert_array_equal(gradient, g.astype(np.float32))


def fake_quantised(x: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """scale (saturate(round(x / scale) + zero_point) - zero_point), uint8."""
    integers = np.clip(np.rint(x / np.float32(scale)) + zero_point, 0, 255)
    return np.float32(scale) * (integers - zero_point).astype(np.float32)


@pytest.mark.parametrize("opset", engine.OPSETS)
@pytest.mark.parametrize("per_channel", [True, False])
def test_a_quantised_network_has_the_gradient_of_its_definition(opset: int, per_channel: bool) -> None:
    """Pairs around Conv (1 x 1), Relu, Add and Gemm, against the backward pass written out in NumPy."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    kernel, head = rng.integers(-127, 128, (3, 3)), rng.integers(-127, 128, (4, 3))
    kernel_scale = np.array([0.01, 0.02, 0.005]) if per_channel else np.array(0.01)
    head_scale = np.array([0.02, 0.01, 0.03, 0.01]) if per_channel else np.array(0.02)
    bias, cotangent = np.array([5, -20, 40], np.int32), rng.normal(size=(2, 4)).astype(np.float32)

    small = Small(x.shape, opset)
    op = small.op
    read = small.pair(small.x, 0.03, np.uint8(120))
    convolved = op.Conv(read, small.weight(kernel[:, :, None, None].astype(np.int8), kernel_scale),
                        small.weight(bias, kernel_scale * 0.03))  # fmt: skip
    rectified = small.pair(op.Relu(convolved), 0.02, np.uint8(0))
    added = small.pair(op.Add(rectified, read), 0.04, np.uint8(90))
    pooled = small.pair(op.Flatten(op.GlobalAveragePool(added)), 0.01, np.uint8(30))
    y, gradient = small.gradient(
        op.Gemm(pooled, small.weight(head.astype(np.int8), head_scale), transB=1), cotangent, x
    )

    w, v = kernel * kernel_scale.reshape(-1, 1), head * head_scale.reshape(-1, 1)
    p = fake_quantised(x, 0.03, 120)
    c = np.einsum("nihw,oi->nohw", p, w) + (bias * kernel_scale * 0.03).reshape(1, 3, 1, 1)
    a = fake_quantised(fake_quantised(np.maximum(c, 0), 0.02, 0) + p, 0.04, 90)
    np.testing.assert_allclose(y, fake_quantised(a.mean(axis=(2, 3)), 0.01, 30) @ v.T, rtol=1e-5, atol=1e-5)
    at_sum = np.broadcast_to(((cotangent @ v) / 20)[:, :, None, None], x.shape)
    np.testing.assert_allclose(gradient, np.einsum("nohw,oi->nihw", at_sum * (c > 0), w) + at_sum, rtol=1e-4, atol=1e-6)


def test_quantised_weights_are_constants() -> None:
    small = Small((2, 3))
    weight = small.weight(np.ones((3, 4), np.int8), np.array(0.5))
    y = small.op.MatMul(small.x, weight)
    path = engine.active_path(small.graph, 18, y, [small.x])
    assert [node.op_type for node in path] == ["MatMul"]


@pytest.mark.parametrize(
    ("between", "sentence"),
    [
        (lambda op, q: op.Reshape(q, op.integers(3, 2)), r"Reshape on quantised integers \(.+\)"),
        (lambda op, q: op.Cast(q, to=ir.DataType.FLOAT), r"Cast on quantised integers \(.+\)"),
        (lambda op, q: op.MatMulInteger(q, op.constant(np.ones((3, 1), np.uint8))), r"MatMulInteger \(.+\)"),
    ],
)
def test_no_other_operator_passes_a_gradient_through_integers(between: Any, sentence: str) -> None:
    """Silence would drop this way to the score and leave the other one: a wrong gradient."""
    small = Small((2, 3))
    integers = small.op.QuantizeLinear(small.x, small.op.constant(np.float32(0.1)), small.op.constant(np.uint8(9)))
    made = between(small.op, integers)
    real = made if made.producer().op_type == "Cast" else small.op.Cast(made, to=ir.DataType.FLOAT)
    y = small.op.Add(small.op.ReduceSum(real, keepdims=0), small.op.ReduceSum(small.x, keepdims=0))
    with pytest.raises(InputError, match=f"no gradient rule for these operators.*{sentence}"):
        small.gradient(y, np.ones((), np.float32), np.zeros((2, 3), np.float32))


@pytest.mark.parametrize(("scale", "zero_point"), [(0.2, 9), (0.1, 8), (np.array([0.1, 0.2, 0.1]), np.full(3, 9))])
def test_a_pair_of_unequal_steps_is_refused(scale: Any, zero_point: Any) -> None:
    small = Small((2, 3))
    op = small.op
    integers = op.QuantizeLinear(small.x, op.constant(np.float32(0.1)), op.constant(np.uint8(9)))
    y = op.DequantizeLinear(integers, op.constant(np.asarray(scale, np.float32)),
                            op.constant(np.asarray(zero_point, np.uint8)))  # fmt: skip
    with pytest.raises(InputError, match="undoes no QuantizeLinear of the same constant scale and zero point"):
        small.gradient(y, np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32))


# The coverage table


def test_the_documented_table_is_the_registry() -> None:
    """`python -m export operators --markdown > docs/operators.md` writes it anew."""
    assert (ROOT / "docs" / "operators.md").read_text(encoding="utf-8") == coverage.markdown() + "\n"


def test_the_share_counts_what_onnx_calls_differentiable() -> None:
    counted = coverage.count()
    assert {"Conv", "Gelu", "LSTM"} <= set(counted.differentiable)
    assert "Shape" not in counted.differentiable
    assert "LSTM" in counted.missing
    assert set(counted.missing) == set(counted.differentiable) - {row[0] for row in coverage.rows()}
    assert len(coverage.rows()) >= 95


def test_no_rule_is_for_an_operator_that_onnx_does_not_have() -> None:
    for rule in engine.all_rules():
        for opset in rule.opsets:
            schema = onnx.defs.get_schema(rule.operator, opset, "")
            assert not schema.deprecated, (rule.operator, opset)

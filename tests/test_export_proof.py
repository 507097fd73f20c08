"""The proof of gradients: every rule that is 1 % wrong is refused, on small networks whose gradients are right."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from export.autodiff import engine
from export.proof.nodes import Node
from export.sources.onnx import Preprocessing, export_onnx
from export.write import Request
from harness.common.errors import CannotEvaluateError
from tests.test_export_files import CHANNELS, CLASSES, SIZE, Network, attention

PLAIN = Preprocessing(1 / 255)


def excited(path: Path) -> Path:
    """Convolutions with a stride, squeeze and excitation, normalisation, a skip, two kinds of pooling."""
    n = Network()
    x = n.features()
    made = n.add("Conv", x, n.weight(CHANNELS, 2, 3, 3), n.weight(CHANNELS), pads=[1] * 4, group=2)
    ones = [n.constant(np.full(CHANNELS, 0.7 + place), np.float32) for place in range(4)]
    normed = n.add("HardSwish", n.add("BatchNormalization", made, *ones))
    gate = n.add(
        "Sigmoid", n.add("Conv", n.add("ReduceMean", normed, n.integers(2, 3)), n.weight(CHANNELS, CHANNELS, 1, 1))
    )
    joined = n.add("Add", x, n.add("Mul", normed, gate))
    pooled = n.add("MaxPool", n.add("Relu", joined), kernel_shape=[2, 2], strides=[2, 2])
    both = n.add("Concat", pooled, n.add("AveragePool", joined, kernel_shape=[2, 2], strides=[2, 2]), axis=1)
    flat = n.add("Flatten", n.add("GlobalAveragePool", both))
    n.add("Gemm", flat, n.weight(2 * CHANNELS, CLASSES), n.weight(CLASSES), out="scores")
    return n.save(path)


def attentive(path: Path) -> Path:
    n = Network(batch=1)
    attention(n, token=True)
    return n.save(path)


def smooth(path: Path) -> Path:
    """Layers of a transformer's kind: LayerNormalization, Gelu, Softmax, and a head of generalised means."""
    n = Network(opset=20)
    x = n.add("Transpose", n.features(), perm=[0, 2, 3, 1])
    normed = n.add("LayerNormalization", x, n.weight(CHANNELS), n.weight(CHANNELS))
    mixed = n.add("Gelu", n.add("MatMul", normed, n.weight(CHANNELS, CHANNELS)))
    share = n.add("Softmax", n.add("Div", mixed, n.constant(0.7, np.float32)), axis=-1)
    erf = n.add("Erf", n.add("Sub", n.add("Tanh", share), n.constant(0.1, np.float32)))
    powered = n.add("Pow", n.add("Clip", n.add("Exp", erf), n.constant(1e-6, np.float32)), n.constant(3, np.float32))
    mean = n.add("Sqrt", n.add("ReduceMean", powered, n.integers(1, 2), keepdims=0))
    n.add("MatMul", n.add("Log", mean), n.weight(CHANNELS, CLASSES), out="scores")
    return n.save(path)


NETWORKS = {"excited": excited, "attentive": attentive, "smooth": smooth}
BEHIND: dict[str, set[str]] = {
    "excited": {"Conv", "BatchNormalization", "HardSwish", "Sigmoid", "ReduceMean", "Mul", "Add", "Relu", "MaxPool",
                "AveragePool", "Concat", "Flatten", "GlobalAveragePool", "Gemm"},
    "attentive": {"Reshape", "Transpose", "Concat", "MatMul", "Softmax", "Gemm", "Gather"},
    "smooth": {"Transpose", "LayerNormalization", "MatMul", "Gelu", "Div", "Softmax", "Sub", "Tanh", "Erf", "Exp",
               "Clip", "Pow", "ReduceMean", "Sqrt", "Log"},
}  # fmt: skip


def scaled(monkeypatch: pytest.MonkeyPatch, operator: str, factor: float) -> None:
    """Let every gradient that an operator's rule gives be so many times too large."""
    rules = engine._RULES["", operator]

    def wrong(rule: engine.Rule) -> engine.Rule:
        right = rule.vjp
        assert right is not None

        def vjp(step: engine.Step, active: frozenset[int]) -> list:
            return [None if g is None else step.op.Mul(g, step.number(factor)) for g in right(step, active)]

        return dataclasses.replace(rule, vjp=vjp)

    monkeypatch.setitem(engine._RULES, ("", operator), [wrong(rule) for rule in rules])


@pytest.mark.parametrize("name", NETWORKS)
def test_right_gradients_pass_by_far(name: str, tmp_path: Path) -> None:
    path = NETWORKS[name](tmp_path / "m.onnx")
    found = export_onnx(path, Request(["features"], tmp_path / "x.onnx"), PLAIN)
    checked = [item for item in found if item.output.startswith(("slopes", "rules"))]
    assert max(item.relative_l2 for item in checked) < 5e-5
    kinds = {item.output.split(":")[1].split(" ")[0] for item in checked if item.output.startswith("rules")}
    assert kinds >= BEHIND[name] - {"BatchNormalization"}  # which is folded into the convolution before it
    onnx.checker.check_model(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("name", "operator"),
    [(name, operator) for name in NETWORKS for operator in sorted(BEHIND[name] - {"BatchNormalization"})],
)
def test_a_rule_that_is_one_per_cent_wrong_is_refused(
    name: str, operator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = NETWORKS[name](tmp_path / "m.onnx")
    scaled(monkeypatch, operator, 1.01)
    with pytest.raises(CannotEvaluateError, match=r"the exported graph differs from its source: (rules|slopes):"):
        export_onnx(path, Request(["features"], tmp_path / "x.onnx"), PLAIN)
    assert not (tmp_path / "x.onnx").exists()


def test_a_sum_that_leaves_out_a_path_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rule is right, and the gradient is wrong: what only the slopes see."""
    path = excited(tmp_path / "m.onnx")
    gathered = engine._gathered

    def first_only(value: ir.Value, cotangents: dict, op: object) -> ir.Value | None:
        del cotangents[value][1:]
        return gathered(value, cotangents, op)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "_gathered", first_only)
    with pytest.raises(CannotEvaluateError, match="slopes:activations"):
        export_onnx(path, Request(["features"], tmp_path / "x.onnx"), PLAIN)


@pytest.mark.parametrize(
    ("operator", "slope"),
    [
        ("Relu", lambda x: (x > 0).astype(float)),
        ("Sigmoid", lambda x: np.exp(-x) / (1 + np.exp(-x)) ** 2),
        ("Erf", lambda x: 2 / np.sqrt(np.pi) * np.exp(-(x**2))),
        ("Softsign", lambda x: 1 / (1 + np.abs(x)) ** 2),
    ],
)
def test_derivatives_of_single_nodes(operator: str, slope: object) -> None:
    x = np.random.default_rng(0).normal(size=(3, *SIZE)).astype(np.float32)
    t = np.random.default_rng(1).normal(size=x.shape)
    found = Node(helper.make_node(operator, ["x"], ["y"]), 18, {"x": x}).tangents({"x": t})["y"]
    expected = slope(x.astype(np.float64)) * t  # type: ignore[operator]
    assert np.linalg.norm(found - expected) < 2e-5 * np.linalg.norm(expected)

"""Random graphs over the whole registry: any operators, attributes drawn, against float64 differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export import passes
from export.autodiff.emit import Emitter, dimensions
from export.autodiff.engine import all_rules, backward
from tests.gradient_checks import Case, evaluator
from tests.operator_strategies import ANY, OPSET, STRATEGIES

LENGTH = 24
EXAMPLES = 6
STEPS = (1e-5, 2e-6)
STRAIGHT_THROUGH = {"QuantizeLinear", "DequantizeLinear"}  # no derivatives: tests/test_export_rules.py holds them

seen: Counter[str] = Counter()


def _adapted(op: Emitter, x: ir.Value, size: int, wanted: np.ndarray, rng: np.random.Generator) -> ir.Value:
    """Elements of the vector x in the shape of an array and within its range: any operator can read any other."""
    low, high = float(wanted.min()), float(wanted.max())
    picked = op.Gather(x, op.constant(rng.integers(0, size, wanted.size)), axis=0)
    within = op.Add(op.Mul(op.Sigmoid(picked), op.constant(np.float64(high - low))), op.constant(np.float64(low)))
    return op.Reshape(within, op.integers(*wanted.shape))


def _applied(op: Emitter, case: Case, x: ir.Value, size: int, rng: np.random.Generator) -> list[ir.Value]:
    inputs = [
        None if given is None
        else _adapted(op, x, size, given, rng) if index in case.active
        else op.constant(given)
        for index, given in enumerate(case.inputs)
    ]  # fmt: skip
    made = op.__getattr__(case.operator)(*inputs, **case.attributes, _outputs=case.outputs)
    return [made] if case.outputs == 1 else list(made)[: 1 if case.operator == "TopK" else None]


def _graph(cases: list[Case], seed: int) -> tuple[ir.Model, ir.Value]:
    """A chain: each operator reads elements of what the one before gave; all of them reach the score."""
    rng = np.random.default_rng(seed)
    graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name="random")
    x = ir.val("x", ir.DataType.DOUBLE, [LENGTH])
    graph.inputs.append(x)
    op, model = Emitter(graph, "random"), ir.Model(graph, ir_version=10)
    current, size, terms = x, LENGTH, [op.ReduceSum(x, keepdims=0)]
    for case in cases:
        flat = [op.Reshape(value, op.integers(-1)) for value in _applied(op, case, current, size, rng)]
        current = op.Concat(*flat, axis=0)
        graph.outputs[:] = [current]
        passes.infer_shapes(model, check_type=False)
        size = dimensions(current)[0] or evaluator(model).run(None, {"x": np.zeros(LENGTH)})[0].size
        terms.append(op.ReduceSum(op.Mul(current, op.constant(rng.uniform(-1, 1, size))), keepdims=0))
    score = op.Sum(*terms)
    score.name = "score"
    graph.outputs[:] = [score]
    passes.infer_shapes(model, check_type=False)
    return model, x


def _slopes(model: ir.Model, x: np.ndarray, direction: np.ndarray) -> Iterator[float]:
    forward = evaluator(model)
    for step in STEPS:
        high, low = (forward.run(None, {"x": x + sign * step * direction})[0] for sign in (1, -1))
        yield float(high - low) / (2 * step)


@pytest.mark.slow
@pytest.mark.parametrize("operator", sorted(STRATEGIES))
def test_engine_equals_differences_on_any_operators(operator: str) -> None:
    """At least 500 graphs in all; each begins with its operator, so that all of them are drawn."""

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(first=STRATEGIES[operator], others=st.lists(ANY, max_size=3), seed=st.integers(0, 10_000))
    def check(first: Case, others: list[Case], seed: int) -> None:
        agree([first, *others], seed)

    assert EXAMPLES * len(STRATEGIES) >= 500
    check()


def test_few_graphs_hide_their_gradient_behind_a_kink() -> None:
    """Runs behind the others: where a kink lies between two points, the differences say nothing."""
    if not seen["graph"]:
        pytest.skip("counts what the tests before it drew; run them together")
    assert seen["kink"] <= 0.05 * seen["graph"]


def agree(cases: list[Case], seed: int) -> None:
    seen["graph"] += 1
    rng = np.random.default_rng(seed)
    x, direction = rng.normal(size=(2, LENGTH))
    model, wrt = _graph(cases, seed)
    coarse, fine = _slopes(model, x, direction)
    if not np.isclose(coarse, fine, rtol=1e-4, atol=1e-5):
        seen["kink"] += 1
        return
    op = Emitter(model.graph)
    one = op.constant(np.ones(()))
    gradient = op.Identity(backward(model.graph, OPSET, model.graph.outputs[0], one, [wrt], op)[0])
    gradient.name, gradient.type, gradient.shape = "gradient", wrt.type, wrt.shape
    model.graph.outputs[:] = [gradient]
    passes.infer_shapes(model, check_type=False)
    found = float(evaluator(model).run(None, {"x": x})[0] @ direction)
    np.testing.assert_allclose(found, fine, rtol=1e-4, atol=1e-5)


def test_every_rule_can_be_drawn() -> None:
    assert {rule.operator for rule in all_rules() if rule.vjp is not None} == set(STRATEGIES) | STRAIGHT_THROUGH

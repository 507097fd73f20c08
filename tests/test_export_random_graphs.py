"""Random small graphs (chains, skips, concatenations, several consumers): the engine against float64 differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export import passes
from export.autodiff.emit import Emitter
from export.autodiff.engine import backward
from tests.gradient_checks import evaluator

CHANNELS, SIDE = 3, 4
STEP = 1e-6

Build = Callable[[Emitter, list[ir.Value], np.random.Generator], ir.Value]


def _constant(op: Emitter, rng: np.random.Generator, *shape: int, low: float = -1.0) -> ir.Value:
    return op.constant(rng.uniform(low, 1.0, shape))


def _conv(op: Emitter, x: list[ir.Value], rng: np.random.Generator) -> ir.Value:
    weights = _constant(op, rng, CHANNELS, CHANNELS, 3, 3)
    return op.Conv(x[0], weights, pads=[1, 1, 1, 1])


def _depthwise(op: Emitter, x: list[ir.Value], rng: np.random.Generator) -> ir.Value:
    return op.Conv(x[0], _constant(op, rng, CHANNELS, 1, 3, 3), pads=[1, 1, 1, 1], group=CHANNELS)


def _joined(op: Emitter, x: list[ir.Value], rng: np.random.Generator) -> ir.Value:
    both = op.Concat(x[0], x[1], axis=1)
    return op.Conv(both, _constant(op, rng, CHANNELS, 2 * CHANNELS, 1, 1))


def _normalized(op: Emitter, x: list[ir.Value], rng: np.random.Generator) -> ir.Value:
    statistics = [_constant(op, rng, CHANNELS), _constant(op, rng, CHANNELS), _constant(op, rng, CHANNELS, low=0.5)]
    return op.BatchNormalization(x[0], _constant(op, rng, CHANNELS, low=0.5), *statistics)


def _squeezed(op: Emitter, x: list[ir.Value], rng: np.random.Generator) -> ir.Value:
    """Squeeze and excitation: a map multiplied by weights from its own mean."""
    gate = op.Sigmoid(op.Conv(op.GlobalAveragePool(x[0]), _constant(op, rng, CHANNELS, CHANNELS, 1, 1)))
    return op.Mul(x[0], gate)


def _flipped(op: Emitter, x: list[ir.Value], _rng: np.random.Generator) -> ir.Value:
    backwards = op.integers(-1)
    return op.Slice(x[0], backwards, op.integers(-100), op.integers(3), backwards)


def _split(op: Emitter, x: list[ir.Value], _rng: np.random.Generator) -> ir.Value:
    first, _, last = op.Split(x[0], axis=1, num_outputs=3, _outputs=3)
    return op.Concat(last, first, op.Mul(first, last), axis=1)


BLOCKS: dict[str, Build] = {
    "conv": _conv,
    "depthwise": _depthwise,
    "joined": _joined,
    "normalized": _normalized,
    "squeezed": _squeezed,
    "flipped": _flipped,
    "split": _split,
    "add": lambda op, x, _: op.Add(x[0], x[1]),
    "mul": lambda op, x, _: op.Mul(x[0], x[1]),
    "relu": lambda op, x, _: op.Relu(x[0]),
    "elu": lambda op, x, _: op.Elu(x[0], alpha=0.7),
    "swish": lambda op, x, _: op.Mul(x[0], op.Sigmoid(x[0])),
    "softplus": lambda op, x, _: op.Softplus(x[0]),
    "tanh": lambda op, x, _: op.Tanh(x[0]),
    "average": lambda op, x, _: op.AveragePool(x[0], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "maximum": lambda op, x, _: op.MaxPool(x[0], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "softmax": lambda op, x, _: op.Softmax(x[0], axis=1),
}  # fmt: skip

Plan = list[tuple[str, int, int]]
PLANS = st.lists(
    st.tuples(st.sampled_from(sorted(BLOCKS)), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=7
)


def _graph(plan: Plan, seed: int) -> tuple[ir.Model, ir.Value, list[ir.Value]]:
    """(model, input, score (2,)): each block reads two of the tensors made so far, whichever the plan points at."""
    rng = np.random.default_rng(seed)
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="random")
    x = ir.val("x", ir.DataType.DOUBLE, ["N", CHANNELS, SIDE, SIDE])
    graph.inputs.append(x)
    op = Emitter(graph, "random")
    made = [x]
    for block, first, second in plan:
        made.append(BLOCKS[block](op, [made[first % len(made)], made[second % len(made)]], rng))
    weights = _constant(op, rng, 1, CHANNELS, SIDE, SIDE)
    weighted = op.Mul(op.Add(made[-1], x), weights)  # the input always matters
    score = op.ReduceSum(weighted, op.integers(1, 2, 3), keepdims=0)
    score.name = "score"
    graph.outputs.append(score)
    model = ir.Model(graph, ir_version=8)
    passes.infer_shapes(model)
    return model, x, made


def _differences(plan: Plan, seed: int, x: np.ndarray, direction: np.ndarray, step: float) -> np.ndarray:
    forward = evaluator(_graph(plan, seed)[0])
    high, low = (forward.run(None, {"x": x + sign * step * direction})[0] for sign in (1, -1))
    return (high - low) / (2 * step)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much])
@given(plan=PLANS, seed=st.integers(0, 10_000))
def test_engine_equals_differences_on_random_graphs(plan: Plan, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, direction = rng.normal(size=(2, 2, CHANNELS, SIDE, SIDE))
    slope = _differences(plan, seed, x, direction, STEP)
    if not np.allclose(slope, _differences(plan, seed, x, direction, STEP / 10), rtol=1e-4, atol=1e-4):
        return  # a kink lies between the points: the slope itself is not defined to this precision
    model, wrt, _ = _graph(plan, seed)
    op = Emitter(model.graph)
    gradient = backward(model.graph, 18, model.graph.outputs[0], op.constant(np.ones(2)), [wrt], op)[0]
    gradient.name, gradient.type, gradient.shape = "gradient", wrt.type, wrt.shape
    model.graph.outputs[:] = [gradient]
    passes.infer_shapes(model)
    found = evaluator(model).run(None, {"x": x})[0]
    np.testing.assert_allclose((found * direction).sum(axis=(1, 2, 3)), slope, rtol=1e-5, atol=1e-5)


def test_two_tensors_of_one_chain_in_one_sweep() -> None:
    """The gradient at an earlier tensor goes through the later one; both come from the same walk."""
    plan: Plan = [("conv", 0, 0), ("tanh", 1, 0), ("squeezed", 2, 0), ("joined", 3, 1)]
    model, x, made = _graph(plan, 3)
    op = Emitter(model.graph)
    seed = op.constant(np.ones(2))
    both = backward(model.graph, 18, model.graph.outputs[0], seed, [made[1], x], op)
    for value, gradient in zip((made[1], x), both, strict=True):
        gradient.name, gradient.type, gradient.shape = f"d {value.name}", value.type, value.shape
    model.graph.outputs[:] = both
    passes.infer_shapes(model)
    at = np.random.default_rng(0).normal(size=(2, CHANNELS, SIDE, SIDE))
    together = evaluator(model).run(None, {"x": at})
    alone, alone_x, _ = _graph(plan, 3)
    op = Emitter(alone.graph)
    single = backward(alone.graph, 18, alone.graph.outputs[0], op.constant(np.ones(2)), [alone_x], op)[0]
    single.name, single.type, single.shape = "gradient", alone_x.type, alone_x.shape
    alone.graph.outputs[:] = [single]
    passes.infer_shapes(alone)
    np.testing.assert_allclose(together[1], evaluator(alone).run(None, {"x": at})[0], rtol=1e-12)


def test_a_tensor_beside_the_score_is_refused() -> None:
    model, x, _ = _graph([("tanh", 0, 0)], 0)
    op = Emitter(model.graph)
    stray = op.Neg(x)
    with pytest.raises(Exception, match="the score does not depend on tensor"):
        backward(model.graph, 18, model.graph.outputs[0], op.constant(np.ones(2)), [stray], op)

"""Each graph pass keeps what tensors mean, does what it says, and leaves alone what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from export import passes
from export.autodiff.emit import Emitter
from export.passes.backward import fold_channel_scales
from export.passes.folding import fold_batch_normalization, fold_constants
from tests.gradient_checks import evaluator

SHAPE = (2, 3, 6, 7)


def graph(build: Callable[[Emitter, ir.Value], ir.Value]) -> ir.Model:
    """A model x (N, 3, 6, 7) -> y."""
    made = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="case")
    x = ir.val("x", ir.DataType.FLOAT, ["N", *SHAPE[1:]])
    made.inputs.append(x)
    y = build(Emitter(made, "case"), x)
    y.name = "y"
    made.outputs.append(y)
    model = ir.Model(made, ir_version=8)
    passes.infer_shapes(model)
    return model


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def changed_as(
    apply: Callable[[ir.Graph], int], build: Callable[[Emitter, ir.Value], ir.Value]
) -> tuple[int, list[str]]:
    """(changes, operators left) of a pass, after proving that y is the same."""
    x = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    before = evaluator(graph(build)).run(["y"], {"x": x})[0]
    model = graph(build)
    changes = apply(model.graph)
    passes.tidy(model)
    passes.infer_shapes(model)
    np.testing.assert_allclose(evaluator(model).run(["y"], {"x": x})[0], before, rtol=1e-5, atol=1e-6)
    return changes, operators(model)


def weights(op: Emitter, outside: int = 4) -> ir.Value:
    return op.constant(np.random.default_rng(1).normal(size=(outside, 3, 1, 1)).astype(np.float32))


def scale(op: Emitter, *shape: int) -> ir.Value:
    return op.constant(np.random.default_rng(2).uniform(0.5, 2, shape).astype(np.float32))


def zero(op: Emitter) -> ir.Value:
    return op.constant(np.float32(0))


def test_transposes_that_undo_each_other_vanish() -> None:
    def build(op: Any, x: ir.Value) -> ir.Value:
        return op.Relu(op.Transpose(op.Transpose(x, perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2]))

    assert changed_as(passes.compose_transposes, build) == (1, ["Relu"])


def test_transposes_that_do_not_undo_each_other_become_one() -> None:
    def build(op: Any, x: ir.Value) -> ir.Value:
        return op.Relu(op.Transpose(op.Transpose(x, perm=[0, 2, 3, 1]), perm=[0, 2, 1, 3]))

    assert changed_as(passes.compose_transposes, build) == (1, ["Transpose", "Relu"])


def test_pooling_moves_before_a_transpose() -> None:
    def build(op: Any, x: ir.Value) -> ir.Value:
        return op.ReduceMean(op.Transpose(x, perm=[0, 2, 3, 1]), op.integers(1, 2), keepdims=0)

    assert changed_as(passes.reduce_before_transpose, build) == (1, ["ReduceMean"])


def test_pooling_stays_where_the_order_of_axes_would_change() -> None:
    def build(op: Any, x: ir.Value) -> ir.Value:
        return op.ReduceMean(op.Transpose(x, perm=[0, 3, 2, 1]), op.integers(1), keepdims=0)

    assert changed_as(passes.reduce_before_transpose, build) == (0, ["Transpose", "ReduceMean"])


@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 1, 1, 0), (2, 0, 0, 1)])
def test_zero_padding_before_max_pooling_becomes_a_border(pads: tuple[int, ...]) -> None:
    def build(op: Any, x: ir.Value) -> ir.Value:
        top, left, bottom, right = pads
        padded = op.Pad(x, op.integers(0, 0, top, left, 0, 0, bottom, right), zero(op))
        return op.MaxPool(padded, kernel_shape=[3, 3], strides=[2, 2])

    assert changed_as(passes.separate_padding_from_max_pool, build) == (1, ["MaxPool", "Max"])


@pytest.mark.parametrize("value", [1.0, -5.0])
def test_other_padding_stays(value: float) -> None:
    def build(op: Any, x: ir.Value) -> ir.Value:
        padded = op.Pad(x, op.integers(0, 0, 1, 1, 0, 0, 1, 1), op.constant(np.float32(value)))
        return op.MaxPool(padded, kernel_shape=[3, 3], strides=[2, 2])

    assert changed_as(passes.separate_padding_from_max_pool, build) == (0, ["Pad", "MaxPool"])


def test_padding_read_by_others_too_stays() -> None:
    def build(op: Any, x: ir.Value) -> ir.Value:
        padded = op.Pad(x, op.integers(0, 0, 1, 1, 0, 0, 1, 1), zero(op))
        return op.Add(op.MaxPool(padded, kernel_shape=[1, 1]), padded)

    assert changed_as(passes.separate_padding_from_max_pool, build)[0] == 0


@pytest.mark.parametrize("with_bias", [True, False])
def test_batch_normalization_merges_into_the_convolution(with_bias: bool) -> None:
    def build(op: Any, x: ir.Value) -> ir.Value:
        bias = [scale(op, 4)] if with_bias else []
        statistics = [scale(op, 4), scale(op, 4), scale(op, 4), scale(op, 4)]
        return op.Relu(op.BatchNormalization(op.Conv(x, weights(op), *bias), *statistics, epsilon=1e-3))

    assert changed_as(fold_batch_normalization, build) == (1, ["Conv", "Relu"])


def test_batch_normalization_as_the_output_keeps_its_name() -> None:
    def build(op: Any, x: ir.Value) -> ir.Value:
        return op.BatchNormalization(op.Conv(x, weights(op)), *(scale(op, 4) for _ in range(4)))

    assert changed_as(fold_batch_normalization, build) == (1, ["Conv"])


def test_batch_normalization_of_a_shared_convolution_stays() -> None:
    def build(op: Any, x: ir.Value) -> ir.Value:
        made = op.Conv(x, weights(op))
        return op.Add(made, op.BatchNormalization(made, *(scale(op, 4) for _ in range(4))))

    assert changed_as(fold_batch_normalization, build)[0] == 0


def merge_all(made: ir.Graph) -> int:
    return passes.merge_scale_and_shift(made, set(made))


@pytest.mark.parametrize("shape", [(16, 1, 1), (1, 16, 1, 1)])
def test_scale_and_shift_become_one_normalization(shape: tuple[int, ...]) -> None:
    def build(op: Any, x: ir.Value) -> ir.Value:
        made = op.Relu(op.Conv(x, weights(op, 16)))
        return op.Relu(op.Add(scale(op, *shape), op.Mul(made, scale(op, *shape))))

    assert changed_as(merge_all, build) == (1, ["Conv", "Relu", "BatchNormalization", "Relu"])


def test_scale_and_shift_as_the_output_keep_its_name() -> None:
    def build(op: Any, x: ir.Value) -> ir.Value:
        return op.Add(op.Mul(op.Relu(op.Conv(x, weights(op, 16))), scale(op, 16, 1, 1)), scale(op, 16, 1, 1))

    assert changed_as(merge_all, build)[0] == 1


@pytest.mark.parametrize(
    ("channels", "scaled", "shifted"),
    [
        (8, (8, 1, 1), (8, 1, 1)),  # fewer channels than a block
        (16, (1, 1, 1), (16, 1, 1)),  # one factor for all
        (16, (16, 1, 1), (6, 7)),  # a shift per pixel
        (16, (16, 6, 7), (16, 1, 1)),  # a factor per pixel
    ],
)
def test_other_scales_and_shifts_stay(channels: int, scaled: tuple[int, ...], shifted: tuple[int, ...]) -> None:
    def build(op: Any, x: ir.Value) -> ir.Value:
        made = op.Relu(op.Conv(x, weights(op, channels)))
        return op.Add(op.Mul(made, scale(op, *scaled)), scale(op, *shifted))

    assert changed_as(merge_all, build) == (0, ["Conv", "Relu", "Mul", "Add"])


def test_a_scale_that_others_read_too_stays() -> None:
    def build(op: Any, x: ir.Value) -> ir.Value:
        scaled = op.Mul(op.Relu(op.Conv(x, weights(op, 16))), scale(op, 16, 1, 1))
        return op.Mul(op.Add(scaled, scale(op, 16, 1, 1)), scaled)

    assert changed_as(merge_all, build)[0] == 0


def test_constants_are_computed_once() -> None:
    def build(op: Any, x: ir.Value) -> ir.Value:
        shape = op.Concat(op.Unsqueeze(op.constant(np.int64(-1)), op.integers(0)), op.integers(3 * 6 * 7), axis=0)
        factor = op.Sqrt(op.Add(scale(op, 1), op.constant(np.ones(1, np.float32))))
        return op.Mul(op.Reshape(x, shape), factor)

    assert changed_as(lambda made: fold_constants(made, 18), build) == (4, ["Reshape", "Mul"])


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1)])
@pytest.mark.parametrize("masked", [True, False])
def test_channel_scale_moves_into_the_weights(shape: tuple[int, ...], masked: bool) -> None:
    def build(op: Any, x: ir.Value) -> ir.Value:
        made = op.Conv(x, weights(op))
        if masked:
            made = op.Mul(op.Sigmoid(op.Concat(x, op.ReduceSum(x, op.integers(1)), axis=1)), made)
        return op.Relu(op.Mul(made, scale(op, *shape)))

    changes, left = changed_as(fold_channel_scales, build)
    assert changes == 1
    assert left.count("Mul") == (2 if masked else 1)
    assert left.index("Mul") < left.index("Conv")  # the weights are scaled


@pytest.mark.parametrize("shape", [(7,), (6, 1), (1, 1, 6, 7)])
def test_a_scale_that_is_not_per_channel_stays(shape: tuple[int, ...]) -> None:
    def build(op: Any, x: ir.Value) -> ir.Value:
        return op.Relu(op.Mul(op.Conv(x, weights(op)), scale(op, *shape)))

    assert changed_as(fold_channel_scales, build)[0] == 0


@pytest.mark.parametrize("spatial", [1, 3])
@pytest.mark.parametrize("shape", [(), (1,), (4, "ones")])
def test_scales_behind_convolutions_of_other_dimensions(spatial: int, shape: tuple) -> None:
    """One number, or one per channel, behind Conv1d and Conv3d."""

    def build(op: Any, x: ir.Value) -> ir.Value:
        sizes = [42] if spatial == 1 else [1, 6, 7]
        kernel = np.random.default_rng(1).normal(size=(4, 3, *[1] * spatial)).astype(np.float32)
        factor = scale(op, *(size for part in shape for size in ([1] * spatial if part == "ones" else [part])))
        made = op.Conv(op.Reshape(x, op.integers(0, 3, *sizes)), op.constant(kernel))
        return op.Relu(op.Mul(made, factor))

    assert changed_as(fold_channel_scales, build)[0] == 1


def test_nodes_of_the_forward_part_are_not_folded() -> None:
    def build(op: Any, x: ir.Value) -> ir.Value:
        return op.Relu(op.Mul(op.Conv(x, weights(op)), scale(op, 4, 1, 1)))

    assert changed_as(lambda made: fold_channel_scales(made, kept=set(made)), build)[0] == 0


def test_a_pinned_transpose_is_not_bypassed_by_the_pooling_behind_it() -> None:
    def build(op: Any, x: ir.Value) -> ir.Value:
        pinned = op.Transpose(x, perm=[0, 2, 3, 1])
        op.graph.outputs.append(pinned)
        return op.ReduceMean(pinned, op.integers(1, 2), keepdims=0)

    assert passes.reduce_before_transpose(graph(build).graph) == 0


def test_a_scale_behind_a_convolution_with_other_readers_stays() -> None:
    def build(op: Any, x: ir.Value) -> ir.Value:
        made = op.Conv(x, weights(op))
        return op.Add(made, op.Mul(made, scale(op, 4, 1, 1)))

    assert changed_as(fold_channel_scales, build)[0] == 0

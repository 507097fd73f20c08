"""CAM maps inside the graph, so that a deployed model explains itself wherever ONNX Runtime runs.

The formulas are those of `kernels.cam`, written as ONNX nodes over A and G of shape (N, C, h, w); a map is (N, h, w),
rectified and not rescaled. An undefined map (singular Grad-CAM++ weights, a target out of range) is NaN everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from export.autodiff.emit import Emitter, dimensions
from harness.common.errors import InputError

SINGULAR_BELOW = 1e-6
SINGULAR_SHARE = 0.01
XGRAD_EMPTY = 1e-12
SQUARINGS = 12  # of the matrix of Eigen-CAM: 4,096 steps of the power iteration

Method = Callable[[Emitter, ir.Value, ir.Value], ir.Value]


def fuse(op: Emitter, method: str, activations: ir.Value, gradients: ir.Value) -> ir.Value:
    """Append the nodes of one CAM method; returns its map (N, h, w)."""
    if method not in METHODS:
        raise InputError(f"unknown CAM method {method!r}; choose one of {', '.join(METHODS)}")
    return METHODS[method](op, activations, gradients)


def _number(op: Emitter, value: float) -> ir.Value:
    return op.constant(np.float32(value))


def _rectified_sum(op: Emitter, terms: ir.Value) -> ir.Value:
    """relu(sum over channels): (N, C, h, w) -> (N, h, w)."""
    return op.Relu(op.ReduceSum(terms, op.integers(1), keepdims=0))


def _over_positions(op: Emitter, operator: str, values: ir.Value) -> ir.Value:
    """Sum or mean over the map: (N, C, h, w) -> (N, C, 1, 1)."""
    return op.__getattr__(operator)(values, op.integers(2, 3), keepdims=1)


def _gradcam(op: Emitter, a: ir.Value, g: ir.Value) -> ir.Value:
    """w_k = mean(G_k); M = relu(sum_k w_k A_k). Selvaraju 2017, arXiv 1610.02391."""
    return _rectified_sum(op, op.Mul(_over_positions(op, "ReduceMean", g), a))


def _layercam(op: Emitter, a: ir.Value, g: ir.Value) -> ir.Value:
    """M = relu(sum_k relu(G_k) A_k). Jiang 2021, doi:10.1109/TIP.2021.3089943."""
    return _rectified_sum(op, op.Mul(op.Relu(g), a))


def _hirescam(op: Emitter, a: ir.Value, g: ir.Value) -> ir.Value:
    """M = relu(sum_k G_k A_k). Draelos & Carin 2020, arXiv 2011.08891."""
    return _rectified_sum(op, op.Mul(g, a))


def _xgradcam(op: Emitter, a: ir.Value, g: ir.Value) -> ir.Value:
    """w_k = sum(G_k A_k) / sum(A_k), 0 where |sum(A_k)| < 1e-12. Fu 2020, arXiv 2008.02312."""
    mass = _over_positions(op, "ReduceSum", a)
    empty = op.Less(op.Abs(mass), _number(op, XGRAD_EMPTY))
    ratio = op.Div(_over_positions(op, "ReduceSum", op.Mul(g, a)), op.Where(empty, _number(op, 1.0), mass))
    return _rectified_sum(op, op.Mul(op.Where(empty, _number(op, 0.0), ratio), a))


def _gradcam_plus_plus(op: Emitter, a: ir.Value, g: ir.Value) -> ir.Value:
    """w_k = sum(relu(G_k) / (2 + G_k sum(A_k))); M = relu(sum_k w_k A_k). Chattopadhay 2018, arXiv 1710.11063."""
    return _plus_plus(op, a, g, "ReduceSum")


def _gradcam_plus_plus_mean(op: Emitter, a: ir.Value, g: ir.Value) -> ir.Value:
    """w_k = mean(relu(G_k) / (2 + G_k mean(A_k))); M = relu(sum_k w_k A_k). Xplique's GradCAMPP, arXiv 2206.04394."""
    return _plus_plus(op, a, g, "ReduceMean")


def _plus_plus(op: Emitter, a: ir.Value, g: ir.Value, over: str) -> ir.Value:
    """Grad-CAM++ with the operator `over` positions.

    Elements with G > 0 and a denominator <= 1e-6 are left out; more than 1 % of them make the map undefined.
    """
    denominator = op.Add(op.Mul(g, _over_positions(op, over, a)), _number(op, 2.0))
    positive = op.Greater(g, _number(op, 0.0))
    sound = op.And(positive, op.Greater(denominator, _number(op, SINGULAR_BELOW)))
    weights = op.Where(sound, op.Div(g, op.Where(sound, denominator, _number(op, 1.0))), _number(op, 0.0))
    kept = _rectified_sum(op, op.Mul(_over_positions(op, over, weights), a))
    return op.Add(kept, _undefined(op, positive, sound))


def _eigencam(op: Emitter, a: ir.Value, _g: ir.Value) -> ir.Value:
    """M = relu(s u), u the leading right singular vector of A (C, P), s its singular value. Muhammad & Yeasin 2020.

    u is the direction of K^(2^SQUARINGS) 1 with K = A^T A (P, P), or A^T (A A^T)^(2^SQUARINGS - 1) A 1 where C is
    smaller than P. So its sum is positive.
    """
    rows = op.Reshape(a, op.integers(0, 0, -1))  # (N, C, P)
    channels, *sizes = (size for size in dimensions(a)[1:] if size is not None)
    by_channel = channels < math.prod(sizes)
    turned = op.Transpose(rows, perm=[0, 2, 1])  # (N, P, C)
    vector = op.MatMul(turned, op.ReduceSum(rows, op.integers(2), keepdims=1))  # A^T A 1, (N, P, 1)
    vector = op.MatMul(rows, vector) if by_channel else vector
    product = op.MatMul(rows, turned) if by_channel else op.MatMul(turned, rows)
    for _ in range(SQUARINGS):
        product = _of_length_one(op, product)
        product = op.MatMul(product, product)
    vector = op.MatMul(_of_length_one(op, product), vector)
    vector = _of_length_one(op, op.MatMul(turned, vector) if by_channel else vector)
    value = op.ReduceL2(op.MatMul(rows, vector), op.integers(1, 2), keepdims=1)  # |A u|, the singular value
    return op.Relu(op.Reshape(op.Mul(vector, value), op.integers(0, *sizes)))


def _of_length_one(op: Emitter, values: ir.Value) -> ir.Value:
    """Matrices (N, ., .) divided by their Frobenius norms; one that is zero stays so."""
    length = op.ReduceL2(values, op.integers(1, 2), keepdims=1)
    return op.Div(values, op.Where(op.Greater(length, _number(op, 0.0)), length, _number(op, 1.0)))


def _undefined(op: Emitter, positive: ir.Value, sound: ir.Value) -> ir.Value:
    """(N, 1, 1): NaN where too many positive gradients have no weight, else 0."""
    count, good = (_per_image(op, op.Cast(mask, to=ir.DataType.FLOAT)) for mask in (positive, sound))
    singular = op.Greater(op.Sub(count, good), op.Mul(count, _number(op, SINGULAR_SHARE)))
    return op.Where(singular, _number(op, float("nan")), _number(op, 0.0))


def _per_image(op: Emitter, values: ir.Value) -> ir.Value:
    """Sum over everything but the batch: (N, C, h, w) -> (N, 1, 1)."""
    return op.Squeeze(op.ReduceSum(values, op.integers(1, 2, 3), keepdims=1), op.integers(1))


METHODS: Mapping[str, Method] = {
    "gradcam": _gradcam,
    "gradcam++": _gradcam_plus_plus,
    "gradcam++-mean": _gradcam_plus_plus_mean,
    "layercam": _layercam,
    "hirescam": _hirescam,
    "xgradcam": _xgradcam,
    "eigencam": _eigencam,
}

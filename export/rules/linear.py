"""Matrix products and normalisation with fixed statistics."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.engine import Step, define, describe, unbroadcast
from harness.errors import InputError


def _swapped(s: Step, matrix: ir.Value) -> ir.Value:
    """The transpose of the last two axes."""
    order = list(range(len(s.shape(matrix))))
    order[-2:] = order[-1], order[-2]
    return s.op.Transpose(matrix, perm=order)


def _matmul_left(s: Step) -> ir.Value:
    """Y = A B: A' = G B^T, summed over batch axes along which A was broadcast."""
    _refuse_vectors(s)
    return unbroadcast(s, s.op.MatMul(s.g, _swapped(s, s.b)), s.a)


def _matmul_right(s: Step) -> ir.Value:
    """Y = A B: B' = A^T G, summed over batch axes along which B was broadcast."""
    _refuse_vectors(s)
    return unbroadcast(s, s.op.MatMul(_swapped(s, s.a), s.g), s.b)


def _gemm_left(s: Step) -> ir.Value:
    """Y = alpha op(A) op(B) + beta C: op(A)' = alpha G op(B)^T."""
    scaled = _scaled(s, s.g, s.attribute("alpha", 1.0))
    b_transposed = s.attribute("transB", 0)
    if s.attribute("transA", 0):
        return s.op.Gemm(s.b, scaled, transA=int(b_transposed), transB=1)
    return s.op.Gemm(scaled, s.b, transB=int(not b_transposed))


def _gemm_right(s: Step) -> ir.Value:
    """Y = alpha op(A) op(B) + beta C: op(B)' = alpha op(A)^T G."""
    scaled = _scaled(s, s.g, s.attribute("alpha", 1.0))
    a_transposed = s.attribute("transA", 0)
    if s.attribute("transB", 0):
        return s.op.Gemm(scaled, s.a, transA=1, transB=int(a_transposed))
    return s.op.Gemm(s.a, scaled, transA=int(not a_transposed))


def _gemm_bias(s: Step) -> ir.Value:
    """Y = alpha op(A) op(B) + beta C: C' = beta G, summed where C was broadcast."""
    return unbroadcast(s, _scaled(s, s.g, s.attribute("beta", 1.0)), s.c)


def _scaled(s: Step, value: ir.Value, factor: float) -> ir.Value:
    return value if factor == 1.0 else s.op.Mul(value, s.number(factor))


def _batch_normalized(s: Step) -> ir.Value:
    """Y = scale (X - mean) / sqrt(var + epsilon) + bias, per channel, statistics fixed."""
    if s.attribute("training_mode", 0):
        raise InputError(f"{describe(s.node)}: is in training mode; export the model for inference")
    scale, variance = s.constant(1), s.constant(4)
    factor = scale / np.sqrt(variance + s.attribute("epsilon", 1e-5))
    per_channel = factor.astype(scale.dtype).reshape(-1, *[1] * (len(s.shape(s.a)) - 2))  # (C, 1, ..., 1)
    return s.op.Mul(s.g, s.op.constant(per_channel))


def _refuse_vectors(s: Step) -> None:
    if min(len(s.shape(s.a)), len(s.shape(s.b))) < 2:
        raise InputError(f"{describe(s.node)}: products with a vector cannot be differentiated; use matrices")


define("MatMul", _matmul_left, _matmul_right)
define("Gemm", _gemm_left, _gemm_right, _gemm_bias)


def _local_response(s: Step) -> ir.Value:
    """y = x D^-beta, D = bias + (alpha / size) sum of x^2 over a window of channels:

    x' = g D^-beta - 2 (alpha / size) beta x sum over the window of (g x D^(-beta - 1)).

    Krizhevsky 2012, section 3.3.
    """
    size, beta = s.attribute("size", 0), s.attribute("beta", 0.75)
    rate = s.attribute("alpha", 1e-4) / size
    squares = _over_channels(s, s.op.Mul(s.a, s.a), size)
    base = s.op.Add(s.number(s.attribute("bias", 1.0)), s.op.Mul(squares, s.number(rate)))
    direct = s.op.Mul(s.g, s.op.Pow(base, s.number(-beta)))
    through = _over_channels(s, s.op.Mul(s.a, s.op.Div(direct, base)), size)
    return s.op.Sub(direct, s.op.Mul(s.op.Mul(s.a, through), s.number(2 * rate * beta)))


def _over_channels(s: Step, value: ir.Value, size: int) -> ir.Value:
    """The sum over `size` (odd) neighbouring channels."""
    channels = s.shape(s.a)[1]
    rows = s.op.Reshape(value, s.op.integers(0, 1, channels or -1, -1))  # (N, 1, C, h w)
    half = size // 2
    mean = s.op.AveragePool(rows, kernel_shape=[size, 1], pads=[half, 0, half, 0], count_include_pad=1)
    return s.reshaped(s.op.Mul(mean, s.number(float(size))), s.a)


define("LRN", _local_response, note="odd sizes")
define("BatchNormalization", _batch_normalized, note="inference form: mean and variance are constants")

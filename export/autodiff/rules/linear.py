"""Matrix products."""

from __future__ import annotations

import onnx_ir as ir

from export.autodiff.engine import Step, define, describe, unbroadcast
from harness.common.errors import InputError


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


def _refuse_vectors(s: Step) -> None:
    if min(len(s.shape(s.a)), len(s.shape(s.b))) < 2:
        raise InputError(f"{describe(s.node)}: products with a vector cannot be differentiated; use matrices")


define("MatMul", _matmul_left, _matmul_right)
define("Gemm", _gemm_left, _gemm_right, _gemm_bias)

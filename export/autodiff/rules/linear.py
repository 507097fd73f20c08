"""Matrix products."""

from __future__ import annotations

import onnx_ir as ir

from export.autodiff.engine import Step, define, unbroadcast


def _swapped(s: Step, matrix: ir.Value) -> ir.Value:
    """The transpose of the last two axes."""
    order = list(range(len(s.shape(matrix))))
    order[-2:] = order[-1], order[-2]
    return s.op.Transpose(matrix, perm=order)


def _matmul_left(s: Step) -> ir.Value:
    """Y = A B: A' = G B^T, summed over batch axes along which A was broadcast."""
    if _has_vector(s):
        return _vector_left(s)
    return unbroadcast(s, s.op.MatMul(s.g, _swapped(s, s.b)), s.a)


def _matmul_right(s: Step) -> ir.Value:
    """Y = A B: B' = A^T G, summed over batch axes along which B was broadcast."""
    if _has_vector(s):
        return _vector_right(s)
    return unbroadcast(s, s.op.MatMul(_swapped(s, s.a), s.g), s.b)


def _has_vector(s: Step) -> bool:
    return min(len(s.shape(s.a)), len(s.shape(s.b))) < 2


def _vector_left(s: Step) -> ir.Value:
    """a (k), B (..., k, m): a' = sum of B g over all but k. A (..., n, k), b (k): A' = g b^T."""
    if len(s.shape(s.a)) > 1:
        return s.op.Mul(s.op.Unsqueeze(s.g, s.op.integers(-1)), s.b)
    column = s.g if len(s.shape(s.b)) == 1 else s.op.Unsqueeze(s.g, s.op.integers(-2))  # (..., 1, m)
    return _summed_but(s, s.op.Mul(s.b, column), len(s.shape(s.b)), kept=-2)


def _vector_right(s: Step) -> ir.Value:
    """A (..., n, k), b (k): b' = sum of A g over all but k. a (k), B (..., k, m): B' = a g^T."""
    if len(s.shape(s.b)) > 1:
        return s.op.Mul(s.op.Unsqueeze(s.a, s.op.integers(-1)), s.op.Unsqueeze(s.g, s.op.integers(-2)))
    column = s.g if len(s.shape(s.a)) == 1 else s.op.Unsqueeze(s.g, s.op.integers(-1))  # (..., n, 1)
    return _summed_but(s, s.op.Mul(s.a, column), len(s.shape(s.a)), kept=-1)


def _summed_but(s: Step, terms: ir.Value, rank: int, kept: int) -> ir.Value:
    """The sum over all axes but one, of a vector the vector itself."""
    axes = [axis for axis in range(rank) if axis != rank + kept]
    return s.op.ReduceSum(terms, s.op.integers(*axes), keepdims=0) if rank > 1 else terms


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


define("MatMul", _matmul_left, _matmul_right)
define("Gemm", _gemm_left, _gemm_right, _gemm_bias)

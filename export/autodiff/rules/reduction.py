"""Sums, products, norms, extrema, running sums and softmax over axes."""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from export.autodiff.engine import Step, define
from export.autodiff.rules.pooling import shared_by_equals


def _reduced_axes(s: Step) -> list[int]:
    """The axes that were reduced, non-negative and ascending; all of them where none are named."""
    rank = len(s.shape(s.a))
    if not s.has(1) or s.constant(1).size == 0:
        return [] if s.attribute("noop_with_empty_axes", 0) else list(range(rank))
    return sorted(int(axis) % rank for axis in s.constant(1))


def _spread_out(s: Step, value: ir.Value) -> ir.Value:
    """A value of the reduced shape, repeated along the reduced axes."""
    axes = _reduced_axes(s)
    if not axes:
        return value
    if not s.attribute("keepdims", 1):
        value = s.op.Unsqueeze(value, s.op.integers(*axes))
    sizes = s.shape(s.a)
    if any(sizes[axis] is None for axis in axes):
        return s.op.Expand(value, s.op.Shape(s.a))
    return s.op.Expand(value, s.op.integers(*(sizes[a] or 1 if a in axes else 1 for a in range(len(sizes)))))


def _mean(s: Step) -> ir.Value:
    """y = mean over axes: x' = g / count."""
    sizes = [s.shape(s.a)[axis] for axis in _reduced_axes(s)]
    if any(size is None for size in sizes):
        count = s.op.Cast(s.op.Div(s.op.Size(s.a), s.op.Size(s.y)), to=s.a.dtype)
        return _spread_out(s, s.op.Div(s.g, count))
    return _spread_out(s, s.op.Mul(s.g, s.number(1.0 / prod(size for size in sizes if size is not None))))


def _extremum(s: Step) -> ir.Value:
    """y = max or min over axes: g, shared by the elements that reach it."""
    axes = _reduced_axes(s)
    if not axes:
        return s.g
    kept = s.attribute("keepdims", 1)
    extremum, cotangent = (v if kept else s.op.Unsqueeze(v, s.op.integers(*axes)) for v in (s.y, s.g))
    return shared_by_equals(s, extremum, cotangent, axes)


def _euclidean(s: Step) -> ir.Value:
    """y = sqrt(sum x^2): x g / y, and 0 where y = 0."""
    share = s.op.Where(s.op.Equal(s.y, s.number(0.0)), s.number(0.0), s.op.Div(s.g, s.y))
    return s.op.Mul(s.a, _spread_out(s, share))


def _log_sum_exp(s: Step) -> ir.Value:
    """y = log sum exp(x): exp(x - y) g."""
    return s.op.Mul(_spread_out(s, s.g), s.op.Exp(s.op.Sub(s.a, _spread_out(s, s.y))))


def _product(s: Step) -> ir.Value:
    """y = product over axes: g times the product of the others, which may hold a zero, or be what a zero hides."""
    axes = s.op.integers(*_reduced_axes(s)) if _reduced_axes(s) else None
    if axes is None:
        return s.g
    zero = s.op.Equal(s.a, s.number(0.0))
    zeros = s.op.ReduceSum(s.op.CastLike(zero, s.a), axes, keepdims=1)
    filled = s.op.Where(zero, s.number(1.0), s.a)
    rest = s.op.Div(s.op.ReduceProd(filled, axes, keepdims=1), filled)
    others = s.op.Sub(zeros, s.op.CastLike(zero, s.a))  # zeros among the others
    return s.op.Mul(_spread_out(s, s.g), s.op.Where(s.op.Equal(others, s.number(0.0)), rest, s.number(0.0)))


def _running_sum(s: Step) -> ir.Value:
    """y_i = x_1 + ... + x_i: x_i' = g_i + ... + g_n, the running sum from the other end."""
    backwards = int(not s.attribute("reverse", 0))
    return s.op.CumSum(s.g, s.b, exclusive=s.attribute("exclusive", 0), reverse=backwards)


def _softmax(s: Step) -> ir.Value:
    """y = exp(x) / sum exp(x): x' = y (g - sum(g y))."""
    weighted = s.op.Mul(s.g, s.y)
    return s.op.Sub(weighted, s.op.Mul(s.y, _summed(s, weighted)))


def _log_softmax(s: Step) -> ir.Value:
    """y = x - log sum exp(x): x' = g - exp(y) sum(g)."""
    return s.op.Sub(s.g, s.op.Mul(s.op.Exp(s.y), _summed(s, s.g)))


def _summed(s: Step, value: ir.Value) -> ir.Value:
    return s.op.ReduceSum(value, s.op.integers(s.attribute("axis", -1)), keepdims=1)


define("ReduceSum", lambda s: _spread_out(s, s.g))
define("ReduceMean", _mean)
define("ReduceMax", _extremum, ties="equal shares")
define("ReduceMin", _extremum, ties="equal shares")
define("ReduceL1", lambda s: s.op.Mul(s.op.Sign(s.a), _spread_out(s, s.g)), ties="0 at x = 0")
define("ReduceL2", _euclidean, ties="0 where the norm is 0")
define("ReduceSumSquare", lambda s: s.op.Mul(s.op.Mul(s.number(2.0), s.a), _spread_out(s, s.g)))
define("ReduceLogSum", lambda s: _spread_out(s, s.op.Div(s.g, s.op.Exp(s.y))))
define("ReduceLogSumExp", _log_sum_exp)
define("ReduceProd", _product)
define("CumSum", _running_sum)
define("Softmax", _softmax)
define("LogSoftmax", _log_softmax)

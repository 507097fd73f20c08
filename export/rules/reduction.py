"""Sums, means, maxima and softmax over axes."""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from export.engine import Step, define
from export.rules.pooling import shared_by_maxima


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


def _maximum(s: Step) -> ir.Value:
    """y = max over axes: g, shared by the elements that reach it."""
    axes = _reduced_axes(s)
    if not axes:
        return s.g
    kept = s.attribute("keepdims", 1)
    maximum, cotangent = (v if kept else s.op.Unsqueeze(v, s.op.integers(*axes)) for v in (s.y, s.g))
    return shared_by_maxima(s, maximum, cotangent, axes)


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
define("ReduceMax", _maximum, ties="equal shares")
define("Softmax", _softmax)
define("LogSoftmax", _log_softmax)

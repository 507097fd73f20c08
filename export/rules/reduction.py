"""Sums and means over axes."""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from export.engine import Step, define


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


define("ReduceSum", lambda s: _spread_out(s, s.g))
define("ReduceMean", _mean)

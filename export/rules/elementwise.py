"""Operators that work element by element, with NumPy broadcasting where they take several inputs."""

from __future__ import annotations

from functools import reduce

import onnx_ir as ir

from export.engine import Step, define, define_no_gradient, define_variadic, unbroadcast

define_no_gradient("Constant", "ConstantOfShape", "Shape", "Size", "Range", "ArgMax", "ArgMin", "OneHot", "NonZero")
define_no_gradient("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "Xor")
define_no_gradient("Sign", "Floor", "Ceil", "Round", "IsNaN", "IsInf")


def _sum_vjp(s: Step, active: frozenset[int]) -> list[ir.Value | None]:
    """y = x_0 + ... + x_n: every input receives g."""
    return [unbroadcast(s, s.g, s.input(i)) if i in active else None for i in range(len(s.node.inputs))]


def _clipped(s: Step) -> ir.Value:
    """y = min(max(x, low), high): g strictly inside the limits that are given, else 0."""
    inside = [s.op.Greater(s.a, s.b)] if s.has(1) else []
    inside += [s.op.Less(s.a, s.c)] if s.has(2) else []
    if not inside:
        return s.g
    return s.kept_where(s.op.And(*inside) if len(inside) == 2 else inside[0])


def _extremum_vjp(s: Step, active: frozenset[int]) -> list[ir.Value | None]:
    """y = max(x_0, ..., x_n) or min: g goes to the input that y was taken from, the first one in a tie."""
    cotangents: list[ir.Value | None] = [None] * len(s.node.inputs)
    for index in active:
        cotangents[index] = unbroadcast(s, s.kept_where(_taken_from(s, index)), s.input(index))
    return cotangents


def _taken_from(s: Step, index: int) -> ir.Value:
    earlier = [s.op.Not(s.op.Equal(s.input(i), s.y)) for i in range(index)]
    return reduce(s.op.And, earlier, s.op.Equal(s.input(index), s.y))


define("Identity", lambda s: s.g)
define("Dropout", lambda s: s.g, note="inference only")
define("Add", lambda s: s.g, lambda s: s.g, broadcast=True)
define("Sub", lambda s: s.g, lambda s: s.op.Neg(s.g), broadcast=True)
define("Mul", lambda s: s.op.Mul(s.g, s.b), lambda s: s.op.Mul(s.g, s.a), broadcast=True)
define("Neg", lambda s: s.op.Neg(s.g))
define_variadic("Sum", _sum_vjp)
define_variadic("Max", _extremum_vjp, ties="the first of the equal inputs")
define_variadic("Min", _extremum_vjp, ties="the first of the equal inputs")
define("Relu", lambda s: s.kept_where(s.op.Greater(s.y, s.number(0.0))), ties="0 at x = 0")
define("Clip", _clipped, ties="0 at a limit")

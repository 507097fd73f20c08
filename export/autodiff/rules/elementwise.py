"""Operators that work element by element, with NumPy broadcasting where they take several inputs."""

from __future__ import annotations

from functools import reduce
from math import pi, sqrt

import onnx_ir as ir

from export.autodiff.engine import Step, define, define_no_gradient, define_variadic, describe, unbroadcast
from harness.common.errors import InputError

define_no_gradient("Constant", "ConstantOfShape", "Shape", "Size", "Range", "ArgMax", "ArgMin", "OneHot", "NonZero")
define_no_gradient("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "Xor")
define_no_gradient("Sign", "Floor", "Ceil", "Round", "IsNaN", "IsInf", "Hardmax")


def _sum_vjp(s: Step, active: frozenset[int]) -> list[ir.Value | None]:
    """y = x_0 + ... + x_n: every input receives g."""
    return [unbroadcast(s, s.g, s.input(i)) if i in active else None for i in range(len(s.node.inputs))]


def _mean_vjp(s: Step, active: frozenset[int]) -> list[ir.Value | None]:
    """y = (x_0 + ... + x_n) / n: every input receives g / n."""
    count = len(s.node.inputs)
    share = s.op.Mul(s.g, s.number(1.0 / count))
    return [unbroadcast(s, share, s.input(i)) if i in active else None for i in range(count)]


def _extremum_vjp(s: Step, active: frozenset[int]) -> list[ir.Value | None]:
    """y = max(x_0, ..., x_n) or min: g goes to the input that y was taken from, the first one in a tie."""
    cotangents: list[ir.Value | None] = [None] * len(s.node.inputs)
    for index in active:
        cotangents[index] = unbroadcast(s, s.kept_where(_taken_from(s, index)), s.input(index))
    return cotangents


def _taken_from(s: Step, index: int) -> ir.Value:
    earlier = [s.op.Not(s.op.Equal(s.input(i), s.y)) for i in range(index)]
    return reduce(s.op.And, earlier, s.op.Equal(s.input(index), s.y))


def _power_base(s: Step) -> ir.Value:
    """y = x^p: p x^(p - 1) g, and 0 for p = 0, where x^(p - 1) may be infinite."""
    exponent = s.op.CastLike(s.b, s.a)
    slope = s.op.Mul(exponent, s.op.Pow(s.a, s.op.Sub(exponent, s.number(1.0))))
    return s.op.Mul(s.g, s.op.Where(s.op.Equal(exponent, s.number(0.0)), s.number(0.0), slope))


def _power_exponent(s: Step) -> ir.Value:
    """y = x^p: y log(x) g, and 0 where x <= 0."""
    positive = s.op.Greater(s.a, s.number(0.0))
    logarithm = s.op.Log(s.op.Where(positive, s.a, s.number(1.0)))
    return s.op.Mul(s.g, s.op.Mul(s.y, logarithm))


def _clipped(s: Step) -> ir.Value:
    """y = min(max(x, low), high): g strictly inside the limits that are given, else 0."""
    inside = [s.op.Greater(s.a, s.b)] if s.has(1) else []
    inside += [s.op.Less(s.a, s.c)] if s.has(2) else []
    return s.kept_where(reduce(s.op.And, inside)) if inside else s.g


def _remainder_divisor(s: Step) -> ir.Value:
    """y = a - b trunc(a / b), the remainder with the sign of a: -trunc(a / b) g towards b."""
    quotient = s.op.Div(s.op.Sub(s.a, s.y), s.b)
    return s.op.Neg(s.op.Mul(s.g, s.op.Round(quotient)))


def _remainder_dividend(s: Step) -> ir.Value:
    if not s.attribute("fmod", 0):
        raise InputError(f"{describe(s.node)}: only fmod=1 is defined for floating-point numbers; export it so")
    return s.g


def _kept(s: Step) -> ir.Value:
    """y = x: what Dropout is but in training."""
    if s.has(2) and s.constant(2).any():
        raise InputError(f"{describe(s.node)}: is in training mode; export the model for inference")
    return s.g


def _squared(s: Step, value: ir.Value) -> ir.Value:
    return s.op.Mul(value, value)


define("Identity", lambda s: s.g)
define("Dropout", _kept, note="inference only")
define("Cast", lambda s: s.op.CastLike(s.g, s.a), note="between floating-point types")
define("CastLike", lambda s: s.op.CastLike(s.g, s.a), note="between floating-point types")
define("Add", lambda s: s.g, lambda s: s.g, broadcast=True)
define("Sub", lambda s: s.g, lambda s: s.op.Neg(s.g), broadcast=True)
define("Mul", lambda s: s.op.Mul(s.g, s.b), lambda s: s.op.Mul(s.g, s.a), broadcast=True)
define(
    "Div",
    lambda s: s.op.Div(s.g, s.b),
    lambda s: s.op.Neg(s.op.Mul(s.g, s.op.Div(s.y, s.b))),
    broadcast=True,
)
define("Pow", _power_base, _power_exponent, broadcast=True, note="0 towards the exponent where x <= 0")
define_variadic("Sum", _sum_vjp)
define_variadic("Mean", _mean_vjp)
define_variadic("Max", _extremum_vjp, ties="the first of the equal inputs")
define_variadic("Min", _extremum_vjp, ties="the first of the equal inputs")
define(
    "Where",
    None,
    lambda s: s.op.Where(s.a, s.g, s.op.CastLike(s.op.constant(0.0), s.g)),
    lambda s: s.op.Where(s.a, s.op.CastLike(s.op.constant(0.0), s.g), s.g),
    broadcast=True,
)
define("Neg", lambda s: s.op.Neg(s.g))
define("Abs", lambda s: s.op.Mul(s.g, s.op.Sign(s.a)), ties="0 at x = 0")
define("Sqrt", lambda s: s.op.Div(s.op.Mul(s.g, s.number(0.5)), s.y))
define("Exp", lambda s: s.op.Mul(s.g, s.y))
define("Log", lambda s: s.op.Div(s.g, s.a))
define("Reciprocal", lambda s: s.op.Neg(s.op.Mul(s.g, s.op.Mul(s.y, s.y))))
define("Clip", _clipped, ties="0 at a limit")
define("Erf", lambda s: s.op.Mul(s.g, s.op.Mul(s.number(2 / sqrt(pi)), s.op.Exp(s.op.Neg(_squared(s, s.a))))))
define("Sin", lambda s: s.op.Mul(s.g, s.op.Cos(s.a)))
define("Cos", lambda s: s.op.Neg(s.op.Mul(s.g, s.op.Sin(s.a))))
define("Tan", lambda s: s.op.Mul(s.g, s.op.Add(s.number(1.0), _squared(s, s.y))))
define("Asin", lambda s: s.op.Div(s.g, s.op.Sqrt(s.op.Sub(s.number(1.0), _squared(s, s.a)))))
define("Acos", lambda s: s.op.Neg(s.op.Div(s.g, s.op.Sqrt(s.op.Sub(s.number(1.0), _squared(s, s.a))))))
define("Atan", lambda s: s.op.Div(s.g, s.op.Add(s.number(1.0), _squared(s, s.a))))
define("Sinh", lambda s: s.op.Mul(s.g, s.op.Cosh(s.a)))
define("Cosh", lambda s: s.op.Mul(s.g, s.op.Sinh(s.a)))
define("Tanh", lambda s: s.op.Mul(s.g, s.op.Sub(s.number(1.0), _squared(s, s.y))))
define("Asinh", lambda s: s.op.Div(s.g, s.op.Sqrt(s.op.Add(_squared(s, s.a), s.number(1.0)))))
define("Acosh", lambda s: s.op.Div(s.g, s.op.Sqrt(s.op.Sub(_squared(s, s.a), s.number(1.0)))))
define("Atanh", lambda s: s.op.Div(s.g, s.op.Sub(s.number(1.0), _squared(s, s.a))))
define(
    "Mod", _remainder_dividend, _remainder_divisor, broadcast=True, ties="as if trunc(a / b) stayed", note="fmod=1 only"
)

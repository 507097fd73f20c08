"""Operators that work element by element, with NumPy broadcasting where they take several inputs."""

from __future__ import annotations

from functools import reduce

import onnx_ir as ir

from export.engine import Step, define, define_no_gradient, define_variadic, unbroadcast

STEEP = 3e38  # just below the largest float32

define_no_gradient("Constant", "ConstantOfShape", "Shape", "Size", "Range", "ArgMax", "ArgMin", "OneHot", "NonZero")
define_no_gradient("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "Xor")
define_no_gradient("Sign", "Floor", "Ceil", "Round", "IsNaN", "IsInf")


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


def _rectified(s: Step) -> ir.Value:
    """y = max(x, 0): g where y > 0.

    HardSigmoid with a huge slope is that mask as numbers, exact for every normal float: min(1, 3e38 y). On ONNX
    Runtime's CPU provider it and a product take less time than a comparison and a Where (12 % of the whole backward
    pass of DenseNet201 from pool3). Half precision cannot hold the slope.
    """
    if s.a.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return s.kept_where(s.op.Greater(s.y, s.number(0.0)))
    return s.op.Mul(s.g, s.op.HardSigmoid(s.y, alpha=STEEP, beta=0.0))


def _clipped(s: Step) -> ir.Value:
    """y = min(max(x, low), high): g strictly inside the limits that are given, else 0."""
    inside = [s.op.Greater(s.a, s.b)] if s.has(1) else []
    inside += [s.op.Less(s.a, s.c)] if s.has(2) else []
    return s.kept_where(reduce(s.op.And, inside)) if inside else s.g


def _leaky(s: Step, slope: ir.Value) -> ir.Value:
    """y = x for x > 0, slope x below: g, or slope g."""
    return s.op.Where(_positive(s), s.g, s.op.Mul(s.g, slope))


def _elu(s: Step) -> ir.Value:
    """y = x for x > 0, alpha (exp(x) - 1) below, whose slope is y + alpha."""
    return _leaky(s, s.op.Add(s.y, s.number(s.attribute("alpha", 1.0))))


def _sigmoid(s: Step) -> ir.Value:
    """y = 1 / (1 + exp(-x)): y (1 - y) g."""
    return s.op.Mul(s.g, s.op.Mul(s.y, s.op.Sub(s.number(1.0), s.y)))


def _hard_sigmoid(s: Step) -> ir.Value:
    """y = clip(alpha x + beta, 0, 1): alpha g strictly between 0 and 1."""
    inside = s.op.And(s.op.Greater(s.y, s.number(0.0)), s.op.Less(s.y, s.number(1.0)))
    return s.op.Mul(s.kept_where(inside), s.number(s.attribute("alpha", 0.2)))


def _hard_swish(s: Step) -> ir.Value:
    """y = x clip(x / 6 + 1/2, 0, 1): slope x / 3 + 1/2 for |x| < 3, 1 above, 0 below."""
    middle = s.op.Add(s.op.Mul(s.a, s.number(1 / 3)), s.number(0.5))
    below = s.op.Where(s.op.GreaterOrEqual(s.a, s.number(3.0)), s.number(1.0), middle)
    return s.op.Mul(s.g, s.op.Where(s.op.LessOrEqual(s.a, s.number(-3.0)), s.number(0.0), below))


def _positive(s: Step) -> ir.Value:
    return s.op.Greater(s.a, s.number(0.0))


define("Identity", lambda s: s.g)
define("Dropout", lambda s: s.g, note="inference only")
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
define("Relu", _rectified, ties="0 at x = 0")
define("LeakyRelu", lambda s: _leaky(s, s.number(s.attribute("alpha", 0.01))), ties="alpha at x = 0")
define(
    "PRelu",
    lambda s: _leaky(s, s.b),
    lambda s: s.op.Where(_positive(s), s.number(0.0), s.op.Mul(s.g, s.a)),
    broadcast=True,
    ties="the slope at x = 0",
)
define("Elu", _elu, ties="alpha at x = 0")
define("Sigmoid", _sigmoid)
define("HardSigmoid", _hard_sigmoid, ties="0 at a limit")
define("HardSwish", _hard_swish, ties="0 at x = -3, 1 at x = 3")
define("Softplus", lambda s: s.op.Mul(s.g, s.op.Sigmoid(s.a)))
define("Tanh", lambda s: s.op.Mul(s.g, s.op.Sub(s.number(1.0), s.op.Mul(s.y, s.y))))

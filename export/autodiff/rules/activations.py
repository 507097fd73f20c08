"""Activation functions, which work element by element."""

from __future__ import annotations

from math import pi, sqrt

import onnx_ir as ir

from export.autodiff.engine import OPSETS, Step, define

STEEP = 3e38  # just below the largest float32
# Nothing beside STEEP y of a normal y > 0, but not 0: OpenVINO 2026.4 reads a beta of 0 as the default, 0.5.
BARELY_BELOW = -1e-30


def _rectified(s: Step) -> ir.Value:
    """y = max(x, 0): g where y > 0.

    HardSigmoid with a huge slope is that mask as numbers, exact for every normal float: min(1, 3e38 y). On ONNX
    Runtime's CPU provider it and a product take less time than a comparison and a Where (12 % of the whole backward
    pass of DenseNet201 from pool3). Half precision cannot hold the slope.
    """
    if s.a.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return s.kept_where(s.op.Greater(s.y, s.number(0.0)))
    return s.op.Mul(s.g, s.op.HardSigmoid(s.y, alpha=STEEP, beta=BARELY_BELOW))


def _leaky(s: Step, slope: ir.Value) -> ir.Value:
    """y = x for x > 0, something else below: g, or slope g."""
    return s.op.Where(_positive(s), s.g, s.op.Mul(s.g, slope))


def _elu(s: Step) -> ir.Value:
    """y = x for x > 0, alpha (exp(x) - 1) below, whose slope is y + alpha."""
    return _leaky(s, s.op.Add(s.y, s.number(s.attribute("alpha", 1.0))))


def _celu(s: Step) -> ir.Value:
    """y = x for x > 0, alpha (exp(x / alpha) - 1) below, whose slope is y / alpha + 1."""
    return _leaky(s, s.op.Add(s.op.Div(s.y, s.number(s.attribute("alpha", 1.0))), s.number(1.0)))


def _selu(s: Step) -> ir.Value:
    """y = gamma x for x > 0, gamma alpha (exp(x) - 1) below, whose slope is y + gamma alpha.

    Klambauer et al. 2017, arXiv 1706.02515.
    """
    alpha, gamma = s.attribute("alpha", 1.67326319217681884765625), s.attribute("gamma", 1.05070102214813232421875)
    slope = s.op.Where(_positive(s), s.number(gamma), s.op.Add(s.y, s.number(gamma * alpha)))
    return s.op.Mul(s.g, slope)


def _sigmoid(s: Step) -> ir.Value:
    """y = 1 / (1 + exp(-x)): y (1 - y) g."""
    return s.op.Mul(s.g, s.op.Mul(s.y, _complement(s, s.y)))


def _hard_sigmoid(s: Step) -> ir.Value:
    """y = clip(alpha x + beta, 0, 1): alpha g strictly between 0 and 1."""
    inside = s.op.And(s.op.Greater(s.y, s.number(0.0)), s.op.Less(s.y, s.number(1.0)))
    return s.op.Mul(s.kept_where(inside), s.number(s.attribute("alpha", 0.2)))


def _hard_swish(s: Step) -> ir.Value:
    """y = x clip(x / 6 + 1/2, 0, 1): slope x / 3 + 1/2 for |x| < 3, 1 above, 0 below."""
    middle = s.op.Add(s.op.Mul(s.a, s.number(1 / 3)), s.number(0.5))
    below = s.op.Where(s.op.GreaterOrEqual(s.a, s.number(3.0)), s.number(1.0), middle)
    return s.op.Mul(s.g, s.op.Where(s.op.LessOrEqual(s.a, s.number(-3.0)), s.number(0.0), below))


def _swish(s: Step) -> ir.Value:
    """y = x p with p = 1 / (1 + exp(-alpha x)): slope p + alpha y (1 - p). Ramachandran 2017, arXiv 1710.05941."""
    alpha = s.number(s.attribute("alpha", 1.0))
    p = s.op.Sigmoid(s.op.Mul(s.a, alpha))
    return s.op.Mul(s.g, s.op.Add(p, s.op.Mul(s.op.Mul(alpha, s.y), _complement(s, p))))


def _gelu(s: Step) -> ir.Value:
    """y = x P(x), P the normal distribution: slope P + x p; or by tanh. Hendrycks & Gimpel 2016, arXiv 1606.08415."""
    if s.attribute("approximate", "none") == "tanh":
        return _gelu_by_tanh(s)
    square = s.op.Mul(s.a, s.a)
    density = s.op.Mul(s.op.Exp(s.op.Mul(square, s.number(-0.5))), s.number(1 / sqrt(2 * pi)))
    distribution = _half_raised(s, s.op.Erf(s.op.Mul(s.a, s.number(sqrt(0.5)))))
    return s.op.Mul(s.g, s.op.Add(distribution, s.op.Mul(s.a, density)))


def _gelu_by_tanh(s: Step) -> ir.Value:
    """y = x (1 + t) / 2, t = tanh(u), u = sqrt(2 / pi) (x + c x^3): slope (1 + t) / 2 + x (1 - t^2) u' / 2."""
    scale, cubic = sqrt(2 / pi), 0.044715
    square = s.op.Mul(s.a, s.a)
    inner = s.op.Add(s.number(scale), s.op.Mul(square, s.number(scale * cubic)))
    slope = s.op.Add(s.number(0.5 * scale), s.op.Mul(square, s.number(1.5 * scale * cubic)))  # u' / 2
    t = s.op.Tanh(s.op.Mul(s.a, inner))
    bend = s.op.Mul(s.op.Mul(s.a, slope), _complement(s, s.op.Mul(t, t)))
    return s.op.Mul(s.g, s.op.Add(_half_raised(s, t), bend))


def _mish(s: Step) -> ir.Value:
    """y = x t, t = tanh(log(1 + exp(x))): slope t + x (1 - t^2) / (1 + exp(-x)). Misra 2019, arXiv 1908.08681."""
    t = s.op.Tanh(s.op.Softplus(s.a))
    bend = s.op.Mul(s.op.Mul(s.a, s.op.Sigmoid(s.a)), _complement(s, s.op.Mul(t, t)))
    return s.op.Mul(s.g, s.op.Add(t, bend))


def _softsign(s: Step) -> ir.Value:
    """y = x / (1 + |x|): slope 1 / (1 + |x|)^2 = (1 - |y|)^2."""
    rest = _complement(s, s.op.Abs(s.y))
    return s.op.Mul(s.g, s.op.Mul(rest, rest))


def _shrunk(s: Step) -> ir.Value:
    """y = x - bias for x > lambd, x + bias for x < -lambd, 0 between: g outside."""
    return s.kept_where(s.op.Greater(s.op.Abs(s.a), s.number(s.attribute("lambd", 0.5))))


def _thresholded(s: Step) -> ir.Value:
    """y = x for x > alpha, 0 below: g above."""
    return s.kept_where(s.op.Greater(s.a, s.number(s.attribute("alpha", 1.0))))


def _positive(s: Step) -> ir.Value:
    return s.op.Greater(s.a, s.number(0.0))


def _complement(s: Step, value: ir.Value) -> ir.Value:
    """1 - value."""
    return s.op.Sub(s.number(1.0), value)


def _half_raised(s: Step, value: ir.Value) -> ir.Value:
    """(1 + value) / 2."""
    return s.op.Add(s.op.Mul(value, s.number(0.5)), s.number(0.5))


define("Relu", _rectified, ties="0 at x = 0")
define("LeakyRelu", lambda s: _leaky(s, s.number(s.attribute("alpha", 0.01))), ties="alpha at x = 0")
define(
    "PRelu",
    lambda s: _leaky(s, s.b),
    lambda s: s.op.Where(_positive(s), s.number(0.0), s.op.Mul(s.g, s.a)),
    broadcast=True,
    ties="the slope at x = 0",
)
define("ThresholdedRelu", _thresholded, ties="0 at x = alpha")
define("Shrink", _shrunk, ties="0 at |x| = lambd")
define("Elu", _elu, ties="alpha at x = 0")
define("Celu", _celu)
define("Selu", _selu, ties="gamma alpha at x = 0")
define("Sigmoid", _sigmoid)
define("HardSigmoid", _hard_sigmoid, ties="0 at a limit")
define("HardSwish", _hard_swish, ties="0 at x = -3, 1 at x = 3")
define("Swish", _swish, opsets=range(24, OPSETS.stop))
define("Gelu", _gelu, opsets=range(20, OPSETS.stop), note="exact and tanh")
define("Mish", _mish)
define("Softplus", lambda s: s.op.Mul(s.g, s.op.Sigmoid(s.a)))
define("Softsign", _softsign)

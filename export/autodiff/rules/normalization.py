"""Normalisation: with fixed statistics, by the statistics of the tensor itself, and by a norm.

For a tensor standardised over some axes, z = (x - mean) / d with d = sqrt(var + epsilon), the cotangent is

    x' = (z' - mean(z') - z mean(z z')) / d,

means taken over those axes (Ba et al. 2016, arXiv 1607.06450); without the middle term where the mean is not taken off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.autodiff.engine import OPSETS, Step, define, describe
from harness.common.errors import InputError


@dataclass(frozen=True)
class Standardized:
    """z = (x - mean) / deviation over some axes; `centred` is False where no mean is taken off."""

    step: Step
    z: ir.Value
    deviation: ir.Value
    axes: Sequence[int]
    centred: bool = True

    def back(self, cotangent: ir.Value) -> ir.Value:
        """The cotangent of x from that of z."""
        op = self.step.op
        product = op.Mul(self.z, _mean(self.step, op.Mul(self.z, cotangent), self.axes))
        left = op.Sub(cotangent, _mean(self.step, cotangent, self.axes)) if self.centred else cotangent
        return op.Div(op.Sub(left, product), self.deviation)


def _mean(s: Step, value: ir.Value, axes: Sequence[int]) -> ir.Value:
    return s.op.ReduceMean(value, s.op.integers(*axes), keepdims=1)


def _standardized(s: Step, x: ir.Value, axes: Sequence[int], centred: bool = True) -> Standardized:
    """x standardised over `axes`, with the node's epsilon."""
    rest = s.op.Sub(x, _mean(s, x, axes)) if centred else x
    variance = _mean(s, s.op.Mul(rest, rest), axes)
    deviation = s.op.Sqrt(s.op.Add(variance, s.number(s.attribute("epsilon", 1e-5))))
    return Standardized(s, s.op.Div(rest, deviation), deviation, axes, centred)


def _over_last_axes(s: Step) -> Standardized:
    """What LayerNormalization and RMSNormalization do: over the axes from `axis` on."""
    rank = len(s.shape(s.a))
    return _standardized(s, s.a, range(s.attribute("axis", -1) % rank, rank), s.node.op_type == "LayerNormalization")


def _layer_input(s: Step) -> ir.Value:
    """y = scale z + bias: z' = scale g."""
    return _over_last_axes(s).back(s.op.Mul(s.g, s.b))


def _layer_scale(s: Step) -> ir.Value:
    """y = scale z + bias: scale' = z g, summed where scale was broadcast."""
    return s.op.Mul(s.g, _over_last_axes(s).z)


def _instance(s: Step) -> ir.Value:
    """y = scale z + bias per image and channel. Ulyanov et al. 2016, arXiv 1607.08022."""
    rank = len(s.shape(s.a))
    scale = s.op.Reshape(s.b, s.op.integers(-1, *[1] * (rank - 2)))  # (C, 1, ...)
    return _standardized(s, s.a, range(2, rank)).back(s.op.Mul(s.g, scale))


def _group(s: Step) -> ir.Value:
    """y = scale z + bias per image and group of channels. Wu & He 2018, arXiv 1803.08494."""
    rank = len(s.shape(s.a))
    groups = s.op.integers(0, s.attribute("num_groups", 1), -1)
    scale = s.op.Reshape(s.b, s.op.integers(-1, *[1] * (rank - 2)))
    cotangent = s.op.Reshape(s.op.Mul(s.g, scale), groups)
    return s.reshaped(_standardized(s, s.op.Reshape(s.a, groups), [2]).back(cotangent), s.a)


def _unit_norm(s: Step) -> ir.Value:
    """y = x / |x|_p along an axis: (g - d sum(g y)) / |x|_p with d = sign(x) for p = 1, y for p = 2; 0 where x = 0."""
    axis = s.op.integers(s.attribute("axis", -1))
    order = s.attribute("p", 2)
    norm = s.op.ReduceL1(s.a, axis, keepdims=1) if order == 1 else s.op.ReduceL2(s.a, axis, keepdims=1)
    direction = s.op.Sign(s.a) if order == 1 else s.y
    through = s.op.Mul(direction, s.op.ReduceSum(s.op.Mul(s.g, s.y), axis, keepdims=1))
    nothing = s.op.Equal(norm, s.number(0.0))
    return s.op.Where(nothing, s.number(0.0), s.op.Div(s.op.Sub(s.g, through), norm))


def _batch_normalized(s: Step) -> ir.Value:
    """Y = scale (X - mean) / sqrt(var + epsilon) + bias, per channel, statistics fixed."""
    if s.attribute("training_mode", 0):
        raise InputError(f"{describe(s.node)}: is in training mode; export the model for inference")
    scale, variance = s.constant(1), s.constant(4)
    factor = scale / np.sqrt(variance + s.attribute("epsilon", 1e-5))
    per_channel = factor.astype(scale.dtype).reshape(-1, *[1] * (len(s.shape(s.a)) - 2))  # (C, 1, ..., 1)
    return s.op.Mul(s.g, s.op.constant(per_channel))


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
    """The sum over `size` (odd, as ONNX Runtime demands) neighbouring channels."""
    channels = s.shape(s.a)[1]
    rows = s.op.Reshape(value, s.op.integers(0, 1, channels or -1, -1))  # (N, 1, C, h w)
    half = size // 2
    mean = s.op.AveragePool(rows, kernel_shape=[size, 1], pads=[half, 0, half, 0], count_include_pad=1)
    return s.reshaped(s.op.Mul(mean, s.number(float(size))), s.a)


define("LRN", _local_response)
define("BatchNormalization", _batch_normalized, note="inference form: mean and variance are constants")
define("LayerNormalization", _layer_input, _layer_scale, lambda s: s.g, broadcast=True)
define("RMSNormalization", _layer_input, _layer_scale, broadcast=True, opsets=range(23, OPSETS.stop))
define("InstanceNormalization", _instance, note="with respect to the input")
define("GroupNormalization", _group, opsets=range(21, OPSETS.stop), note="with respect to the input")
define("LpNormalization", _unit_norm, ties="0 where the norm is 0")

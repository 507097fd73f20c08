"""Convolution and the overlapping sum of blocks, with respect to their input.

For y = conv(x, W) the cotangent of x is the transposed convolution of g with W. With stride 1 it is an ordinary
convolution of g with the kernel rotated by 180 degrees and its channel axes exchanged, padded by d (k - 1) - p;
ONNX Runtime's CPU provider runs that on its fast path, and folds the rotation when it loads the model.

Source: Dumoulin & Visin, A guide to convolution arithmetic for deep learning, arXiv 1603.07285, section 4.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from export.autodiff.engine import Step, define, describe
from export.autodiff.windows import Window, window_of
from harness.common.errors import InputError


def _conv_input(s: Step) -> ir.Value:
    window = window_of(s.node, _sizes(s, s.b)[2:])
    pads = _stride_one_pads(window)
    if set(window.strides) == {1} and min(pads) >= 0:
        return _rotated_convolution(s, window, pads)
    return _transposed_convolution(s, window)


def _rotated_convolution(s: Step, window: Window, pads: list[int]) -> ir.Value:
    return s.op.Conv(
        s.g,
        _rotated_weights(s),
        kernel_shape=window.kernel,
        dilations=window.dilations,
        pads=pads,
        group=s.attribute("group", 1),
    )


def _stride_one_pads(window: Window) -> list[int]:
    """d (k - 1) - p at either side: g, padded so, is as long as x after the rotated kernel has passed."""
    begin = [reach - pad for reach, pad in zip(window.reach, window.begin, strict=True)]
    end = [reach - pad for reach, pad in zip(window.reach, window.end, strict=True)]
    return begin + end


def _rotated_weights(s: Step) -> ir.Value:
    """W (M, C/g, k...) -> (C, M/g, k...), turned by 180 degrees, group by group."""
    group = s.attribute("group", 1)
    m, c_of_group, *kernel = _sizes(s, s.b)
    spatial = list(range(3, 3 + len(kernel)))
    grouped = s.op.Reshape(s.b, s.op.integers(group, m // group, c_of_group, *kernel))
    exchanged = s.op.Transpose(grouped, perm=[0, 2, 1, *spatial])  # (g, C/g, M/g, k...)
    merged = s.op.Reshape(exchanged, s.op.integers(group * c_of_group, m // group, *kernel))
    return _turned(s, merged, len(kernel)) if max(kernel) > 1 else merged


def _turned(s: Step, weights: ir.Value, spatial: int) -> ir.Value:
    """Every spatial axis reversed."""
    backwards = s.op.integers(*[-1] * spatial)
    before_the_first = s.op.integers(*[np.iinfo(np.int64).min] * spatial)
    return s.op.Slice(weights, backwards, before_the_first, s.op.integers(*range(2, 2 + spatial)), backwards)


def _transposed_convolution(s: Step, window: Window) -> ir.Value:
    """The general case. output_padding reaches the last pixels of x, which a strided window may never read."""
    axes = zip(window.size, window.begin, window.end, window.steps, window.strides, window.reach, strict=True)
    unread = [size + b + e - ((steps - 1) * stride + reach + 1) for size, b, e, steps, stride, reach in axes]
    return s.op.ConvTranspose(
        s.g,
        s.b,
        kernel_shape=window.kernel,
        strides=window.strides,
        dilations=window.dilations,
        pads=[*window.begin, *window.end],
        output_padding=unread,
        group=s.attribute("group", 1),
    )


def _transposed_input(s: Step) -> ir.Value:
    """y = transposed convolution of x with W (C, M/g, k...): x' is the plain convolution of g with that W."""
    kernel = _sizes(s, s.b)[2:]
    pads = _transposed_pads(s, kernel)
    return s.op.Conv(
        _without_unreached(s, pads),
        s.b,
        kernel_shape=kernel,
        strides=s.attribute("strides", [1] * len(kernel)),
        dilations=s.attribute("dilations", [1] * len(kernel)),
        pads=[max(pad, 0) for pad in pads],
        group=s.attribute("group", 1),
    )


def _without_unreached(s: Step, pads: list[int]) -> ir.Value:
    """g without the pixels that output_padding adds beyond the reach of x: those where the padding is negative."""
    crop = [min(pad, 0) for pad in pads]
    if not any(crop):
        return s.g
    half = len(crop) // 2
    return s.op.Pad(s.g, s.op.integers(0, 0, *crop[:half], 0, 0, *crop[half:]), s.number(0.0))


def _transposed_pads(s: Step, kernel: tuple[int, ...]) -> list[int]:
    """What ConvTranspose cuts off at either side, so that g gives back exactly x's size.

    The end is set from the sizes, which covers output_padding, output_shape and auto_pad alike.
    """
    rank = len(kernel)
    strides, dilations = s.attribute("strides", [1] * rank), s.attribute("dilations", [1] * rank)
    inner, outer = _sizes(s, s.a)[-rank:], _sizes(s, s.y)[-rank:]
    total = [
        (n - 1) * st + d * (k - 1) + 1 - m
        for n, m, st, d, k in zip(inner, outer, strides, dilations, kernel, strict=True)
    ]
    begin = _transposed_begin(s, total)
    return [*begin, *(t - b for t, b in zip(total, begin, strict=True))]


def _transposed_begin(s: Step, total: list[int]) -> list[int]:
    mode = s.attribute("auto_pad", "NOTSET")
    if mode == "NOTSET" and "output_shape" not in s.node.attributes:
        return list(s.attribute("pads", [0] * (2 * len(total))))[: len(total)]
    if any(s.attribute("output_padding", [0])):
        raise InputError(
            f"{describe(s.node)}: has both output_padding and another rule for its size; export it with one"
        )
    with_output_padding = [t + e for t, e in zip(total, s.attribute("output_padding", [0] * len(total)), strict=True)]
    if mode == "VALID":
        return [0] * len(total)
    return [t // 2 if mode == "SAME_UPPER" else t - t // 2 for t in with_output_padding]


def _sizes(s: Step, weights: ir.Value) -> tuple[int, ...]:
    return tuple(int(size) for size in s.shape(weights) if size is not None)


def _col2im(s: Step) -> ir.Value:
    """y = the blocks of x (N, C k..., L) summed where they overlap: x' takes every block of g.

    Taking blocks is a convolution of each channel with the k... kernels that are 1 at one place and 0 elsewhere.
    """
    block = [int(size) for size in s.constant(2)]
    area, channels, rank = math.prod(block), s.size(s.y, 1), len(block)
    places = np.eye(area, dtype=s.real_type).reshape(area, 1, *block)
    blocks = s.op.Conv(
        s.g,
        s.op.constant(np.tile(places, (channels, *[1] * (rank + 1)))),
        kernel_shape=block,
        strides=s.attribute("strides", [1] * rank),
        dilations=s.attribute("dilations", [1] * rank),
        pads=s.attribute("pads", [0] * (2 * rank)),
        group=channels,
    )
    return s.reshaped(blocks, s.a)


_NOTE = "with respect to the input; weights are constants"
define("Conv", _conv_input, note=_NOTE)
define("ConvTranspose", _transposed_input, note=_NOTE)
define("Col2Im", _col2im)

"""A scale and a shift per channel as the one operator that runtimes know how to fuse.

Contract as in `export.passes`: a tensor name keeps meaning the same numbers, up to rounding.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import onnx_ir as ir

from export.autodiff.emit import Emitter, constant_array, dimensions
from export.passes.patterns import has_one_reader, is_per_channel, take_over

FEWEST = 16  # channels: fewer do not fill a block of ONNX Runtime's blocked layout
EPSILON = 1e-5  # not 0, which some versions of cuDNN replace; in float32 it and the variance add up to exactly 1


def merge_scale_and_shift(graph: ir.Graph, within: Container[ir.Node]) -> int:
    """Add(Mul(x, s), b) becomes BatchNormalization(x) with scale s, bias b, mean 0 and variance 1 - epsilon.

    That is what the two were before tf2onnx took them apart, wherever no convolution stands before them. ONNX Runtime
    leaves its blocked layout for an Add with a constant, and so copies the tensor twice; the one node stays inside and
    takes the rectifier behind it along. DenseNet201 with its backward part ran 1.4 times as fast, ResNet50V2 1.1 times
    (docs/engine.md).

    Requires: s and b are constants with one number per channel, FEWEST or more, and nothing else reads the product.

    :param within: the nodes that may be changed: those of the forward part.
    """
    op = Emitter(graph, "scaled")
    changed = 0
    for node in list(graph):
        shifted, shift = _per_channel(node, "Add") if node in within else (None, None)
        product = shifted.producer() if shifted is not None and has_one_reader(shifted) else None
        if product is None or shift is None or product not in within:
            continue
        x, scale = _per_channel(product, "Mul")
        if x is not None and scale is not None:
            merged = op.BatchNormalization(x, *_statistics(op, scale, shift), epsilon=EPSILON)
            take_over(node.outputs[0], merged, "taken_apart")
            graph.remove([node, product], safe=True)
            changed += 1
    if changed:
        graph.sort()
    return changed


def _per_channel(node: ir.Node, operator: str) -> tuple[ir.Value | None, np.ndarray | None]:
    """(x, c (C,)) of operator(x, c) with a constant c of x's channels in either place; (None, None) otherwise."""
    for value, factor in (node.inputs, node.inputs[::-1]) if node.op_type == operator and not node.domain else ():
        constant = constant_array(factor)
        if value is not None and constant is not None and _fits_channels(constant, value):
            return value, constant.ravel()
    return None, None


def _fits_channels(constant: np.ndarray, value: ir.Value) -> bool:
    """True where c (C, 1, ..) or (1, C, 1, ..) stands beside x (N, C, h, ..)."""
    sizes = () if value.shape is None else dimensions(value)
    if len(sizes) < 3 or constant.size < FEWEST or sizes[1] != constant.size:
        return False
    return is_per_channel(constant, len(sizes))


def _statistics(op: Emitter, scale: np.ndarray, shift: np.ndarray) -> list[ir.Value]:
    """Scale, bias, mean and variance."""
    variance = np.full_like(scale, 1) - scale.dtype.type(EPSILON)
    return [op.constant(array) for array in (scale, shift, np.zeros_like(scale), variance)]

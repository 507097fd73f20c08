"""Quantisation in QDQ form: QuantizeLinear and DequantizeLinear around real-valued operators.

q = saturate(round(x / scale) + zero_point) and y = scale (q - zero_point) have a derivative of zero almost everywhere.
The *straight-through* estimator takes the pair for the identity instead: x' = y'. It is a definition, not a limit: the
gradients of a quantised graph are those of the same graph in which every pair adds its rounding error as a constant.

The pair passes the cotangent beyond the limits of saturation, too. A rectifier must therefore be a node of the graph;
one that was absorbed by the saturation of a QuantizeLinear is not seen (`QDQKeepRemovableActivations` keeps it).

Source: Bengio, Leonard & Courville 2013, arXiv 1308.3432, section 4.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.autodiff.emit import constant_array
from export.autodiff.engine import Step, define, describe
from harness.common.errors import InputError

NOTE = "straight through: a pair passes the cotangent unchanged"


def _dequantized(s: Step) -> ir.Value:
    """y = scale (q - zero_point), where q was quantised with the same scale and zero point: q' = y'."""
    quantizer = s.a.producer()
    if quantizer is None or quantizer.op_type != "QuantizeLinear" or not _same_steps(quantizer, s.node):
        raise InputError(
            f"{describe(s.node)}: undoes no QuantizeLinear of the same constant scale and zero point; "
            "quantise the model in QDQ form"
        )
    return s.g


def _same_steps(quantizer: ir.Node, dequantizer: ir.Node) -> bool:
    scales, zero_points = ([_constant(node, index) for node in (quantizer, dequantizer)] for index in (1, 2))
    if scales[0] is None or zero_points[0] is None or not _equal(scales) or not _equal(zero_points):
        return False
    axes = ([node.attributes.get_int(name, 0) for node in (quantizer, dequantizer)] for name in ("axis", "block_size"))
    return scales[0].size == 1 or all(a == b for a, b in axes)


def _constant(node: ir.Node, index: int) -> np.ndarray | None:
    """The scale or zero point, an absent zero point as 0; None where it is computed."""
    return constant_array(node.inputs[index]) if index < len(node.inputs) else np.zeros(())


def _equal(pair: list[np.ndarray | None]) -> bool:
    a, b = pair
    if a is None or b is None or len({a.size, b.size, 1}) > 2:
        return False
    return bool(np.all(a.ravel() == b.ravel()))


define("QuantizeLinear", lambda s: s.g, note=NOTE, integers=True)
define("DequantizeLinear", _dequantized, note=NOTE, integers=True)

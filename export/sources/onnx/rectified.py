"""Rectifiers that a quantiser has taken in, as nodes of their own.

Quantisers of ONNX models leave Relu and Clip(0, 6) out where a QuantizeLinear behind them saturates at the same places:
zero is its lowest integer. A pair passes gradients straight through (`export.autodiff.rules.quantization`), so that
they would pass where the unit is shut. Clip(x, 0, highest) before such a quantiser changes no number and shuts them.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.autodiff.emit import Emitter, constant_array


def spell_rectifiers(graph: ir.Graph) -> int:
    """Put Clip(x, 0, highest) before every QuantizeLinear of a computed x that saturates at zero; returns how many."""
    op = Emitter(graph, "rectified")
    changed = 0
    for node in list(graph):
        highest = _highest(node)
        if highest is not None:
            clipped = op.Clip(node.inputs[0], op.constant(np.float32(0)), op.constant(highest))
            node.replace_input_with(0, clipped)
            changed += 1
    graph.sort()
    return changed


def _highest(node: ir.Node) -> np.float32 | None:
    """The largest number that a quantiser from zero on can hold, None for every other node."""
    if node.op_type != "QuantizeLinear" or constant_array(node.inputs[0]) is not None:
        return None
    scale, zero = (constant_array(node.inputs[i]) if len(node.inputs) > i else None for i in (1, 2))
    if scale is None or zero is None or scale.size != 1 or zero.size != 1:
        return None
    limits = np.iinfo(zero.dtype)
    return np.float32(scale.item() * (limits.max - limits.min)) if zero.item() == limits.min else None

"""Folding what is known when the graph is written: constants, and BatchNormalization behind convolutions.

Contract as in `export.passes`: a tensor name keeps meaning the same numbers, up to rounding.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from export.autodiff.emit import Emitter, constant_array
from export.passes.patterns import has_one_reader, take_over

# Operators that `onnx.reference` computes as specified and that graphs use on constants: shapes, scales, layouts.
FOLDED = {
    "Add", "Cast", "Concat", "ConstantOfShape", "Div", "Expand", "Gather", "Identity", "Mul", "Neg", "Range",
    "Reciprocal", "Reshape", "Shape", "Slice", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze",
}  # fmt: skip
LARGEST = 4096  # elements: a larger result would make the file grow for nothing


def fold_constants(graph: ir.Graph, opset: int) -> int:
    """Replace nodes of FOLDED operators with constant inputs by their small results."""
    op = Emitter(graph, "folded")
    changed = 0
    for node in list(graph):
        arrays = {value.name: constant_array(value) for value in node.inputs if value is not None}
        known = bool(node.inputs) and all(array is not None for array in arrays.values())
        if node.op_type not in FOLDED or node.domain or not known or node.outputs[0].is_graph_output():
            continue
        result = ReferenceEvaluator(ir.to_proto(node), opsets={"": opset}).run(None, arrays)[0]
        if np.size(result) <= LARGEST:
            node.outputs[0].replace_all_uses_with(op.constant(result))
            graph.remove(node, safe=True)
            changed += 1
    return changed


def fold_batch_normalization(graph: ir.Graph) -> int:
    """BatchNormalization(Conv(x, W, b)) becomes Conv(x, f W, f (b - mean) + bias), f = scale / sqrt(var + epsilon).

    Requires: everything but x is constant, and nothing else reads the convolution.
    """
    changed = 0
    for node in list(graph):
        convolution = _convolution_before(node)
        statistics = [constant_array(value) for value in node.inputs[1:5]]
        if convolution is None or any(array is None for array in statistics):
            continue
        _merge(graph, convolution, node, *(np.asarray(array, np.float64) for array in statistics))
        changed += 1
    return changed


def _convolution_before(node: ir.Node) -> ir.Node | None:
    """The convolution that a BatchNormalization in inference form reads, where the two can merge."""
    if (
        node.op_type != "BatchNormalization"
        or node.attributes.get_int("training_mode", False)
        or node.inputs[0] is None
    ):
        return None
    made = node.inputs[0]
    convolution = made.producer()
    if convolution is None or convolution.op_type != "Conv" or not has_one_reader(made):
        return None
    constant = all(constant_array(value) is not None for value in convolution.inputs[1:] if value is not None)
    return convolution if constant else None


def _merge(  # the statistics keep the operator's order
    graph: ir.Graph,
    convolution: ir.Node,
    node: ir.Node,
    scale: np.ndarray,
    bias: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
) -> None:
    weights = constant_array(convolution.inputs[1])
    old = constant_array(convolution.inputs[2]) if len(convolution.inputs) > 2 else None
    assert weights is not None
    factor = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    shifted = factor * ((0.0 if old is None else old) - mean) + bias
    op = Emitter(graph, "folded")
    merged = op.constant((weights * factor.reshape(-1, *[1] * (weights.ndim - 1))).astype(weights.dtype))
    convolution.resize_inputs(3)
    convolution.replace_input_with(1, merged)
    convolution.replace_input_with(2, op.constant(shifted.astype(weights.dtype)))
    made, normalized = convolution.outputs[0], node.outputs[0]
    take_over(normalized, made, "before_folding")
    graph.remove(node, safe=True)

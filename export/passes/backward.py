"""Graph passes over the backward part, after differentiation: the same gradients with less arithmetic.

Contract of each, as in `export.passes`: a tensor name keeps meaning the same numbers, up to rounding.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import onnx_ir as ir

from export.autodiff.emit import Emitter, constant_array
from export.passes.patterns import has_one_reader, is_per_channel


def fold_channel_scales(graph: ir.Graph, kept: Container[ir.Node] = ()) -> int:
    """A per-channel factor behind a convolution moves into its weights; a rectifier mask may stand between.

    1. Mul(Conv(g, W), s)             ->  Conv(g, s W)
    2. Mul(Mul(Conv(g, W), mask), s)  ->  Mul(Conv(g, s W), mask)

    Requires: s is constant, one number or one per channel of the convolution; nothing else reads what stands between.
    The factor is multiplied into W in the graph, where ONNX Runtime folds it once at load: the file does not grow.

    :param kept: nodes that stay as they are: those of the forward part.
    """
    op = Emitter(graph, "folded")
    changed = 0
    for node in list(graph):
        found = _scaled_convolution(node) if node not in kept else None
        if found is None or found[0] in kept:
            continue
        convolution, factor, product = found
        convolution.replace_input_with(1, op.Mul(convolution.inputs[1], op.constant(factor)))
        node.outputs[0].replace_all_uses_with(product)
        graph.remove(node, safe=True)
        changed += 1
    if changed:
        graph.sort()
    return changed


def _scaled_convolution(node: ir.Node) -> tuple[ir.Node, np.ndarray, ir.Value] | None:
    """(the convolution, s as its weights need it, what the Mul multiplies), or None where the pattern is not there."""
    if node.op_type != "Mul" or node.outputs[0].is_graph_output():
        return None
    for product, factor in (node.inputs, node.inputs[::-1]):
        scale = constant_array(factor)
        producer = product.producer() if product is not None and has_one_reader(product) else None
        if scale is None or producer is None or product is None:
            continue
        if producer.op_type == "Mul":
            producer = next((node for node in map(_sole_producer, producer.inputs) if node is not None), None)
        if producer is not None and producer.op_type == "Conv" and len(producer.inputs) == 2:
            along = _along_weights(producer.inputs[1], scale)
            if along is not None:
                return producer, along, product
    return None


def _along_weights(weights: ir.Value | None, scale: np.ndarray) -> np.ndarray | None:
    """s (C, 1, ..) or (1, C, 1, ..) as a factor (C, 1, 1, ..) of weights (C, ..), None where it is something else."""
    if weights is None or weights.shape is None:
        return None
    rank, channels = len(weights.shape), weights.shape[0]
    if scale.size not in (1, channels) or not is_per_channel(scale, rank):
        return None
    return scale.reshape(-1, *[1] * (rank - 1))


def _sole_producer(value: ir.Value | None) -> ir.Node | None:
    """The convolution behind a value that nothing else reads."""
    node = value.producer() if value is not None and has_one_reader(value) else None
    return node if node is not None and node.op_type == "Conv" else None

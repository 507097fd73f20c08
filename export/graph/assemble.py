"""From a forward graph to the exported graph: target selection, backward pass, outputs.

    inputs   image  float32 (N, 3, H, W), grey levels 0..255 in three equal channels
             target int64 (N,), the class to explain, -1 the predicted one
    outputs  logits (N, K); per CAM layer, activations A and gradients dY_c/dA, both (N, C, h, w)

Y_c is the logit of class c. A target outside -1..K-1 gives NaN gradients, never another class.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from export import passes
from export.autodiff.emit import Emitter, dimensions
from export.autodiff.engine import backward
from export.graph.forward import Forward
from export.graph.fused_maps import fuse
from export.graph.outputs import declare_outputs, output_names
from export.graph.target import probability_of, seed


def clean(forward: Forward) -> None:
    """Run the passes that make the graph small, safe and differentiable."""
    passes.fold_constants(forward.graph, forward.opset)
    passes.fold_batch_normalization(forward.graph)
    passes.compose_transposes(forward.graph)
    passes.reduce_before_transpose(forward.graph)
    passes.separate_padding_from_max_pool(forward.graph)


def add_backward(forward: Forward, score_kind: str, methods: Sequence[str] = (), probability: bool = False) -> ir.Model:
    """Append the backward graph and declare inputs and outputs. Returns the finished, checked model.

    :param methods: CAM methods whose maps become outputs too.
    :param probability: explain the class probability instead of its logit.
    """
    graph, logits, layers = forward.graph, forward.logits, forward.layers
    op, of_forward = Emitter(graph), set(graph)
    target = ir.val("target", ir.DataType.INT64, ["N"])
    graph.inputs.append(target)
    cotangent_of_score, poison = seed(op, logits, target, score_kind)
    score = probability_of(op, logits, score_kind) if probability else logits
    cotangents = backward(graph, forward.opset, score, cotangent_of_score, list(layers.values()), op)
    declared = {"logits": logits}
    for (layer, names), cotangent in zip(output_names(layers, methods).items(), cotangents, strict=True):
        declared[names.activations] = layers[layer]
        declared[names.gradients] = _like(op.Add(cotangent, poison), layers[layer])
        for method, name in names.maps.items():
            declared[name] = _map(op, method, layers[layer], cotangent, poison)
    declare_outputs(graph, declared)
    passes.infer_shapes(forward.model)  # the folding below reads the ranks of rotated weights
    passes.fold_channel_scales(graph, kept=of_forward)
    passes.merge_scale_and_shift(graph, within=of_forward)
    return passes.checked(forward.model)


def _like(value: ir.Value, other: ir.Value) -> ir.Value:
    value.type, value.shape = other.type, other.shape
    return value


def _map(op: Emitter, method: str, activations: ir.Value, cotangent: ir.Value, poison: ir.Value) -> ir.Value:
    """The map (N, h, w) of a CAM method, NaN for a target out of range."""
    made = op.Add(fuse(op, method, activations, cotangent), op.Squeeze(poison, op.integers(1)))
    sizes = dimensions(activations)
    made.type, made.shape = activations.type, ir.Shape(["N", *(size for size in sizes[2:] if size is not None)])
    return made

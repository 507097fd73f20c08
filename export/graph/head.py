"""The end of a classifier: what is its row of class scores, and are they logits?"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from export.autodiff.emit import Emitter, dimensions

_ACTIVATIONS = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "multilabel"}


@dataclass(frozen=True)
class Head:
    """Class scores (N, K), how they become probabilities, and the tensor of the source file that holds them.

    `source_tensor` differs from the name of `logits` where a head (N, K, 1, 1) was flattened.
    """

    logits: ir.Value
    score_kind: str
    source_tensor: str


def find_head(graph: ir.Graph) -> Head:
    """The logits of a classifier with one output; they become the graph's output."""
    scores, score_kind = _cut_final_activation(graph)
    return Head(_as_row(graph, scores), score_kind, str(scores.name))


def _cut_final_activation(graph: ir.Graph) -> tuple[ir.Value, str]:
    """(logits, score kind): the tensor before a final Softmax, LogSoftmax or Sigmoid, or the output itself."""
    value = output = graph.outputs[0]
    while (node := value.producer()) is not None and node.op_type in ("Identity", "Reshape", "Flatten", "Squeeze"):
        value = node.inputs[0]  # type: ignore[assignment]
    activation = node.op_type if node is not None else ""
    logits = node.inputs[0] if node is not None and activation in _ACTIVATIONS else output
    assert logits is not None
    graph.outputs[0] = logits
    single = dimensions(output)[1:] in ((1,), (1, 1, 1))
    return logits, "binary" if single else _ACTIVATIONS.get(activation, "softmax")


def _as_row(graph: ir.Graph, logits: ir.Value) -> ir.Value:
    """Class scores (N, K, 1, 1) become (N, K)."""
    sizes = dimensions(logits)
    if len(sizes) <= 2 or any(size != 1 for size in sizes[2:]):
        return logits
    flat = Emitter(graph, "head").Flatten(logits, axis=1)
    flat.name, flat.type = f"{logits.name}/squeezed", logits.type
    graph.outputs[0] = flat
    return flat

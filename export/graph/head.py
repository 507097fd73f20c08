"""The end of a classifier: which tensor holds its logits, and how they become probabilities.

A file may end in probabilities, in their logarithms, or in logits. Recognised final steps are cut off
(`export.graph.final_steps`); what the logits say is compared with what the file says, and an output whose end is not
recognised is judged by its numbers (`export.sources.onnx.logits`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.autodiff.emit import Emitter, dimensions
from export.autodiff.engine import is_real
from export.graph.final_steps import final_step
from harness.common.errors import InputError


@dataclass(frozen=True)
class Head:
    """Class scores (N, K) of a graph, and where the file holds them.

    logits: one column where `score_kind` is `binary`
    source_tensor: the tensor of the file that the logits are; `sign` times its values, flattened to (N, K)
    output: the file's own output
    form: what `output` holds: `probability` (times `factor`), `log-probability` or `logit`
    computed: whether the logits were made of probabilities, see `from_probabilities`
    """

    logits: ir.Value
    score_kind: str
    source_tensor: str
    output: str
    form: str
    sign: int = 1
    factor: float = 1.0
    computed: bool = False

    def logits_of(self, values: np.ndarray) -> np.ndarray:
        """(N, K) logits of the values (N, K) that the file's tensor `source_tensor` has."""
        if not self.computed:
            return self.sign * values
        p = np.clip(values / np.float32(self.factor), *_kept(self.score_kind))
        return np.log(p) if self.score_kind == "softmax" else np.log(p) - np.log(1 - p)


def find_head(graph: ir.Graph) -> Head:
    """The logits of a classifier with one output; they become the graph's output."""
    output = graph.outputs[0]
    if not is_real(output):
        raise InputError(
            f"the output {output.name!r} holds integers, not class scores; export the model without ArgMax"
        )
    cut = final_step(output)
    if cut is None:
        row = _as_row(graph, output)
        return Head(row, "binary" if _classes(row) == 1 else "softmax", str(output.name), str(output.name), "logit")
    row = _as_row(graph, cut.logits)
    if cut.sign < 0:
        row = _output(graph, Emitter(graph, "head").Neg(row), row, "negated")
    kind = "binary" if _classes(row) == 1 else {"softmax": "softmax", "sigmoid": "multilabel"}[cut.function]
    form = "log-probability" if cut.logarithm else "probability"
    return Head(row, kind, str(cut.logits.name), str(output.name), form, cut.sign, cut.factor)


def from_probabilities(graph: ir.Graph, head: Head, total: float | None) -> Head:
    """The head of a graph whose scores (N, K) are probabilities: logits that lead back to them.

    log p where the scores sum to `total` (`softmax`), log p - log(1 - p) where each stands alone; p stays off 0 and 1.
    """
    kind = "softmax" if total is not None else ("binary" if _classes(head.logits) == 1 else "multilabel")
    op = Emitter(graph, "head")
    scores = head.logits if total is None else op.Div(head.logits, op.constant(np.float32(total)))
    p = op.Clip(scores, *map(op.constant, _kept(kind)))
    logits = op.Log(p)
    if kind != "softmax":
        logits = op.Sub(logits, op.Log(op.Sub(op.constant(np.float32(1)), p)))
    row = _output(graph, logits, head.logits, "logits")
    return Head(row, kind, head.output, head.output, "probability", factor=total or 1.0, computed=True)


def _kept(score_kind: str) -> tuple[np.float32, np.float32]:
    """The smallest and the largest probability whose logit is finite in float32."""
    numbers = np.finfo(np.float32)
    return numbers.tiny, np.float32(1) - (numbers.epsneg if score_kind != "softmax" else np.float32(0))


def _classes(row: ir.Value) -> int | None:
    return dimensions(row)[1]


def _as_row(graph: ir.Graph, scores: ir.Value) -> ir.Value:
    """Class scores (N,), (N, K, 1, 1) or (N, 1, K) as (N, K); `scores` itself where it is a row already."""
    sizes = dimensions(scores)
    wide = [size for size in sizes[1:] if size != 1]
    if len(sizes) == 2 or not sizes or len(wide) > 1:
        graph.outputs[0] = scores
        return scores
    classes = wide[0] if wide else 1
    op = Emitter(graph, "head")
    row = op.Flatten(scores, axis=1) if classes is None else op.Reshape(scores, op.integers(-1, classes))
    row.shape = ir.Shape(["N", classes])
    return _output(graph, row, scores, "row")


def _output(graph: ir.Graph, value: ir.Value, source: ir.Value, suffix: str) -> ir.Value:
    value.name, value.type = f"{source.name}/{suffix}", source.type
    value.shape = source.shape if value.shape is None else value.shape
    graph.outputs[0] = value
    return value

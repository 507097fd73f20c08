"""The explained score: which class an image is explained for, and the cotangent that starts the backward pass."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.autodiff.emit import Emitter, dimensions


def seed(op: Emitter, logits: ir.Value, target: ir.Value, score_kind: str) -> tuple[ir.Value, ir.Value]:
    """(cotangent of the logits (N, K), poison (N, 1, 1, 1): 0 for a valid target, NaN for one out of range)."""
    classes = dimensions(logits)[1]
    assert classes is not None
    binary = score_kind == "binary"
    chosen = op.Where(op.Equal(target, op.integers(-1)), _predicted(op, logits, binary), target)  # (N,)
    last = 1 if binary else classes - 1
    valid = op.And(op.GreaterOrEqual(chosen, op.integers(0)), op.LessOrEqual(chosen, op.integers(last)))
    poison = op.Where(valid, op.constant(np.float32(0)), op.constant(np.float32(np.nan)))
    column = op.Unsqueeze(chosen, op.integers(1))  # (N, 1)
    if binary:  # class 1 explains the logit, class 0 its negative
        ones = op.Where(op.Equal(column, op.integers(1)), op.constant(np.float32(1)), op.constant(np.float32(-1)))
    else:
        ones = op.Cast(op.Equal(column, op.integers(*range(classes))), to=ir.DataType.FLOAT)  # (N, K)
    return ones, op.Reshape(poison, op.integers(-1, 1, 1, 1))


def _predicted(op: Emitter, logits: ir.Value, binary: bool) -> ir.Value:
    if binary:
        positive = op.Greater(logits, op.constant(np.float32(0)))
        return op.Reshape(op.Cast(positive, to=ir.DataType.INT64), op.integers(-1))
    return op.ArgMax(logits, axis=1, keepdims=0)


def probability_of(op: Emitter, logits: ir.Value, score_kind: str) -> ir.Value:
    """Softmax over the classes, or a sigmoid per class: (N, K) -> (N, K)."""
    return op.Softmax(logits, axis=1) if score_kind == "softmax" else op.Sigmoid(logits)

"""Scaled dot-product attention, and the rotation of its queries and keys.

    P = softmax(scale Q K^T + mask), Y = P V                      Vaswani et al. 2017, arXiv 1706.03762
    V' = P^T G,  P' = G V^T,  S' = P (P' - sum(P P')),  Q' = scale S' K,  K' = scale S'^T Q

Queries of several heads may share one head of keys and values (Ainslie et al. 2023, arXiv 2305.13245): its cotangent
is the sum over them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import onnx_ir as ir

from export.autodiff.emit import Emitter
from export.autodiff.engine import OPSETS, Step, define, describe
from harness.common.errors import InputError

LOWEST = -3e38  # stands for minus infinity in masks


@dataclass(frozen=True)
class _Heads:
    """One of Q, K, V: (B, H, L, D), where it came from as (B, L, H D)."""

    step: Step
    source: ir.Value
    count: int  # heads
    shared: int = 1  # heads of queries for each of these

    @property
    def apart(self) -> bool:
        """Whether heads have an axis of their own."""
        return len(self.step.shape(self.step.a)) == 4

    def split(self) -> ir.Value:
        """(B, H, L, D), a head of keys or values repeated for each head of queries that reads it."""
        op, value = self.step.op, self.source
        if not self.apart:
            value = op.Transpose(op.Reshape(value, op.integers(0, 0, self.count, -1)), perm=[0, 2, 1, 3])
        if self.shared == 1:
            return value
        copies = op.Expand(op.Unsqueeze(value, op.integers(2)), op.integers(1, 1, self.shared, 1, 1))
        return op.Reshape(copies, op.integers(0, self.count * self.shared, *self._length_and_size()))

    def back(self, cotangent: ir.Value) -> ir.Value:
        """The cotangent of the source from that of `split`."""
        op = self.step.op
        if self.shared > 1:
            apart = op.Reshape(cotangent, op.integers(0, self.count, self.shared, *self._length_and_size()))
            cotangent = op.ReduceSum(apart, op.integers(2), keepdims=0)
        if self.apart:
            return cotangent
        return op.Reshape(op.Transpose(cotangent, perm=[0, 2, 1, 3]), op.integers(0, 0, -1))

    def _length_and_size(self) -> tuple[int, int]:
        length, size = (self.step.size(self.source, axis) for axis in (-2, -1))
        return length, size if self.apart else size // self.count


class _Attention:
    """The parts of one Attention node."""

    def __init__(self, s: Step) -> None:
        _refuse_unusual(s)
        self.s, self.op = s, s.op
        queries, keys = (_heads(s, value, name) for value, name in ((s.a, "q_num_heads"), (s.b, "kv_num_heads")))
        self.q = _Heads(s, s.a, queries)
        self.k = _Heads(s, s.b, keys, queries // keys)
        self.v = _Heads(s, s.c, keys, queries // keys)

    @property
    def scale(self) -> ir.Value:
        size = self.s.size(self.s.a, -1)
        depth = size if self.q.apart else size // self.q.count
        return self.s.number(self.s.attribute("scale", 1 / sqrt(depth)))

    def probabilities(self) -> ir.Value:
        """P (B, H, L, S)."""
        op = self.op
        scores = op.Mul(op.MatMul(self.q.split(), _turned(op, self.k.split())), self.scale)
        if self.s.has(3):
            scores = op.Add(scores, self._as_numbers(self.s.input(3)))
        if self.s.attribute("is_causal", 0):
            scores = op.Add(scores, self._future())
        shares = op.Softmax(scores, axis=-1)
        return op.Mul(shares, self._anything_allowed()) if self._has_boolean_mask() else shares

    def _has_boolean_mask(self) -> bool:
        return self.s.has(3) and self.s.input(3).dtype == ir.DataType.BOOL

    def _anything_allowed(self) -> ir.Value:
        """1 for a query that may read some key, 0 for one that may read none: its output does not vary."""
        allowed = self.op.CastLike(self.s.input(3), self.s.a)
        return self.op.ReduceMax(allowed, self.op.integers(-1), keepdims=1)

    def _as_numbers(self, mask: ir.Value) -> ir.Value:
        """What a mask adds to the scores: a mask of booleans allows where it is true."""
        if not self._has_boolean_mask():
            return mask
        return self.op.Where(mask, self.s.number(0.0), self.s.number(LOWEST))

    def _future(self) -> ir.Value:
        """(L, S): LOWEST where a key comes after its query."""
        axis = -2 if self.q.apart else 1
        length, span = self.s.size(self.s.a, axis), self.s.size(self.s.b, axis)
        later = np.triu(np.full((length, span), LOWEST), 1)
        return self.op.CastLike(self.op.constant(later), self.s.a)

    def output_cotangent(self) -> ir.Value:
        """G (B, H, L, D)."""
        return _Heads(self.s, self.s.g, self.q.count).split()

    def score_cotangent(self) -> ir.Value:
        """scale S' (B, H, L, S)."""
        op, p = self.op, self.probabilities()
        towards = op.Mul(p, op.MatMul(self.output_cotangent(), _turned(op, self.v.split())))
        total = op.ReduceSum(towards, op.integers(-1), keepdims=1)
        return op.Mul(op.Sub(towards, op.Mul(p, total)), self.scale)


def _heads(s: Step, value: ir.Value, name: str) -> int:
    count = s.size(value, 1) if len(s.shape(value)) == 4 else s.attribute(name, 0)
    assert count, describe(s.node)  # shape inference asks for it
    return int(count)


def _turned(op: Emitter, value: ir.Value) -> ir.Value:
    return op.Transpose(value, perm=[0, 1, 3, 2])


def _refuse_unusual(s: Step) -> None:
    if s.attribute("softcap", 0.0) or any(s.has(index) for index in (4, 5, 6)) or any(s.cotangents[1:]):
        raise InputError(
            f"{describe(s.node)}: attention with softcap, past keys or extra outputs cannot be differentiated; "
            "export the model for inference without them"
        )


def _queries(s: Step) -> ir.Value:
    parts = _Attention(s)
    return parts.q.back(parts.op.MatMul(parts.score_cotangent(), parts.k.split()))


def _keys(s: Step) -> ir.Value:
    parts = _Attention(s)
    return parts.k.back(parts.op.MatMul(_turned(parts.op, parts.score_cotangent()), parts.q.split()))


def _values(s: Step) -> ir.Value:
    parts = _Attention(s)
    return parts.v.back(parts.op.MatMul(_turned(parts.op, parts.probabilities()), parts.output_cotangent()))


def _rotated(s: Step) -> ir.Value:
    """Pairs of features turned by an angle: turned back, by the negative sine. Su et al. 2021, arXiv 2104.09864."""
    names = ("interleaved", "num_heads", "rotary_embedding_dim")
    attributes = {name: s.attribute(name, 0) for name in names}
    return s.op.RotaryEmbedding(s.g, s.b, s.op.Neg(s.c), *s.node.inputs[3:], **attributes)


_NEW = range(23, OPSETS.stop)
define("Attention", _queries, _keys, _values, opsets=_NEW, note="no softcap, no past keys; the mask is a constant")
define("RotaryEmbedding", _rotated, opsets=_NEW, note="with respect to the input")

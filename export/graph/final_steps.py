"""Final steps of classifiers: nodes that turn logits z into probabilities, recognised in a graph.

    softmax(z)   Softmax; Exp(z - m) / ReduceSum(Exp(z - m)), m = ReduceMax(z) or absent; by Div or by Reciprocal
    sigmoid(z)   Sigmoid; 1 / (1 + Exp(-z)); Exp(z) / (1 + Exp(z)); (1 + Tanh(z / 2)) / 2; 1 - sigmoid(-z)
    their logs   LogSoftmax; Log of the above; z - ReduceLogSumExp(z); z - Log(ReduceSum(Exp(z)))
    two columns  Concat(1 - p, p) of p = sigmoid(z), in either order

Between and behind them may stand what changes no probability by more than NEGLIGIBLE, see `_without_trimmings`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from export.autodiff.emit import constant_array, dimensions

NEGLIGIBLE = 1e-4
_RESHAPING = {"Identity", "Cast", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}


@dataclass(frozen=True)
class Cut:
    """z of a tensor `factor` f(`sign` z), where f is softmax or sigmoid, or its logarithm.

    `function` is `softmax` or `sigmoid`.
    """

    logits: ir.Value
    function: str
    sign: int = 1
    logarithm: bool = False
    factor: float = 1.0

    @property
    def complement(self) -> Cut:
        """Of 1 - p, where this is that of p = sigmoid(z)."""
        return replace(self, sign=-self.sign)


def final_step(value: ir.Value) -> Cut | None:
    """The final step that makes a tensor, None where none is recognised."""
    for inner, factor in _without_trimmings(value):
        node = inner.producer()
        if node is None or node.domain:
            return None
        for match in _MATCHERS:
            if (cut := match(node)) is not None:
                return replace(cut, factor=factor * cut.factor)
    return None


def _without_trimmings(value: ir.Value) -> Iterator[tuple[ir.Value, float]]:
    """(tensor, constant factor between it and `value`) of `value`, and of each tensor before a trimming, inwards.

    Trimmings: reshaping, casts, the only column of one, Clip that leaves [NEGLIGIBLE, 1 - NEGLIGIBLE] alone, a constant
    added that is NEGLIGIBLE, a constant positive factor.
    """
    factor = 1.0
    pending: ir.Value | None = value
    while pending is not None:
        yield pending, factor
        node, pending = pending.producer(), None
        if node is None or not node.inputs:
            return
        if node.op_type in _RESHAPING or _only_column(node) or _loose_clip(node):
            pending = node.inputs[0]
        elif (scaled := _scaled(node)) is not None:
            pending, factor = scaled[0], factor * scaled[1]


def _operator(node: ir.Node) -> Cut | None:
    z = node.inputs[0] if node.inputs else None
    if z is None:
        return None
    if node.op_type == "Sigmoid":
        return Cut(z, "sigmoid")
    if node.op_type in ("Softmax", "LogSoftmax") and _along_classes(z, [node.attributes.get_int("axis", -1)]):
        return Cut(z, "softmax", logarithm=node.op_type == "LogSoftmax")
    return None


def _normalised_exponentials(node: ir.Node) -> Cut | None:
    """Exp(d) / ReduceSum(Exp(d))."""
    for e, s in _quotients(node):
        d, summed = _argument(e, "Exp"), _reduced(s, "ReduceSum")
        if d is not None and summed is e:
            return Cut(_unshifted(d), "softmax")
    return None


def _logistic(node: ir.Node) -> Cut | None:
    """1 / (1 + Exp(w)) is sigmoid(-w), Exp(w) / (1 + Exp(w)) is sigmoid(w)."""
    for above, below in _quotients(node):
        e = _plus(below, 1.0)
        w = _argument(e, "Exp")
        if w is None or e is None:
            continue
        negated = _negated(w)
        if above is e:
            return Cut(w, "sigmoid") if negated is None else Cut(negated, "sigmoid", -1)
        if _number(above) == 1.0:
            return Cut(w, "sigmoid", -1) if negated is None else Cut(negated, "sigmoid")
    return None


def _hyperbolic(node: ir.Node) -> Cut | None:
    """0.5 (1 + Tanh(0.5 z)) or 0.5 + 0.5 Tanh(0.5 z)."""
    inside = _plus(_times(node.outputs[0], 0.5), 1.0) or _times(_plus(node.outputs[0], 0.5), 0.5)
    z = _times(_argument(inside, "Tanh"), 0.5)
    return Cut(z, "sigmoid") if z is not None else None


def _complement(node: ir.Node) -> Cut | None:
    """1 - p."""
    if node.op_type != "Sub" or _number(node.inputs[0]) != 1.0 or node.inputs[1] is None:
        return None
    cut = final_step(node.inputs[1])
    return cut.complement if cut is not None and _is_plain_sigmoid(cut) else None


def _pair(node: ir.Node) -> Cut | None:
    """Concat(1 - p, p): the second column is the probability of class 1."""
    if node.op_type != "Concat" or len(node.inputs) != 2 or not _along_classes(node.outputs[0], [_axis(node)]):
        return None
    first, second = (final_step(value) if value is not None else None for value in node.inputs)
    if first is None or second is None or first.logits is not second.logits or first.sign != -second.sign:
        return None
    return second if _is_plain_sigmoid(first) and _is_plain_sigmoid(second) and _columns(second.logits) == 1 else None


def _is_plain_sigmoid(cut: Cut) -> bool:
    return cut.function == "sigmoid" and not cut.logarithm and cut.factor == 1.0


def _logarithm(node: ir.Node) -> Cut | None:
    if node.op_type != "Log" or node.inputs[0] is None:
        return None
    cut = final_step(node.inputs[0])
    return replace(cut, logarithm=True) if cut is not None and not cut.logarithm and cut.factor == 1.0 else None


def _log_sigmoid(node: ir.Node) -> Cut | None:
    """-Softplus(-z)."""
    z = _negated(_argument(_negated(node.outputs[0]), "Softplus"))
    return Cut(z, "sigmoid", logarithm=True) if z is not None else None


def _minus_log_sum(node: ir.Node) -> Cut | None:
    """d - ReduceLogSumExp(d), or d - Log(ReduceSum(Exp(d)))."""
    if node.op_type != "Sub" or node.inputs[0] is None:
        return None
    d, normaliser = node.inputs
    whole = _reduced(normaliser, "ReduceLogSumExp")
    spelled = _argument(_reduced(_argument(normaliser, "Log"), "ReduceSum"), "Exp")
    return Cut(_unshifted(d), "softmax", logarithm=True) if d is not None and d in (whole, spelled) else None


_MATCHERS = (
    _operator,
    _normalised_exponentials,
    _logistic,
    _hyperbolic,
    _complement,
    _pair,
    _logarithm,
    _log_sigmoid,
    _minus_log_sum,
)


def _unshifted(d: ir.Value) -> ir.Value:
    """z of d = z - ReduceMax(z), d itself otherwise: the same softmax, but the gradients of z are meant."""
    node = d.producer()
    if node is None or node.op_type != "Sub" or node.inputs[0] is None:
        return d
    return node.inputs[0] if _reduced(node.inputs[1], "ReduceMax") is node.inputs[0] else d


def _quotients(node: ir.Node) -> Iterator[tuple[ir.Value | None, ir.Value | None]]:
    """(a, b) of every way in which a node computes a / b; a is None for a bare Reciprocal, where `_number` reads 1."""
    if node.op_type == "Div":
        yield node.inputs[0], node.inputs[1]
    elif node.op_type == "Mul":
        for a, b in (node.inputs, node.inputs[::-1]):
            if (denominator := _argument(b, "Reciprocal")) is not None:
                yield a, denominator
    elif node.op_type == "Reciprocal":
        yield None, node.inputs[0]


def _argument(value: ir.Value | None, operator: str) -> ir.Value | None:
    """x of value = operator(x)."""
    node = value.producer() if value is not None else None
    return node.inputs[0] if node is not None and node.op_type == operator else None


def _reduced(value: ir.Value | None, operator: str) -> ir.Value | None:
    """x of value = operator(x) along the classes, with its axes kept."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != operator or node.inputs[0] is None:
        return None
    axes = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
    kept = node.attributes.get_int("keepdims", 1)
    return node.inputs[0] if axes is not None and kept and _along_classes(node.inputs[0], axes.tolist()) else None


def _plus(value: ir.Value | None, number: float) -> ir.Value | None:
    """x of value = x + number."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Add":
        return None
    return next((x for x, c in (node.inputs, node.inputs[::-1]) if _number(c) == number), None)


def _times(value: ir.Value | None, number: float) -> ir.Value | None:
    """x of value = number x."""
    node = value.producer() if value is not None else None
    scaled = _scaled(node) if node is not None else None
    return scaled[0] if scaled is not None and scaled[1] == number else None


def _negated(value: ir.Value | None) -> ir.Value | None:
    """x of value = -x."""
    node = value.producer() if value is not None else None
    if node is None:
        return None
    if node.op_type == "Neg" or (node.op_type == "Div" and _number(node.inputs[1]) == -1.0):
        return node.inputs[0]
    if node.op_type == "Sub" and _number(node.inputs[0]) == 0.0:
        return node.inputs[1]
    pairs = (node.inputs, node.inputs[::-1]) if node.op_type == "Mul" else ()
    return next((x for x, c in pairs if _number(c) == -1.0), None)


def _number(value: ir.Value | None) -> float | None:
    """A constant of one element; 1 for the numerator that a Reciprocal does not spell out."""
    if value is None:
        return 1.0
    array = constant_array(value)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def _scaled(node: ir.Node) -> tuple[ir.Value, float] | None:
    """(x, c) of c x with a constant c > 0, or of x + c with a negligible c (then 1)."""
    found: tuple[ir.Value | None, float | None] = (None, None)
    if node.op_type == "Div":
        below = _number(node.inputs[1])
        found = node.inputs[0], 1 / below if below else None
    elif node.op_type in ("Mul", "Add"):
        pairs = ((x, _number(c)) for x, c in (node.inputs, node.inputs[::-1]))
        found = next((pair for pair in pairs if pair[1] is not None), found)
        if node.op_type == "Add":
            found = found[0], 1.0 if found[1] is not None and abs(found[1]) <= NEGLIGIBLE else None
    x, c = found
    return (x, c) if x is not None and c is not None and c > 0 else None


def _loose_clip(node: ir.Node) -> bool:
    """Whether a Clip, Max or Min leaves everything between NEGLIGIBLE and 1 - NEGLIGIBLE as it is."""
    if node.op_type not in ("Clip", "Max", "Min"):
        return False
    given = [(place, value) for place, value in enumerate(node.inputs[1:], 1) if value is not None]
    bounds = [(place, _number(value)) for place, value in given]
    upper = {"Clip": 2, "Min": 1}.get(node.op_type)
    return all(
        bound is not None and (bound >= 1 - NEGLIGIBLE if place == upper else bound <= NEGLIGIBLE)
        for place, bound in bounds
    )


def _only_column(node: ir.Node) -> bool:
    """Whether a Gather takes the one element that an axis has."""
    if node.op_type != "Gather" or node.inputs[0] is None or node.inputs[0].shape is None:
        return False
    return dimensions(node.inputs[0])[node.attributes.get_int("axis", 0)] == 1


def _axis(node: ir.Node) -> int:
    axis = node.attributes.get_int("axis", -1)
    return axis if axis is not None else -1


def _along_classes(value: ir.Value, axes: list[int | None]) -> bool:
    """Whether axes of scores are those of the classes: all that are wider than one, and not the batch."""
    if value.shape is None:
        return False
    sizes = dimensions(value)
    named = {axis % len(sizes) for axis in axes if axis is not None and len(sizes)}
    wide = {axis for axis, size in enumerate(sizes) if axis and size != 1}
    return 0 not in named and bool(named) and wide <= named and len(wide) <= 1


def _columns(value: ir.Value) -> int | None:
    """How many scores a tensor (N, ...) has per image."""
    sizes = dimensions(value)[1:] if value.shape is not None else (None,)
    return None if None in sizes else int(np.prod([size for size in sizes if size is not None], dtype=int))

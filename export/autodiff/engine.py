"""Reverse-mode differentiation, ONNX to ONNX.

For a score s and a tensor A of the same graph, `backward` appends plain ONNX nodes that compute ds/dA:

1. The nodes between A and s are found (reachable from A through differentiable values, and reaching s).
2. Those nodes are visited last to first. Each operator's rule turns the cotangents of its outputs into the
   cotangents of its inputs: for y = f(x), x' = (dy/dx)^T y' (a vector-Jacobian product).
3. Cotangents that meet at one tensor are added.

Rules live in `rules`, one per operator; `define` is the only door. "No gradient" (a shape, an index: the walk stops
there, correctly) and "no rule" (an error) are different answers.

Source: Griewank & Walther, Evaluating Derivatives, 2nd ed., 2008, doi:10.1137/1.9780898717761, chapter 3.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from export.autodiff.emit import Emitter, constant_array, dimensions
from harness.common.errors import InputError

OPSETS = range(18, 25)  # the opset versions for which rules are written and tested

FLOATS = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


class Step:
    """One node seen from its outputs: all that a rule may use.

    `g` is the cotangent of the first output, `a`, `b`, `c` the first inputs, `y` the first output, `op` emits
    nodes. The cotangent that a formula returns has the shape of the input it belongs to (before undoing of
    broadcasting, where the rule was defined with `broadcast=True`).
    """

    def __init__(self, node: ir.Node, cotangents: Sequence[ir.Value | None], op: Emitter) -> None:
        self.node = node
        self.cotangents = cotangents
        self.op = op

    @property
    def g(self) -> ir.Value:
        cotangent = self.cotangents[0]
        assert cotangent is not None, describe(self.node)
        return cotangent

    @property
    def a(self) -> ir.Value:
        return self.input(0)

    @property
    def b(self) -> ir.Value:
        return self.input(1)

    @property
    def c(self) -> ir.Value:
        return self.input(2)

    @property
    def y(self) -> ir.Value:
        return self.node.outputs[0]

    def has(self, index: int) -> bool:
        """Whether the optional input `index` is there."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def input(self, index: int) -> ir.Value:
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        if value is None:
            raise InputError(f"{describe(self.node)}: input {index} is missing")
        return value

    def attribute(self, name: str, default: Any) -> Any:
        """The attribute's value; `default` (the operator specification's) where it is absent."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.value

    def constant(self, index: int) -> np.ndarray:
        """The numbers of an input that must be known when the graph is written (axes, pads, splits)."""
        array = constant_array(self.input(index))
        if array is None:
            raise InputError(f"{describe(self.node)}: input {index} must be a constant to be differentiated")
        return array

    def shape(self, value: ir.Value) -> tuple[int | None, ...]:
        try:
            return dimensions(value)
        except ValueError as error:
            raise InputError(f"{describe(self.node)}: {error}; run ONNX shape inference on the model") from None

    def size(self, value: ir.Value, axis: int) -> int:
        """The size of an axis that must be known when the graph is written."""
        size = self.shape(value)[axis]
        if size is None:
            raise InputError(
                f"{describe(self.node)}: axis {axis} of {value.name} has no fixed size; export the model with fixed "
                "sizes (only the batch may vary)"
            )
        return size

    @property
    def real_type(self) -> np.dtype:
        """The NumPy type that the node computes in."""
        return np.dtype(np.float32) if self.a.dtype is None else self.a.dtype.numpy()

    def number(self, value: float) -> ir.Value:
        """A scalar constant in the type that the node computes in."""
        return self.op.constant(np.array(value, self.real_type))

    def reshaped(self, value: ir.Value, like: ir.Value) -> ir.Value:
        """`value` in the shape of the forward tensor `like`."""
        return self.op.Reshape(value, self.shape_of(like))

    def shape_of(self, like: ir.Value) -> ir.Value:
        """The shape of a forward tensor: a constant with -1 for the batch where that says it all."""
        sizes = self.shape(like)
        if sum(size is None for size in sizes) > 1 or 0 in sizes:
            return self.op.Shape(like)
        return self.op.integers(*(-1 if size is None else size for size in sizes))

    def kept_where(self, condition: ir.Value) -> ir.Value:
        """The cotangent where the condition holds, zero elsewhere."""
        return self.op.Where(condition, self.g, self.number(0.0))


Formula = Callable[[Step], ir.Value]
Vjp = Callable[[Step, frozenset[int]], Sequence[ir.Value | None]]


@dataclass(frozen=True)
class Rule:
    """How one operator is differentiated. `vjp` is None for operators that have no gradient by nature."""

    operator: str
    vjp: Vjp | None
    inputs: str  # which inputs get a gradient, for the coverage table
    ties: str = ""
    note: str = ""
    domain: str = ""
    opsets: range = OPSETS
    integers: bool = False  # it writes or reads the integers of a quantiser, which stand for real numbers


_RULES: dict[tuple[str, str], list[Rule]] = defaultdict(list)


def _register(rule: Rule) -> None:
    for other in _RULES[rule.domain, rule.operator]:
        if set(other.opsets) & set(rule.opsets):
            raise ValueError(f"{rule.operator} already has a rule for opsets {other.opsets}")
    _RULES[rule.domain, rule.operator].append(rule)


def define(
    operator: str,
    *formulas: Formula | None,
    broadcast: bool = False,
    ties: str = "",
    note: str = "",
    opsets: range = OPSETS,
    integers: bool = False,
) -> None:
    """Register a rule by one formula per input, None for an input that has no gradient.

    With `broadcast=True` formulas return cotangents in the output's shape, and broadcasting is undone here. Only
    rules with `integers=True` may pass a gradient through integers.
    """

    def vjp(step: Step, active: frozenset[int]) -> list[ir.Value | None]:
        if any(cotangent is not None for cotangent in step.cotangents[1:]):
            raise InputError(f"{describe(step.node)}: only its first output can carry a gradient")
        cotangents: list[ir.Value | None] = [None] * len(step.node.inputs)
        for index in active:
            formula = formulas[index] if index < len(formulas) else None
            if formula is not None:
                cotangent = formula(step)
                cotangents[index] = unbroadcast(step, cotangent, step.input(index)) if broadcast else cotangent
        return cotangents

    inputs = ", ".join(str(index) for index, formula in enumerate(formulas) if formula is not None)
    _register(Rule(operator, vjp, inputs, ties, note, opsets=opsets, integers=integers))


def define_variadic(operator: str, vjp: Vjp, *, inputs: str = "all", ties: str = "", note: str = "") -> None:
    """Register a rule for any number of inputs or outputs: `vjp(step, active)` returns one cotangent for each input."""
    _register(Rule(operator, vjp, inputs, ties, note))


def define_no_gradient(*operators: str) -> None:
    """Register operators whose result does not vary smoothly with any input (shapes, indices, comparisons)."""
    for operator in operators:
        _register(Rule(operator, None, "none", note="no gradient by nature"))


def rule_for(node: ir.Node, opset: int) -> Rule | None:
    """The rule of a node's operator at an opset version, or None."""
    for rule in _RULES.get((node.domain, node.op_type), []):
        if opset in rule.opsets:
            return rule
    return None


def all_rules() -> list[Rule]:
    """Every registered rule, by name."""
    return sorted((rule for rules in _RULES.values() for rule in rules), key=lambda rule: rule.operator)


def unbroadcast(step: Step, cotangent: ir.Value, target: ir.Value) -> ir.Value:
    """Sum a cotangent over the axes along which `target` was broadcast to the output's shape."""
    from_shape, to_shape = step.shape(step.y), step.shape(target)
    extra = len(from_shape) - len(to_shape)
    axes = [axis for axis, size in enumerate(from_shape) if axis < extra or (to_shape[axis - extra] == 1 and size != 1)]
    if not axes:
        return cotangent
    summed = step.op.ReduceSum(cotangent, step.op.integers(*axes), keepdims=1)
    return step.reshaped(summed, target) if extra else summed


def backward(
    graph: ir.Graph, opset: int, score: ir.Value, seed: ir.Value, wrt: Sequence[ir.Value], op: Emitter
) -> list[ir.Value]:
    """Append nodes that compute the vector-Jacobian products of `score` with the tensors `wrt`.

    :param score: the differentiated tensor; `seed` is its cotangent, of the same shape.
    :param wrt: tensors of the graph on the way to `score`, in any order; one may feed another.
    :returns: the cotangent of each tensor of `wrt`, in the shape of that tensor.
    :raises InputError: naming every node without a rule at once, or a tensor that the score does not depend on.
    """
    path = active_path(graph, opset, score, wrt)
    varying = {value for node in path for value in node.outputs} | set(wrt)
    _refuse_missing_rules(path, opset, varying)
    cotangents: dict[ir.Value, list[ir.Value]] = defaultdict(list)
    cotangents[score].append(seed)
    for node in reversed(path):
        _step_back(node, opset, varying, cotangents, op)
    return [_result(value, cotangents, op) for value in wrt]


def active_path(graph: ir.Graph, opset: int, score: ir.Value, wrt: Iterable[ir.Value]) -> list[ir.Node]:
    """The nodes on the way from `wrt` to `score`, in topological order.

    Integers end the way, unless a quantiser made them: a node that reads those belongs to it.
    """
    needed = ancestors(score, stop=lambda node: _ends_by_nature(node, opset))
    varying = set(wrt)
    path = []
    for node in graph:
        rule = rule_for(node, opset)
        if node not in needed:
            continue
        read = [value for value in node.inputs if value in varying]
        outputs = [value for value in node.outputs if is_real(value) or (rule is not None and rule.integers)]
        if read and (outputs or not all(map(is_real, read))):
            varying.update(outputs)
            path.append(node)
    return path


def is_real(value: ir.Value | None) -> bool:
    """Whether a tensor holds floating-point numbers, as far as its type is known."""
    return value is None or value.dtype is None or value.dtype in FLOATS


def _ends_by_nature(node: ir.Node, opset: int) -> bool:
    rule = rule_for(node, opset)
    return rule is not None and rule.vjp is None


def ancestors(value: ir.Value, stop: Callable[[ir.Node], bool] = lambda _node: False) -> set[ir.Node]:
    """Every node that a tensor is computed by; neither those where `stop` holds nor what they alone read."""
    found: set[ir.Node] = set()
    pending = [value.producer()]
    while pending:
        node = pending.pop()
        if node is not None and node not in found and not stop(node):
            found.add(node)
            pending += [source.producer() for source in node.inputs if source is not None]
    return found


def _refuse_missing_rules(path: Sequence[ir.Node], opset: int, varying: set[ir.Value]) -> None:
    missing: dict[str, list[str]] = defaultdict(list)
    for node in path:
        rule = rule_for(node, opset)
        operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        if rule is None:
            missing[operator].append(node.name or "?")
        elif not rule.integers and any(value in varying and not is_real(value) for value in node.inputs):
            missing[f"{operator} on quantised integers"].append(node.name or "?")
    if missing:
        what = "; ".join(f"{operator} ({', '.join(names)})" for operator, names in sorted(missing.items()))
        raise InputError(
            f"no gradient rule for these operators between the CAM layer and the score: {what}; "
            "choose a later layer, or see `python -m export operators` for what is covered"
        )


def _step_back(
    node: ir.Node, opset: int, varying: set[ir.Value], cotangents: dict[ir.Value, list[ir.Value]], op: Emitter
) -> None:
    arriving = [_gathered(value, cotangents, op) for value in node.outputs]
    if all(cotangent is None for cotangent in arriving):
        return
    active = frozenset(index for index, value in enumerate(node.inputs) if value in varying)
    rule = rule_for(node, opset)
    assert rule is not None, describe(node)
    assert rule.vjp is not None, describe(node)
    leaving = rule.vjp(Step(node, arriving, op), active)
    for index in sorted(active):
        cotangent, value = leaving[index], node.inputs[index]
        if cotangent is None:
            raise InputError(f"{describe(node)}: the gradient with respect to input {index} has no rule")
        assert value is not None
        cotangents[value].append(cotangent)


def _gathered(value: ir.Value, cotangents: dict[ir.Value, list[ir.Value]], op: Emitter) -> ir.Value | None:
    """The sum of what has arrived at a tensor; stored, so that a second reader gets the same value."""
    arrived = cotangents.get(value)
    if not arrived:
        return None
    if len(arrived) > 1:
        arrived[:] = [op.Sum(*arrived)]
    return arrived[0]


def _result(value: ir.Value, cotangents: dict[ir.Value, list[ir.Value]], op: Emitter) -> ir.Value:
    gathered = _gathered(value, cotangents, op)
    if gathered is None:
        raise InputError(f"the score does not depend on tensor {value.name!r}; choose a layer that feeds it")
    return gathered


def describe(node: ir.Node) -> str:
    """A node as messages name it."""
    return f"operator {node.op_type} (node {node.name or 'without name'})"

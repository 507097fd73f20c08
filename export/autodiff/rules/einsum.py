"""Einstein summation."""

from __future__ import annotations

from string import ascii_letters

import onnx_ir as ir

from export.autodiff.engine import Step, define_variadic, describe
from harness.common.errors import InputError


def _einsum(s: Step, active: frozenset[int]) -> list[ir.Value | None]:
    """y_out = the sum of a_p b_q ... over what is not in out: a_p' = the same sum of g_out b_q ..., to p."""
    terms, out = _subscripts(s)
    cotangents: list[ir.Value | None] = [None] * len(terms)
    for index in sorted(active):
        cotangents[index] = _towards(s, terms, out, index)
    return cotangents


def _towards(s: Step, terms: list[str], out: str, index: int) -> ir.Value:
    """The cotangent of one operand; a label that only it has was summed over, and gets copies."""
    others = [(terms[i], s.input(i)) for i in range(len(terms)) if i != index]
    elsewhere = set(out).union(*(term for term, _ in others))
    found = "".join(label for label in terms[index] if label in elsewhere)
    equation = ",".join([out, *(term for term, _ in others)]) + "->" + found
    cotangent = s.op.Einsum(s.g, *(value for _, value in others), equation=equation)
    missing = [axis for axis, label in enumerate(terms[index]) if label not in elsewhere]
    if not missing:
        return cotangent
    return s.op.Expand(s.op.Unsqueeze(cotangent, s.op.integers(*missing)), s.op.Shape(s.input(index)))


def _subscripts(s: Step) -> tuple[list[str], str]:
    """(labels of each operand, labels of the result), an ellipsis written out in letters of its own."""
    equation = s.attribute("equation", "")
    equation = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")
    left, arrow, right = equation.partition("->")
    free = [letter for letter in ascii_letters if letter not in equation]
    terms = []
    for number, term in enumerate(left.split(",")):
        hidden = len(s.shape(s.input(number))) - len(term.replace("...", ""))
        terms.append(term.replace("...", "".join(free[:hidden])))
    if not arrow:
        right = _implied(left)
    out = right.replace("...", "".join(free[: len(s.shape(s.y)) - len(right.replace("...", ""))]))
    _refuse_unusual(s, terms)
    return terms, out


def _implied(left: str) -> str:
    """The result's labels where the equation has no arrow: those that occur once, in alphabetical order."""
    labels = sorted(set(left) - set(".,"))
    return ("..." if "..." in left else "") + "".join(label for label in labels if left.count(label) == 1)


def _refuse_unusual(s: Step, terms: list[str]) -> None:
    sizes: dict[str, set[int | None]] = {}
    for number, term in enumerate(terms):
        if len(set(term)) < len(term):
            raise InputError(f"{describe(s.node)}: takes a diagonal ({term}), which cannot be differentiated")
        for label, size in zip(term, s.shape(s.input(number)), strict=True):
            sizes.setdefault(label, set()).add(size)
    if any(1 in known and len(known) > 1 for known in sizes.values()):
        raise InputError(f"{describe(s.node)}: broadcasts an axis of size 1; expand it in the model first")


define_variadic("Einsum", _einsum, note="no diagonals, no broadcasting of size 1")

"""Which operators can be differentiated: the coverage table, and the share of ONNX that it is."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from tabulate import tabulate

from export.autodiff.engine import OPSETS, Rule, all_rules

HEADERS = ("operator", "opsets", "gradient of inputs", "ties", "notes")
_BY_ONNX = onnx.defs.OpSchema.DifferentiationCategory.Differentiable


@dataclass(frozen=True)
class Count:
    """`differentiable`: what the ONNX specification calls so; `missing`: those of them without a rule."""

    differentiable: list[str]
    missing: list[str]

    @property
    def share(self) -> float:
        return 1 - len(self.missing) / len(self.differentiable)


def rows() -> list[tuple[str, ...]]:
    """One row per operator with a gradient rule, by name."""
    return [_row(rule) for rule in all_rules() if rule.vjp is not None]


def without_gradient() -> list[str]:
    """Operators at which the way to the score ends, rightly."""
    return [rule.operator for rule in all_rules() if rule.vjp is None]


def count() -> Count:
    """How much of ONNX is covered, at the newest opset that has rules.

    The specification marks, per input and output, what is differentiable; an operator counts where both have one.
    """
    known = {rule.operator for rule in all_rules() if rule.vjp is not None}
    found = sorted(schema.name for schema in _schemas() if _differentiable(schema))
    return Count(found, [name for name in found if name not in known])


def table() -> str:
    """The coverage table for a terminal."""
    return f"{tabulate(rows(), HEADERS)}\n\n{_summary()}"


def markdown() -> str:
    """docs/operators.md."""
    return (
        "# Operators that can be differentiated\n\n"
        "Written by `python -m export operators --markdown`. Rules are vector-Jacobian products in plain ONNX\n"
        "(`export/autodiff/rules/`); each is held to central differences in float64, to ONNX Runtime, and to random\n"
        "graphs. Which whole networks are exported: [networks.md](networks.md).\n\n"
        f"{tabulate(rows(), HEADERS, tablefmt='github')}\n\n{_summary()}"
    )


def _row(rule: Rule) -> tuple[str, ...]:
    return rule.operator, f"{rule.opsets[0]}-{rule.opsets[-1]}", rule.inputs, rule.ties, rule.note


def _summary() -> str:
    counted = count()
    covered = len(counted.differentiable) - len(counted.missing)
    return (
        f"{len(rows())} operators with a gradient. In {len(without_gradient())} more it ends by nature: "
        f"{', '.join(without_gradient())}.\n\n"
        f"Of the {len(counted.differentiable)} operators that ONNX calls differentiable at opset {OPSETS[-1]}, "
        f"{covered} are covered ({counted.share:.0%}). Not covered: {', '.join(counted.missing)}."
    )


def _schemas() -> list[onnx.defs.OpSchema]:
    """The operators of the newest opset that has rules."""
    newest: dict[str, onnx.defs.OpSchema] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        known = newest.get(schema.name)
        if schema.domain == "" and schema.since_version <= OPSETS[-1]:
            newest[schema.name] = schema if known is None or schema.since_version > known.since_version else known
    return [schema for schema in newest.values() if not schema.deprecated]


def _differentiable(schema: onnx.defs.OpSchema) -> bool:
    sides = (schema.inputs, schema.outputs)
    return all(any(part.differentiation_category == _BY_ONNX for part in side) for side in sides)

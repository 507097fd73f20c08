"""The causal check in words and rows, for terminal, Markdown and page."""

from __future__ import annotations

from harness.common.formatting import digits
from harness.report.summaries import with_span
from harness.results.schema import ALL, CausalResult, CausalScope, Estimate, Evaluation

HEADERS = ["pair", "layer", "method", "scope", "verdict", "moved", "used", "elsewhere", "other images", "p", "n"]
NOTE = (
    "causal check: the tenth of the picture where evidence was gained, and the tenth where it was lost, are occluded "
    "in both checkpoints. used: what gained weighs more than lost, after minus before, in standard deviations of the "
    "margin within a class; elsewhere: the same regions mirrored or turned; other images: regions of another image of "
    "the class. Used where it is above 0 and above elsewhere, both at 5 %"
)


def rows(result: Evaluation, classes: bool = False) -> list[list[str]]:
    """One per pair, layer and method; with `classes` also one per class."""
    return [_row(item, scope) for item in result.causal for scope in item.scopes if classes or scope.scope == ALL]


def _row(item: CausalResult, scope: CausalScope) -> list[str]:
    return [
        item.pair,
        item.layer,
        item.method,
        scope.scope,
        scope.verdict,
        with_span(scope.moved, 2),
        *(_shown(estimate) for estimate in (scope.used, scope.elsewhere, scope.partner)),
        digits(scope.p_used),
        str(scope.n),
    ]


def _shown(estimate: Estimate) -> str:
    return with_span(estimate, 2)

"""Architectures and methods against each other by the overlap of the top fifth, as far as the page shows them."""

from __future__ import annotations

from typing import Any

from harness.results.schema import ALL, ComparisonResult, Difference, Equivalence, Evaluation, Ranking
from harness.results.vocabulary import HEADLINE
from harness.statistics.power import smallest_shown
from scripts.study.claims import PAPER

Row = dict[str, Any]


def methods(result: Evaluation) -> list[Row]:
    """Which of the paper's two methods says that more was kept, for each architecture and layer."""
    return [
        {"architecture": one.first[0], "layer": comparison.layer, **difference(one, 1)}
        for comparison in _shown(result)
        for one in comparison.differences
        if one.first[0] == one.second[0] and (one.first[1], one.second[1]) == PAPER
    ]


def of_architectures(result: Evaluation) -> Row:
    """Rankings, differences, reversals and interaction on the images that every pair compares."""
    study = result.study
    assert study is not None
    return {
        "images": study.selected,
        "patients": study.selected_patients,
        "convergence": [equivalence(item) for item in study.convergence],
        "comparisons": [_of(comparison) for comparison in _shown(result)],
    }


def _shown(result: Evaluation) -> list[ComparisonResult]:
    """One comparison per layer: over all classes, by the headline metric."""
    assert result.study is not None
    return [item for item in result.study.comparisons if (item.scope, item.metric) == (ALL, HEADLINE)]


def _of(comparison: ComparisonResult) -> Row:
    """Rankings under every method; differences and reversals under the paper's two, and how many of all are called."""
    return {
        "layer": comparison.layer,
        "rankings": [ranking(item) for item in comparison.rankings],
        "differences": [
            {"method": one.first[1], **difference(one, 0)}
            for one in comparison.differences
            if one.first[1] == one.second[1] and one.first[1] in PAPER
        ],
        "reversals": [item.model_dump(exclude={"reason"}) for item in comparison.reversals if item.methods == PAPER],
        "called": sum(item.called for item in comparison.reversals),
        "possible": len(comparison.reversals),
        "interaction": comparison.interaction.model_dump(exclude={"reason"}) if comparison.interaction else None,
    }


def ranking(item: Ranking) -> Row:
    """An order with its probability, null where there are too few patients to draw from."""
    shares = {tuple(order.architectures): order.probability for order in item.orders}
    probability = shares.get(tuple(item.architectures), 0.0) if shares else None
    return {
        **item.model_dump(include={"method", "architectures", "means", "n", "n_patients"}),
        "probability": probability,
    }


def difference(one: Difference, part: int) -> Row:
    """A difference with its interval; `part` 0 names its architectures, 1 its methods."""
    return {
        "first": one.first[part],
        "second": one.second[part],
        "mean": one.value,
        "low": one.low,
        "high": one.high,
        "p_holm": one.p_holm,
        "n": one.n,
        "patients": one.n_patients,
        "shown": None if one.low is None or one.high is None else smallest_shown(one.low, one.high),
    }


def equivalence(item: Equivalence) -> Row:
    """Whether two architectures classify equally well after fine-tuning, by one statistic."""
    return item.model_dump(include={"name", "of", "difference", "low90", "high90", "margin", "equivalent"})

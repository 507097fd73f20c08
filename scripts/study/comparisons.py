"""Architectures and methods against each other, as far as the page shows them: by the overlap of the top fifth."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

from harness.results.schema import ALL, ComparisonResult, Difference, Equivalence, Evaluation
from harness.statistics.power import POWER

METRICS = ("iou_top20", "centroid_shift")  # overlap, and where the maps are: the paper's two claims
LEVEL = 0.05
_Z = NormalDist()
Row = dict[str, Any]


def methods(result: Evaluation) -> list[Row]:
    """Which CAM method says that more was kept, by the headline metric, within each architecture and layer."""
    return [
        {"architecture": one.first[0], "layer": comparison.layer, **difference(one)}
        for comparison in _overall(result)
        if comparison.metric == METRICS[0]
        for one in comparison.differences
        if one.first[0] == one.second[0]
    ]


def of_architectures(result: Evaluation) -> Row:
    """Rankings, differences, reversals and interaction on the images that every pair compares."""
    study = result.study
    assert study is not None
    return {
        "images": study.selected,
        "patients": study.selected_patients,
        "convergence": [equivalence(item) for item in study.convergence],
        "comparisons": [_of(comparison) for comparison in _overall(result) if comparison.metric in METRICS],
    }


def _overall(result: Evaluation) -> list[ComparisonResult]:
    assert result.study is not None
    return [comparison for comparison in result.study.comparisons if comparison.scope == ALL]


def _of(comparison: ComparisonResult) -> Row:
    ranking = {"method", "architectures", "means", "orders", "n", "n_patients"}
    return {
        "layer": comparison.layer,
        "metric": comparison.metric,
        "rankings": [item.model_dump(include=ranking) for item in comparison.rankings],
        "differences": [
            {"method": one.first[1], **difference(one, 0)}
            for one in comparison.differences
            if one.first[1] == one.second[1]
        ],
        "reversals": [item.model_dump(exclude={"reason"}) for item in comparison.reversals],
        "interaction": comparison.interaction.model_dump(exclude={"reason"}) if comparison.interaction else None,
    }


def difference(one: Difference, part: int = 1) -> Row:
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
        "shown": smallest_shown(one.low, one.high),
    }


def smallest_shown(low: float | None, high: float | None) -> float | None:
    """The difference from 0 that as many patients show with 80 % power, unadjusted: (z_975 + z_80) standard errors.

    The standard error is that of the 95 % interval low .. high (Cohen 1988, chapter 2).
    """
    if low is None or high is None:
        return None
    two_sided = _Z.inv_cdf(1 - LEVEL / 2)
    return (two_sided + _Z.inv_cdf(POWER)) * (high - low) / (2 * two_sided)


def equivalence(item: Equivalence) -> Row:
    """Whether two architectures classify equally well after fine-tuning, by one statistic."""
    return item.model_dump(include={"name", "of", "difference", "low90", "high90", "margin", "equivalent"})

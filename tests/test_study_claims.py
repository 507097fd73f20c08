"""The verdicts of docs/study on the paper's claims follow from numbers by rules, both ways and undecided."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from harness.results.schema import Difference, Order, Ranking
from harness.statistics.power import smallest_shown
from scripts.study import claims, comparisons

Row = dict[str, Any]


def references(low: float | None, high: float | None) -> list[Row]:
    """Rows of the three networks whose indices of coarse localisation all have one interval."""
    index = {"index": {"mean": 0.5, "low": low, "high": high}}
    return [
        {"architecture": name, "layer": claims.LAYER, "method": method, **dict.fromkeys(claims.COARSE, index)}
        for name in claims.ARCHITECTURES
        for method in claims.PAPER
    ]


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.6, 0.9, claims.SUPPORTED), (0.2, 0.4, claims.NOT), (0.3, 0.7, claims.OPEN), (None, None, claims.OPEN)],
)
def test_coarse_localisation(low: float | None, high: float | None, verdict: str) -> None:
    assert claims.coarse_localisation(references(low, high)) == verdict


def test_one_network_that_moved_decides_against_coarse_localisation() -> None:
    moved = references(0.1, 0.3)[:1] + references(0.6, 0.9)[1:]
    assert claims.coarse_localisation(moved) == claims.NOT
    another_layer = [{**row, "layer": "last"} for row in references(0.1, 0.3)]
    assert claims.coarse_localisation(references(0.6, 0.9) + another_layer) == claims.SUPPORTED


def compared(layercam: float, plusplus: float, p: float, called: bool = False) -> list[Row]:
    """A comparison of all pairs of the three networks; differences under the two methods."""
    pairs = list(combinations(claims.ARCHITECTURES, 2))
    values = dict(zip(claims.PAPER, (layercam, plusplus), strict=True))
    return [
        {
            "layer": claims.LAYER,
            "differences": [
                {"method": method, "first": one, "second": other, "mean": mean, "p_holm": p}
                for method, mean in values.items()
                for one, other in pairs
            ],
            "reversals": [{"architectures": pair, "methods": claims.PAPER, "called": called} for pair in pairs],
        }
    ]


def converged(equivalent: bool) -> list[Row]:
    return [
        {"name": f"{one} and {other}", "of": of, "equivalent": equivalent}
        for one, other in combinations(claims.ARCHITECTURES, 2)
        for of in ("accuracy", "auc")
    ]


def test_overlap_by_architecture_is_supported_or_open() -> None:
    assert claims.overlap_by_architecture(compared(0.2, 0.2, p=0.01)) == claims.SUPPORTED
    assert claims.overlap_by_architecture(compared(0.2, 0.2, p=0.2)) == claims.OPEN


def test_a_reversal_counts_at_equal_performance_only() -> None:
    reversed_ = compared(0.2, -0.2, p=0.01, called=True)
    assert claims.reversal(reversed_, converged(True)) == claims.SUPPORTED
    assert claims.reversal(reversed_, converged(False)) == claims.OPEN


def test_no_reversal_is_shown_only_where_both_methods_tell_all_apart() -> None:
    assert claims.reversal(compared(0.2, 0.1, p=0.01), converged(True)) == claims.NOT
    assert claims.reversal(compared(0.2, 0.1, p=0.2), converged(True)) == claims.OPEN


def test_a_network_has_learnt_where_every_training_beats_the_baseline() -> None:
    def row(name: str, phase: str, low: float) -> Row:
        return {"architecture": name, "phase": phase, "accuracy": {"low": low}}

    rows = [row("A", "transfer", 0.1), row("A", "finetune", 0.7), row("A", "finetune.seed1", 0.6)]
    rows += [row("B", "transfer", 0.9), row("B", "finetune", 0.7), row("B", "finetune.seed1", 0.5)]
    assert claims.learned(rows, baseline=0.55) == ["A"]


def test_the_difference_shown_with_80_percent_power() -> None:
    """2.80 standard errors of 0.1, of an interval of +-1.96 of them."""
    assert smallest_shown(-0.196, 0.196) == pytest.approx(0.2802, abs=1e-4)
    known: dict[str, Any] = {"first": ("A", "x"), "second": ("B", "x"), "value": 0.1, "p": 0.5, "p_holm": 0.5, "n": 9}
    known |= {"n_patients": 9, "reason": None}
    assert comparisons.difference(Difference(low=-0.196, high=0.196, **known), 0)["shown"] == smallest_shown(
        -0.196, 0.196
    )
    assert comparisons.difference(Difference(low=None, high=0.1, **known), 0)["shown"] is None


def test_the_probability_of_an_order_is_null_without_draws() -> None:
    """Not 0, which would say that another order is certain."""
    known: dict[str, Any] = {"method": "x", "architectures": ["A", "B"], "means": [0.2, 0.1], "most_stable": {}, "n": 9}
    known |= {"n_patients": 9, "reason": None}
    drawn = [Order(architectures=["B", "A"], probability=0.3), Order(architectures=["A", "B"], probability=0.7)]
    assert comparisons.ranking(Ranking(orders=drawn, **known))["probability"] == 0.7
    assert comparisons.ranking(Ranking(orders=drawn[:1], **known))["probability"] == 0
    assert comparisons.ranking(Ranking(orders=[], **known))["probability"] is None

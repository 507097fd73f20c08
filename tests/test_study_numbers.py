"""From evaluations to the numbers of the page, on evaluations written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from harness.results.schema import Evaluation, MetricSummary, PairResult
from scripts.study import numbers
from tests import made_results
from tests.made_results import LAYER, METHOD, estimate, summary

METRICS = ("centroid_shift", "zone_overlap", "iou_top20", "pearson", "gini_change")


def pair(result: Evaluation, after: str, mean: float, **changed: Any) -> PairResult:
    items = [summary(metric=metric, mean=mean, **changed) for metric in METRICS]
    return result.pairs[0].model_copy(update={"after": after, "name": f"a -> {after}", "metrics": items})


def replicated() -> Evaluation:
    result = made_results.evaluation()
    return result.model_copy(update={"pairs": [pair(result, "b", 0.4), pair(result, "c", 0.6)]})


def test_rows_are_means_over_replicates_with_the_envelope_of_their_intervals() -> None:
    (row,) = numbers.drift_rows(replicated())
    assert (row["architecture"], row["layer"], row["method"], row["n"]) == ("Made", LAYER, METHOD, [100, 100])
    for metric in METRICS:
        assert row[metric] == pytest.approx({"mean": 0.5, "low": 0.38, "high": 0.62})


def test_an_interval_that_one_replicate_lacks_is_not_given() -> None:
    found = numbers.envelope([{"mean": 0.4, "low": 0.3, "high": 0.5}, {"mean": 0.6, "low": None, "high": None}])
    assert found == {"mean": 0.5, "low": None, "high": None}


def test_references_hold_chance_floor_and_index() -> None:
    (row,) = numbers.reference_rows(replicated())
    found = row["iou_top20"]
    assert (found["mean"], found["chance"], found["floor"]) == pytest.approx((0.5, 0.2, 0.8))
    low, high = (0.4 - 0.2) / 0.6, (0.6 - 0.2) / 0.6
    assert found["index"] == pytest.approx({"mean": 0.5, "low": low - 0.05, "high": high + 0.05})


def test_undefined_and_vanished_are_shares_of_what_was_compared() -> None:
    items: list[MetricSummary] = [
        summary(n=90, undefined={"empty_union": 8, "singular_alpha": 2}, vanished=30),
        summary(n=100, undefined={}, vanished=10),
    ]
    assert numbers.share(items, "undefined") == pytest.approx(10 / 200)
    assert numbers.share(items, "vanished") == pytest.approx(40 / 200)


def test_the_first_epoch_is_compared_with_phase_one_on_both_sides() -> None:
    result = made_results.evaluation()
    checkpoints = [made_results.checkpoint(f"Made/{key}", 0.8) for key in ("a", "b", "c")]
    kinds = [("since-first", "Made/b", 0.5), ("since-first", "Made/c", 0.3), ("since-previous", "Made/c", 0.7)]
    pairs = [pair(result, after, mean).model_copy(update={"kind": kind}) for kind, after, mean in kinds]
    (rows,) = numbers.training_rows(result.model_copy(update={"checkpoints": checkpoints, "pairs": pairs})).values()
    found = [(row["epoch"], *(row[METHOD][since]["mean"] for since in ("first", "previous"))) for row in rows[1:]]
    assert found == [(1, 0.5, 0.5), (2, 0.3, 0.7)]
    assert METHOD not in rows[0]
    assert rows[0]["accuracy"]["mean"] == 0.8


def test_numbers_are_rounded_and_nan_becomes_null() -> None:
    found = numbers.rounded({"a": [0.12345678, float("nan")], "b": (1, "x", None, True), "c": -1e-9})
    assert found == {"a": [0.123457, None], "b": [1, "x", None, True], "c": 0.0}
    assert str(found["c"]) == "0.0"


def test_a_hit_is_decided_among_the_classes_of_a_source() -> None:
    """The highest logit of all is that of another source's class, which does not count."""
    row = {"logits": [9.0, 1.0, 2.0], "labels": ["c"]}
    assert numbers.hit(row, ["a", "b", "c"], [1, 2])
    assert not numbers.hit({**row, "labels": ["b"]}, ["a", "b", "c"], [1, 2])


def test_accuracy_within_a_source_leaves_other_sources_out() -> None:
    result = replicated()
    known = {f"x/{n}.png": {"source": "here" if n < 4 else "elsewhere"} for n in range(6)}
    logits = {"a": [2.0, 1.0], "b": [1.0, 2.0], "c": [1.0, 2.0]}  # `a` always says calm, the replicates storm
    rows = [
        {"checkpoint": key, "image": f"x/{n}.png", "group": f"p{n}", "logits": values, "labels": [label]}
        for key, values in logits.items()
        for n, label in enumerate(["calm", "storm", "storm", "storm", "calm", "calm"])
    ]
    found = numbers._within(rows, known, "here", (0, 1), ("calm", "storm"), result.pairs)
    assert (found["images"], found["majority"]) == (4, 0.75)
    assert (found["before"]["mean"], found["after"]["mean"]) == (0.25, 0.75)


def test_spans_of_few_patients_have_no_ends() -> None:
    assert numbers.span(estimate(0.4, None)) == {"mean": 0.4, "low": None, "high": None}

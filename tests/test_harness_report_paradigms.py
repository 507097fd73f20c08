"""What a report says where methods of several paradigms agree, and where they do not."""

from __future__ import annotations

import pytest

from harness.report import paradigms
from harness.report.findings import findings
from harness.report.summaries import Summaries
from harness.results.schema import ComparisonResult, IndexResult, Ranking
from harness.results.vocabulary import BUILT_IN
from tests import made_results

FIVE = ["layercam", "gradcam", "eigencam", "ablation", "integrated-gradients"]
NO, MODERATE, STRONG = (f"{word} drift beyond noise" for word in ("no", "moderate", "strong"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([MODERATE] * 5, f"All four paradigms say {MODERATE}."),
        ([MODERATE, MODERATE, NO, MODERATE, MODERATE],
         f"Three of four paradigms say {MODERATE}; activation (eigencam) says {NO}."),
        ([MODERATE, STRONG, NO, MODERATE, MODERATE],
         f"Two of four paradigms say {MODERATE}; gradient is divided (layercam: {MODERATE}, gradcam: {STRONG}); "
         f"activation (eigencam) says {NO}."),
        ([STRONG, STRONG, NO, MODERATE, "not judged"],
         f"gradient (layercam, gradcam) says {STRONG}; activation (eigencam) says {NO}; perturbation (ablation) says "
         f"{MODERATE}; path (integrated-gradients) says not judged."),
    ],
)  # fmt: skip
def test_every_paradigm_is_heard(words: list[str], sentence: str) -> None:
    assert paradigms.agreement(dict(zip(FIVE, words, strict=True)), BUILT_IN) == sentence


def test_methods_of_one_paradigm_are_no_agreement() -> None:
    assert paradigms.agreement({"layercam": MODERATE, "gradcam": MODERATE}, BUILT_IN) == ""


def test_two_paradigms_that_are_both_divided_are_both_told() -> None:
    methods = ["layercam", "gradcam", "ablation", "scorecam"]
    found = paradigms.agreement(dict(zip(methods, [NO, STRONG, NO, MODERATE], strict=True)), BUILT_IN)
    assert found == (
        f"gradient is divided (layercam: {NO}, gradcam: {STRONG}); perturbation is divided (ablation: {NO}, scorecam: "
        f"{MODERATE})."
    )


def index(value: float) -> IndexResult:
    return IndexResult(
        value=value, low=value - 0.02, high=value + 0.02, reason=None, n=100, n_patients=80, observed=0.5, chance=0.2,
        floor=0.8,
    )  # fmt: skip


def test_the_verdict_names_the_paradigm_that_dissents() -> None:
    metrics = [
        made_results.summary(method=method, index=index(value))
        for method, value in zip(FIVE, (0.6, 0.62, 0.96, 0.6, 0.6), strict=True)
    ]
    result = made_results.evaluation(metrics, methods=FIVE)
    (found,) = findings(result, Summaries(result))
    (fact,) = [fact for fact in found.facts if fact.label == "Paradigms"]
    assert fact.text == f"Three of four paradigms say {MODERATE}; activation (eigencam) says {NO}."


def test_orders_are_grouped_by_paradigm() -> None:
    def ranking(method: str, architectures: list[str]) -> Ranking:
        return Ranking(
            method=method, architectures=architectures, means=[0.5, 0.4], orders=[], most_stable={}, n=50,
            n_patients=40, reason=None,
        )  # fmt: skip

    rankings = [ranking("layercam", ["A", "B"]), ranking("gradcam", ["B", "A"]), ranking("ablation", ["A", "B"])]
    comparison = ComparisonResult(
        layer="last", scope="all", metric="iou_top20", differences=[], rankings=rankings, reversals=[], interaction=None
    )
    assert list(paradigms.orders(comparison, BUILT_IN)) == [
        "last, gradient: A > B (1 of 2 methods); B > A (1 of 2 methods)",
        "last, perturbation: A > B (1 of 1 methods)",
    ]
    assert list(paradigms.orders(comparison.model_copy(update={"rankings": rankings[:2]}), BUILT_IN)) == []


def test_reversals_say_between_what_they_lie() -> None:
    assert paradigms.kind_of(("layercam", "gradcam"), BUILT_IN) == "within gradient"
    assert paradigms.kind_of(("layercam", "ablation"), BUILT_IN) == "gradient against perturbation"

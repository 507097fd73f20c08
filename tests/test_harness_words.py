"""Every sentence about drift, with numbers that must and numbers that must not produce it; what power promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.common.formatting import MINUS
from harness.gate.judge import judge
from harness.gate.policy import Policy
from harness.models.metadata import PreservedEvidence
from harness.report import findings, html_tables, levels
from harness.report.findings import Finding
from harness.report.gallery import Gallery
from harness.report.html import render
from harness.report.summaries import Summaries
from harness.report.text_tables import drift_table, markdown
from harness.results.cautions import cautions
from harness.results.pseudonyms import Names
from harness.results.schema import CausalResult, Conditioning, Evaluation, IndexResult
from harness.statistics.bootstrap import Resampling
from harness.statistics.power import smallest_shown_drop
from harness.statistics.stability import stability_index
from tests import made_results, tiny_graphs


def index(value: float, low: float, high: float) -> IndexResult:
    return IndexResult(
        value=value, low=low, high=high, reason=None, n=100, n_patients=80, observed=0.5, chance=0.2, floor=0.8
    )


def finding(result: Evaluation) -> Finding:
    return findings.findings(result, Summaries(result))[0]


def evaluation(found: IndexResult, floor: str | None = "jitter") -> Evaluation:
    result = made_results.evaluation([made_results.summary(index=found)])
    result.pairs[0].floor = floor  # type: ignore[assignment]
    return result


def plain(text: str) -> str:
    return text.replace(MINUS, "-")


# Words follow the interval and name their floor


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (1.10, 0.90, 1.30, "No drift beyond noise"),
        (0.95, 0.895, 1.00, "No drift beyond noise"),  # 0.895 is shown as 0.90
        (0.95, 0.89, 1.00, "No drift shown beyond noise"),
        (0.90, 0.51, 1.30, "No drift shown beyond noise"),
        (0.60, 0.30, 0.90, "No drift shown beyond noise"),
        (0.60, 0.30, 0.89, "Slight to strong drift beyond noise"),
        (0.80, 0.75, 0.85, "Slight drift beyond noise"),
        (0.80, 0.74, 0.85, "Slight to moderate drift beyond noise"),
        (0.60, 0.50, 0.74, "Moderate drift beyond noise"),
        (0.30, 0.25, 0.49, "Strong drift beyond noise"),
        (0.20, -0.10, 0.24, "Severe drift beyond noise"),
        (0.20, -0.10, 0.25, "Strong to severe drift beyond noise"),
    ],
)
def test_words_name_what_the_interval_leaves(value: float, low: float, high: float, words: str) -> None:
    assert finding(evaluation(index(value, low, high))).level.words == words


def test_words_never_rest_on_the_value_alone() -> None:
    """Whatever the value, words are those of the interval; a wider one never says more."""
    rng = np.random.default_rng(0)
    for low, high in np.sort(rng.uniform(-0.3, 1.3, (200, 2)), axis=1):
        said = {levels.level_of(index(value, low, high), "jitter") for value in (low, (low + high) / 2, high)}
        wider = levels.level_of(index(high, low - 0.1, high + 0.1), "jitter")
        assert len(said) == 1
        assert wider.key == "uncertain" or _least(wider) <= _least(said.pop())


def _least(level: levels.Level) -> int:
    return [step.key for step in levels.STEPS].index({"uncertain": "none"}.get(level.key, level.key))


def test_the_same_numbers_on_another_floor_get_other_words() -> None:
    found = index(0.60, 0.55, 0.65)
    noise, seed = (finding(evaluation(found, floor)) for floor in ("jitter", "replicate"))
    assert (noise.level.words, seed.level.words) == (
        "Moderate drift beyond noise",
        "Moderate drift beyond a change of seed",
    )
    assert "Noise is the mildest floor: trainings that differ by their seed alone" in noise.sentence
    assert "mildest floor" not in seed.sentence
    assert finding(evaluation(found, None)).level is levels.UNKNOWN


@pytest.mark.parametrize(("low", "high", "said"), [(0.91, 1.2, True), (0.7, 1.1, True), (0.7, 0.89, False)])
def test_power_stands_beside_every_no_drift_and_nowhere_else(low: float, high: float, said: bool) -> None:
    result = evaluation(index(0.8, low, high))
    drop = 0.1 + (1.959964 + 0.841621) * (high - low) / 3.919928
    sentence = f"With 80 % power, 80 patients would have shown a drop of {drop:.2f}, to an index of {1 - drop:.2f}"
    for text in (finding(result).sentence, drift_table(result, wide=True), markdown(result)):
        assert (sentence in text) == said
    assert ("mildest floor" in finding(result).sentence) == (not said)


def test_an_interval_that_would_show_nothing_says_so() -> None:
    assert "80 patients would not even have shown maps like those of unrelated images." in (
        finding(evaluation(index(0.9, 0.1, 1.7))).sentence
    )
    assert "not even" not in finding(evaluation(index(0.9, 0.6, 1.2))).sentence


def test_the_table_says_the_words_of_each_pair() -> None:
    text = drift_table(evaluation(index(0.6, 0.55, 0.65)))
    assert "Moderate drift beyond noise by iou_top20, penultimate, layercam" in text
    assert "power" not in text


def test_power_is_what_simulated_studies_reach() -> None:
    """Studies whose index is as far below 1 as the drop that others of their size promised show drift in 80 %."""
    rng, patients, studies = np.random.default_rng(3), 60, 150
    groups = np.arange(patients)

    def interval_of(true_index: float, seed: int) -> tuple[float, float]:
        chance, floor = rng.normal(0.3, 0.05, (patients, 1)), rng.normal(0.8, 0.05, (patients, 1))
        observed = 0.3 + 0.5 * true_index + rng.normal(0, 0.2, (patients, 1))
        (found,) = stability_index(Resampling(groups, seed, 300), observed, chance, floor, [1])
        return found.low, found.high

    promised = np.mean([smallest_shown_drop(*interval_of(1.0, seed)) for seed in range(30)])
    assert 0.15 < promised < 0.4
    shown = np.mean([interval_of(1 - promised, 100 + seed)[1] < 0.90 for seed in range(studies)])
    assert abs(shown - 0.80) < 3 * np.sqrt(0.8 * 0.2 / studies)  # three standard errors of a share


def test_power_needs_an_interval() -> None:
    assert smallest_shown_drop(0.9, 0.9) == pytest.approx(0.10)
    for low, high in ((1.0, 0.9), (np.nan, 0.9)):
        with pytest.raises(ValueError, match="an interval needs low <= high"):
            smallest_shown_drop(low, high)


# Identical pairs


def identical(accuracy_of_both: bool = True, **changed: Any) -> Evaluation:
    shared: dict[str, Any] = {"mean": 1.0, "index": index(1.25, 1.2, 1.3), "q05": 1.0}
    metrics = [
        made_results.summary(name, method=method, scope=scope, **{**shared, **changed})
        for name in ("iou_top20", "soft_iou")
        for method in ("layercam", "gradcam")
        for scope in ("all", *made_results.CLASSES)
    ]
    result = made_results.evaluation(metrics, methods=["layercam", "gradcam"])
    if accuracy_of_both:
        result.checkpoints[1].metadata.weights_digest = "a"
    return result


def test_of_a_model_with_itself_nothing_is_said_but_that() -> None:
    """Methods whose floors differ have indices that lie apart: nothing follows from it here."""
    result = identical()
    for item in result.pairs[0].metrics:
        if item.method == "gradcam":
            item.index = index(2.0, 1.9, 2.1)
    found = finding(result)
    assert found.level is levels.SAME_MODEL
    assert (found.facts, found.index) == ([], None)
    assert found.sentence == (
        "Before and after are the same weights in two files (digest of the weights a): nothing was compared."
    )
    text = drift_table(result)
    assert "Nothing compared\n" in text
    assert "power" not in text


def test_identical_maps_of_two_models_are_said_to_be_that() -> None:
    found = finding(identical(accuracy_of_both=False))
    assert found.level is levels.SAME_MAPS
    assert [fact.label for fact in found.facts] == ["Accuracy"]
    assert found.sentence == (
        "The maps before and after are identical in each of the 100 compared images, under every method and at every "
        "layer."
    )
    assert findings.overall([found, found]) == "2 pairs of checkpoints: 2 with identical maps."


@pytest.mark.parametrize("changed", [{"mean": 0.9999}, {"vanished": 1}, {"n": 0}])
def test_maps_that_differ_anywhere_are_not_identical(changed: dict[str, Any]) -> None:
    assert finding(identical(accuracy_of_both=False, **changed)).level is not levels.SAME_MAPS


# Cautions


def with_quality(accuracy: float, auc: float, majority: float | None, half: float | None = 0.04) -> Evaluation:
    result = made_results.evaluation(majority=majority)
    result.checkpoints[1].quality.update(
        accuracy=made_results.estimate(accuracy, half), auc=made_results.estimate(auc, half)
    )
    return result


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (with_quality(0.34, 0.52, 0.33), ["macro AUC", "accuracy"]),  # permuted labels
        (with_quality(0.36, 0.60, 0.33), ["accuracy"]),
        (with_quality(0.38, 0.54, 0.33), ["macro AUC"]),
        (with_quality(0.38, 0.55, 0.33), []),
        (with_quality(0.34, 0.60, None), []),
        (with_quality(0.34, 0.50, 0.33, half=None), []),  # without an interval nothing is known
    ],
)
def test_accuracy_at_chance_is_warned_of(result: Evaluation, said: list[str]) -> None:
    found = cautions(result)
    assert [text.removeprefix("b: ").split(" 0.")[0] for text in found] == said
    facts = [fact.text for fact in finding(result).facts if fact.label == "Warning"]
    assert facts == [f"{text}." for text in found]
    assert [line for line in drift_table(result, wide=True).splitlines() if line.startswith("WARNING")] == [
        f"WARNING: {text}" for text in found
    ]
    rule = {"metric": "accuracy", "statistic": "value", "min": 0.1}
    assert judge(result, Policy.model_validate({"format": 1, "rule": [rule]})).warnings == found


def test_the_sentence_about_chance_holds_its_numbers() -> None:
    low, high = cautions(with_quality(0.34, 0.52, 0.33))
    assert low == (
        "b: macro AUC 0.520 (0.480 .. 0.560) is not shown to be above 0.5, that of guessing: its maps explain no skill"
    )
    assert high == (
        "b: accuracy 0.340 (0.300 .. 0.380) is not shown to be above 0.330, that of always answering the most frequent "
        "class"
    )


@pytest.mark.parametrize(("mean", "said"), [(0.05, False), (0.051, True), (0.13, True)])
def test_ill_conditioned_maps_are_warned_of(mean: float, said: bool) -> None:
    result = made_results.evaluation()
    item = Conditioning(layer="penultimate", method="gradcam++", mean=mean, median=0.1, q95=0.3, n=120)
    result.checkpoints[0].conditioning = [item]
    sentence = (
        f"a: gradcam++ at penultimate takes {100 * mean:.0f} % of its weights from denominators below 1, so a few "
        "elements decide its maps; compare with gradcam++-mean or layercam"
    )
    assert cautions(result) == ([sentence] if said else [])
    assert (f"WARNING: {sentence}" in drift_table(result, wide=True)) == said


PRESERVED = {
    "checkpoint": "b", "layer": "penultimate", "method": "layercam", "similarity": "soft-iou", "weight": 4.0,
    "reference": "transfer", "images": 90, "of": 100,
}  # fmt: skip


@pytest.mark.parametrize(
    ("methods", "causal", "judges"),
    [
        (["layercam", "hirescam"], False, "nothing else judges it here: add --method ablation --method integrated-gr"),
        (["layercam", "ablation"], False, "judge it by ablation (perturbation)"),
        (["layercam", "ablation", "eigencam"], True, "(perturbation), eigencam (activation) and the causal check"),
    ],
)
def test_evidence_that_was_trained_to_stay_is_told_with_its_judges(
    methods: list[str], causal: bool, judges: str
) -> None:
    result = made_results.evaluation(methods=methods)
    result.causal = [CausalResult.model_construct()] if causal else []
    result.checkpoints[1].metadata.preserved = [PreservedEvidence.model_validate(PRESERVED)]
    (text,) = cautions(result)
    assert text.startswith(
        "b: was trained to preserve evidence (layercam maps at penultimate were held to those of transfer, weight 4); "
        "gradient methods say how well that was learnt, not whether the evidence stayed; "
    )
    assert judges in text
    assert [fact.text for fact in finding(result).facts if fact.label == "Trained to"] == [f"{text}."]
    rule = {"metric": "accuracy", "statistic": "value", "min": 0.1}
    assert judge(result, Policy.model_validate({"format": 1, "rule": [rule]})).warnings == [text]


@pytest.mark.parametrize(
    ("method", "independent", "code"), [("layercam", True, 3), ("layercam", False, 0), ("ablation", True, 0)]
)
def test_a_gate_judges_evidence_that_was_trained_to_stay_by_another_paradigm(
    method: str, independent: bool, code: int
) -> None:
    result = made_results.evaluation([made_results.summary(method=method)], methods=[method])
    result.checkpoints[1].metadata.preserved = [PreservedEvidence.model_validate(PRESERVED)]
    rule = {"metric": "iou_top20", "statistic": "mean", "method": method, "layer": "penultimate", "min": 0.1}
    policy = {"format": 1, "requirements": {"independent": independent}, "rule": [rule]}
    verdict = judge(result, Policy.model_validate(policy))
    assert verdict.exit_code == code
    assert [case.message for case in verdict.cases if case.title == "independent judge"] == (
        [
            "b was trained to preserve evidence by layercam, and no rule is of another paradigm than gradient: add one "
            "on ablation, or set requirements.independent = false"
        ]
        if code
        else []
    )


def test_a_checkpoint_held_to_masks_says_so() -> None:
    item = PreservedEvidence.model_validate({**PRESERVED, "similarity": "inside", "reference": "lungs"})
    assert str(item) == "layercam maps at penultimate were held inside of the masks lungs, weight 4"


def test_conditioning_stands_in_the_report_and_in_the_wide_table() -> None:
    result = made_results.evaluation()
    assert html_tables.conditionings(result) == []
    result.checkpoints[0].conditioning = [
        Conditioning(layer="penultimate", method="gradcam++", mean=mean, median=0.1, q95=0.3, n=120)
        for mean in (0.05, 0.06)
    ]
    rows = html_tables.conditionings(result)
    assert rows[1].texts == ("a", "penultimate", "gradcam++", "6.0 %", "10.0 %", "30.0 %", "120")
    assert [row.marked for row in rows] == [False, True]
    assert "0.060" in drift_table(result, wide=True)
    assert "weight from" not in drift_table(result)


def test_where_no_image_differs_a_cell_has_no_index() -> None:
    same = {"mean": 1.0, "index": index(1.3, 1.2, 1.4)}
    cell = html_tables.cell(made_results.summary(sd=0.0, **same))
    assert (cell.index, cell.without, cell.tint) == ("", "no difference", None)
    for changed in ({"sd": 0.01}, {"sd": 0.0, "mean": 0.999}):
        assert html_tables.cell(made_results.summary(**{**same, **changed})).index == "1.30"
    assert (
        html_tables.cell(made_results.summary("centroid_shift", sd=0.0, **{**same, "mean": 0.0}, stable_is="low")).index
        == ""
    )


def test_the_report_of_a_model_with_itself_shows_no_index_and_no_drifted_case(tmp_path: Path) -> None:
    graph = tiny_graphs.write_graph(tmp_path / "a.onnx", 6, balanced=True)
    manifest = tiny_graphs.write_images(tmp_path / "images", exposure=0.6)
    asked = ["--before", graph, "--after", graph, "--data", manifest, "--select", "all", "--map-size", 24]
    with tiny_graphs.in_brief():
        result = tiny_graphs.evaluate(tmp_path / "out", *asked, "--jitter", 1, "--chance", 1, "--layer", "early")
    page = render(result, tmp_path / "out", Names(None))
    verdict = page[page.index('<section id="verdict"') : page.index('<section id="matrix"')]
    matrix = page[page.index('<section id="matrix"') : page.index('<section id="distributions"')]
    assert "Nothing was compared: before and after are the same model." in verdict
    assert 'class="reading' not in verdict
    assert "Methods" not in verdict
    assert "no difference" in matrix
    assert {group.kind for group in Gallery(tmp_path / "out", Names(None)).groups} == {"least"}

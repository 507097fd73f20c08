"""Every kind of rule against every outcome; what is undefined never passes; policies that make no sense are refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.common.errors import InputError
from harness.gate.derive_policy import propose
from harness.gate.judge import judge
from harness.gate.policy import Policy, Rule, parse_policy, read_policy
from harness.gate.verdict import Case, Verdict
from harness.results.schema import Estimate, Evaluation, IndexResult, MetricSummary
from tests.made_results import LAYER, METHOD, checkpoint, estimate, evaluation, summary

PLACE = {"metric": "iou_top20", "method": METHOD, "layer": LAYER}
HELD = ("fail", "warn", "pass")


def policy(*rules: dict, **requirements: float) -> Policy:
    return Policy.model_validate({"format": 1, "rule": list(rules), "requirements": requirements})


def judged(rule: dict, metrics: list[MetricSummary] | None = None, **requirements: float) -> Verdict:
    return judge(evaluation(metrics), policy({**PLACE, **rule}, **requirements))


# Per statistic: (value, its bad end, its good end) of the made summary, towards lower values.
STATISTICS = {
    "mean": (0.5, 0.48, 0.52),
    "median": (0.5, 0.45, 0.55),
    "p05": (0.3, 0.25, 0.35),
    "p95": (0.7, 0.65, 0.75),
    "index": (0.5, 0.45, 0.55),
}


@pytest.mark.parametrize("severity", ["fail", "warn"])
@pytest.mark.parametrize("mode", ["surely-good", "point", "surely-bad"])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_lower_bound_holds_just_below_the_decisive_end(statistic: str, mode: str, severity: str) -> None:
    value, bad, good = STATISTICS[statistic]
    decisive = {"surely-good": bad, "point": value, "surely-bad": good}[mode]
    rule = {"statistic": statistic, "mode": mode, "severity": severity}
    assert judged({**rule, "min": decisive - 1e-9}).outcome == "pass"
    verdict = judged({**rule, "min": decisive + 1e-3})
    assert verdict.outcome == severity
    assert verdict.exit_code == (1 if severity == "fail" else 0)
    (case,) = verdict.cases
    assert case.would_pass == f">= {decisive:.4f}"
    assert judged({**rule, "min": float(case.would_pass[3:])}).outcome == "pass"


@pytest.mark.parametrize("mode", ["surely-good", "point", "surely-bad"])
def test_upper_bound_is_mirrored(mode: str) -> None:
    metrics = [summary("centroid_shift", mean=0.1, stable_is="low")]
    decisive = {"surely-good": 0.12, "point": 0.1, "surely-bad": 0.08}[mode]
    rule = {"metric": "centroid_shift", "statistic": "mean", "mode": mode}
    assert judged({**rule, "max": decisive + 1e-9}, metrics).outcome == "pass"
    assert judged({**rule, "max": decisive - 1e-3}, metrics).outcome == "fail"


def test_the_bound_that_would_pass_is_rounded_to_the_lenient_side() -> None:
    rule = {"statistic": "mean", "mode": "point"}
    (lower,) = judged({**rule, "min": 0.6}, [summary(mean=0.50006)]).cases
    assert lower.would_pass == ">= 0.5000"
    metrics = [summary("centroid_shift", mean=0.20004, stable_is="low")]
    (upper,) = judged({**rule, "metric": "centroid_shift", "max": 0.1}, metrics).cases
    assert upper.would_pass == "<= 0.2001"


def test_two_bounds_hold_the_interval_between_them() -> None:
    metrics = [summary("gini_change", mean=0.0, stable_is="zero")]
    rule = {"metric": "gini_change", "statistic": "mean"}
    assert judged({**rule, "min": -0.03, "max": 0.03}, metrics).outcome == "pass"
    assert judged({**rule, "min": -0.03, "max": 0.01}, metrics).outcome == "fail"
    assert judged({**rule, "min": -0.01, "max": 0.03}, metrics).outcome == "fail"


def test_vanished_rate() -> None:
    assert judged({"statistic": "vanished-rate", "max": 0.08}).outcome == "pass"
    assert judged({"statistic": "vanished-rate", "max": 0.06}).outcome == "fail"


@pytest.mark.parametrize(
    ("metric", "statistic", "bound", "outcome"),
    [
        ("accuracy", "change", {"min": -0.02}, "pass"),
        ("accuracy", "change", {"min": 0.0}, "fail"),
        ("accuracy", "value", {"min": 0.78}, "pass"),
        ("accuracy", "value", {"min": 0.80}, "fail"),
        ("auc", "change", {"min": -0.03}, "pass"),
        ("auc", "value", {"min": 0.89}, "fail"),
        ("ece", "value", {"max": 0.07}, "pass"),
        ("ece", "value", {"max": 0.055}, "fail"),
    ],
)
def test_predictions(metric: str, statistic: str, bound: dict, outcome: str) -> None:
    rule = {"metric": metric, "statistic": statistic, **bound}
    assert judge(evaluation(), policy(rule)).outcome == outcome


def test_scopes() -> None:
    metrics = [summary(), summary(scope="calm", mean=0.6), summary(scope="storm", mean=0.3)]
    each = judged({"statistic": "mean", "min": 0.4, "scope": "each-class"}, metrics)
    assert [(case.scope, case.outcome) for case in each.cases] == [("calm", "pass"), ("storm", "fail")]
    worst = judged({"statistic": "mean", "min": 0.4, "scope": "worst-class"}, metrics)
    assert [(case.scope, case.outcome) for case in worst.cases] == [("storm (worst class)", "fail")]
    assert judged({"statistic": "mean", "min": 0.4, "scope": "calm"}, metrics).outcome == "pass"


def test_worst_class_of_a_low_metric_and_an_undefined_one() -> None:
    low = [summary("centroid_shift", scope, mean, stable_is="low") for scope, mean in (("calm", 0.1), ("storm", 0.3))]
    rule = {"metric": "centroid_shift", "statistic": "mean", "max": 0.4, "scope": "worst-class"}
    assert judged(rule, low).cases[0].scope == "storm (worst class)"
    undefined = [low[0], summary("centroid_shift", "storm", None, stable_is="low")]
    verdict = judged(rule, undefined)
    assert (verdict.cases[0].scope, verdict.outcome) == ("storm (worst class)", "skipped")


@pytest.mark.parametrize(
    ("metric", "bound", "calm", "storm"),
    [
        ("iou_top20", {"min": 0.4}, {"mean": 0.6}, {"mean": 0.3}),
        ("iou_top20", {"min": 0.1}, {"mean": 0.9}, {"mean": 0.9, "undefined": {"empty_map": 50}}),
        ("iou_top20", {"min": 0.1}, {"mean": 0.3}, {"mean": 0.9, "n": 12}),
        ("gini_change", {"max": 0.1}, {"mean": 0.25}, {"mean": -0.4}),
        ("gini_before", {"min": 0.3}, {"mean": 0.15}, {"mean": 0.55}),
        ("centroid_shift", {"max": 0.2}, {"mean": 0.1}, {"mean": 0.3}),
    ],
)
def test_worst_class_is_no_better_than_the_worst_of_each(metric: str, bound: dict, calm: dict, storm: dict) -> None:
    metrics = [summary(metric, "calm", **calm), summary(metric, "storm", **storm)]
    rule = {"metric": metric, "statistic": "mean", **bound}
    each = judged({**rule, "scope": "each-class"}, metrics)
    worst = judged({**rule, "scope": "worst-class"}, metrics)
    assert worst.outcome == each.outcome
    assert worst.outcome != "pass"


@pytest.mark.parametrize("scope", ["each-class", "worst-class", "storm"])
def test_a_class_without_images_is_skipped_not_passed(scope: str) -> None:
    verdict = judged({"statistic": "mean", "min": 0.1, "scope": scope}, [summary(), summary(scope="calm")])
    assert verdict.exit_code == 3
    assert any("no image of the class" in case.message for case in verdict.cases)


@pytest.mark.parametrize("scope", ["each-class", "worst-class"])
def test_a_result_without_classes_or_without_the_metric_is_an_error(scope: str) -> None:
    rule = {**PLACE, "statistic": "mean", "min": 0.1}
    easy = {"metric": "accuracy", "statistic": "value", "min": 0.1}
    verdict = judge(evaluation(classes=[]), policy(easy, {**rule, "scope": scope}))
    assert (verdict.outcome, verdict.cases[1].message) == ("error", "the result has no classes")
    verdict = judge(evaluation(), policy(easy, {**rule, "metric": "pearson"}))
    assert (verdict.outcome, verdict.cases[1].message) == ("error", "the result has no pearson; evaluate anew")


def test_many_unreadable_images_are_no_pass() -> None:
    result = evaluation(unreadable={f"{n}.png": "damaged" for n in range(2)})
    rule = policy({**PLACE, "statistic": "mean", "min": 0.1})
    verdict = judge(result, rule)
    assert (verdict.outcome, verdict.exit_code) == ("skipped", 3)
    assert "1.7% of the images could not be read" in verdict.cases[0].message
    assert judge(result, policy({**PLACE, "statistic": "mean", "min": 0.1}, max_undefined=0.02)).outcome == "pass"


@pytest.mark.parametrize(
    ("changed", "requirements", "sentence"),
    [
        ({"n": 29}, {}, "29 images; the policy requires 30"),
        ({"n_patients": 19}, {}, "19 patients; the policy requires 20"),
        ({"undefined": {"empty_map": 2}}, {}, "undefined for 2.0% of the images; the policy allows 1.0%"),
        ({"estimate": estimate(None)}, {}, "no value (few_patients)"),
        ({"estimate": estimate(0.9, None)}, {}, "no interval (few_patients)"),
        ({"n": 100}, {"min_images": 101}, "100 images; the policy requires 101"),
    ],
)
def test_too_little_to_stand_on_is_skipped_and_no_pass(changed: dict, requirements: dict, sentence: str) -> None:
    verdict = judged({"statistic": "mean", "min": 0.1}, [summary(**changed)], **requirements)
    assert verdict.outcome == "skipped"
    assert verdict.exit_code == 3
    assert sentence in verdict.cases[0].message


@pytest.mark.parametrize("changed", [{"n": 30}, {"n_patients": 20}, {"n": 99, "undefined": {"empty_map": 1}}])
def test_just_enough_to_stand_on_is_judged(changed: dict) -> None:
    assert judged({"statistic": "mean", "min": 0.1}, [summary(**changed)]).outcome == "pass"


def test_as_many_unreadable_images_as_allowed_are_no_obstacle() -> None:
    rule = policy({**PLACE, "statistic": "mean", "min": 0.1}, max_undefined=0)
    assert judge(evaluation(), rule).outcome == "pass"


def test_a_rule_may_allow_more_undefined() -> None:
    metrics = [summary(undefined={"empty_map": 10})]
    assert judged({"statistic": "mean", "min": 0.1, "max_undefined": 0.1}, metrics).outcome == "pass"
    assert judged({"statistic": "mean", "min": 0.1, "max_undefined": 0.09}, metrics).outcome == "skipped"


@pytest.mark.parametrize(
    ("rule", "metrics", "sentence"),
    [
        ({"method": "gradcam", "statistic": "mean"}, None, "no maps of gradcam at penultimate; it has layercam at"),
        ({"layer": "last", "statistic": "mean"}, None, "no maps of layercam at last"),
        ({"scope": "strom", "statistic": "mean"}, None, "no class 'strom'; it has storm"),
        ({"pair": "a -> c", "statistic": "mean"}, None, "no pair 'a -> c'; it has a -> b"),
        ({"statistic": "index"}, [summary(index=None)], "no stability index"),
    ],
)
def test_what_the_result_does_not_hold_is_an_error(rule: dict, metrics: list | None, sentence: str) -> None:
    verdict = judged({"min": 0.1, **rule}, metrics)
    assert (verdict.outcome, verdict.exit_code) == ("error", 3)
    assert sentence in verdict.cases[0].message


def test_unlabelled_result_has_no_accuracy() -> None:
    result = evaluation()
    result.pairs[0].change = {}
    verdict = judge(result, policy({"metric": "accuracy", "statistic": "change", "min": -0.1}))
    assert verdict.outcome == "error"


def test_index_that_is_not_separated_is_skipped() -> None:
    index = IndexResult(
        value=None,
        low=None,
        high=None,
        reason="floor_not_separated",
        n=100,
        n_patients=80,
        observed=0.5,
        chance=0.5,
        floor=0.5,
    )
    verdict = judged({"statistic": "index", "min": 0.1}, [summary(index=index)])
    assert verdict.outcome == "skipped"
    assert "floor_not_separated" in verdict.cases[0].message


@pytest.mark.parametrize(
    ("n", "sampled", "outcome"),
    [
        (99, None, "pass"),  # as many as the policy allows: 1 %
        (98, None, "skipped"),
        (50, 50, "pass"),  # chance was estimated on a sample of the images
        (50, 51, "skipped"),
    ],
)
def test_images_without_chance_or_floor_are_undefined_for_an_index(n: int, sampled: int | None, outcome: str) -> None:
    index = summary().index.model_copy(update={"n": n, "sampled": sampled})
    verdict = judged({"statistic": "index", "min": 0.1}, [summary(index=index)])
    assert verdict.outcome == outcome
    assert ("undefined for 2.0% of the images" in verdict.cases[0].message) == (outcome == "skipped")


ENDS = st.one_of(st.none(), st.floats(-1, 1), st.just(math.nan), st.just(math.inf))


@given(ENDS, ENDS, ENDS, st.sampled_from(["surely-good", "point", "surely-bad"]))
def test_nothing_undefined_ever_passes(mean: float, low: float, high: float, mode: str) -> None:
    found = Estimate(mean=mean, low=low, high=high)
    verdict = judged({"statistic": "mean", "min": 1e-6, "mode": mode}, [summary(estimate=found)])
    decisive = {"surely-good": found.low, "point": found.mean, "surely-bad": found.high}[mode]
    if decisive is None or not decisive >= 1e-6:
        assert verdict.outcome != "pass"
        assert verdict.exit_code != 0


@pytest.mark.parametrize(
    ("statistic", "changed"),
    [
        ("mean", {"estimate": Estimate(mean=None, low=0.48, high=0.52)}),
        ("mean", {"estimate": estimate(0.5).model_copy(update={"mean": math.nan})}),
        ("median", {"median": None}),
        ("median", {"intervals": {"median": (0.9, math.nan)}}),
        ("index", {"index": summary().index.model_copy(update={"value": None, "reason": "floor_not_separated"})}),
    ],
)
def test_an_interval_around_no_value_is_no_pass(statistic: str, changed: dict) -> None:
    verdict = judged({"statistic": statistic, "min": 0.1}, [summary().model_copy(update=changed)])
    assert (verdict.outcome, verdict.exit_code) == ("skipped", 3)


def test_a_failure_goes_before_an_error_and_that_before_a_skip() -> None:
    failing, missing = (
        {**PLACE, "statistic": "mean", "min": 0.9},
        {**PLACE, "statistic": "mean", "min": 0.1, "layer": "x"},
    )
    verdict = judge(evaluation(), policy(missing, failing))
    assert (verdict.outcome, verdict.exit_code) == ("fail", 1)
    assert verdict.counts == {"fail": 1, "error": 1}


def test_fail_on_warning() -> None:
    rules = policy({**PLACE, "statistic": "mean", "min": 0.9, "severity": "warn"})
    assert judge(evaluation(), rules).exit_code == 0
    assert judge(evaluation(), rules, fail_on_warning=True).exit_code == 1


@pytest.mark.parametrize(
    ("outcomes", "code", "code_with_warnings_failing"),
    [
        (["pass"], 0, 0),
        (["pass", "warn"], 0, 1),
        (["pass", "warn", "skipped"], 3, 1),
        (["pass", "warn", "error"], 3, 1),
        (["pass", "skipped"], 3, 3),
        (["skipped", "error"], 3, 3),
        (["pass", "warn", "skipped", "error", "fail"], 1, 1),
        ([], 3, 3),
    ],
)
def test_the_worst_of_several_cases_decides(outcomes: list, code: int, code_with_warnings_failing: int) -> None:
    cases = [Case(rule=1, title="rule", pair="pair", outcome=outcome) for outcome in outcomes]
    assert Verdict(cases=cases).exit_code == code
    assert Verdict(cases=cases, fail_on_warning=True).exit_code == code_with_warnings_failing


# ---- baseline


def against(baseline: Evaluation | None, result: Evaluation, **rule: float) -> Verdict:
    return judge(result, policy({**PLACE, "statistic": "mean", **rule}), baseline)


def test_worsening_is_measured_in_the_direction_of_the_metric() -> None:
    better, worse = evaluation([summary(mean=0.6)]), evaluation([summary(mean=0.5)])
    assert against(better, worse, max_worsening=0.13).outcome == "pass"
    assert against(better, worse, max_worsening=0.11).outcome == "fail"
    assert against(worse, better, max_worsening=0.0).outcome == "pass"
    assert against(better, worse, max_relative_worsening=0.21).outcome == "pass"
    assert against(better, worse, max_relative_worsening=0.19).outcome == "fail"
    low = [evaluation([summary("centroid_shift", mean=mean, stable_is="low")]) for mean in (0.1, 0.2)]
    assert against(low[0], low[1], metric="centroid_shift", max_worsening=0.13).outcome == "pass"
    assert against(low[0], low[1], metric="centroid_shift", max_worsening=0.11).outcome == "fail"


def test_own_bound_and_baseline_count_both() -> None:
    better, worse = evaluation([summary(mean=0.6)]), evaluation([summary(mean=0.5)])
    verdict = against(better, worse, max_worsening=0.2, min=0.49)
    assert verdict.outcome == "fail"
    assert verdict.cases[0].bound == ">= 0.49"
    low = [evaluation([summary("centroid_shift", mean=mean, stable_is="low")]) for mean in (0.1, 0.2)]
    verdict = against(low[0], low[1], metric="centroid_shift", max_worsening=0.2, max=0.21)
    assert verdict.outcome == "fail"
    assert verdict.cases[0].bound == "<= 0.21"


@pytest.mark.parametrize(("absolute", "relative"), [(0.2, 0.1), (0.06, 0.5)])
def test_the_stricter_of_two_margins_holds(absolute: float, relative: float) -> None:
    baseline, result = evaluation([summary(mean=0.6)]), evaluation([summary(mean=0.5)])
    verdict = against(baseline, result, max_worsening=absolute, max_relative_worsening=relative)
    assert verdict.outcome == "fail"
    assert verdict.cases[0].bound == ">= 0.54"


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"n": 2}, "2 images; the policy requires 30"),
        ({"n_patients": 2}, "2 patients; the policy requires 20"),
        ({"undefined": {"empty_map": 50}}, "undefined for 33.3% of the images"),
        ({"estimate": Estimate(mean=None, low=None, high=None, reason="no_images")}, "no_images"),
    ],
)
def test_a_baseline_that_rests_on_too_little_is_an_error(changed: dict, sentence: str) -> None:
    verdict = against(evaluation([summary(**changed)]), evaluation(), max_worsening=0.1)
    assert (verdict.outcome, verdict.exit_code) == ("error", 3)
    assert "the baseline has no value to compare with" in verdict.cases[0].message
    assert sentence in verdict.cases[0].message


@pytest.mark.parametrize(
    "rule", [{"max_worsening": 0.5}, {"max_worsening": 0.7}, {"metric": "centroid_shift", "max_worsening": 0.5}]
)
def test_a_worsening_that_cannot_happen_is_no_pass(rule: dict) -> None:
    baseline = evaluation([summary(mean=0.5), summary("centroid_shift", mean=0.5, stable_is="low")])
    verdict = against(baseline, evaluation([summary(mean=0.0), summary("centroid_shift", mean=1.0)]), **rule)
    assert (verdict.outcome, verdict.exit_code) == ("error", 3)
    assert "the rule would stop nothing" in verdict.cases[0].message


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"checkpoints": []}, "the baseline says nothing of its models"),
    ],
)
def test_a_baseline_without_models_is_an_error(changed: dict, sentence: str) -> None:
    assert sentence in against(evaluation(**changed), evaluation(), max_worsening=0.1).cases[0].message


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("image rule", "image_rule", "grey-squash/0"),
        ("score kind", "score_kind", "multilabel"),
        ("explained score", "explained", "probability"),
        ("thresholds", "thresholds", [0.4, 0.6]),
    ],
)
def test_what_any_checkpoint_says_of_itself_counts(name: str, field: str, value: object, number: int) -> None:
    other = evaluation()
    setattr(other.checkpoints[number].metadata, field, value)
    verdict = against(other, evaluation(), max_worsening=0.1)
    assert (verdict.outcome, verdict.exit_code) == ("error", 3)
    assert f"{name} differs from the baseline's" in verdict.cases[0].message


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"classes": ["calm", "rain"]}, "classes differs from the baseline's"),
        ({"map_size": (112, 112)}, "map size differs"),
        ({"selection": "all"}, "selection differs"),
    ],
)
def test_another_kind_of_baseline_is_an_error(changed: dict, sentence: str) -> None:
    verdict = against(evaluation(**changed), evaluation(), max_worsening=0.1)
    assert (verdict.outcome, verdict.exit_code) == ("error", 3)
    assert sentence in verdict.cases[0].message


def test_another_image_rule_or_layer_of_the_baseline_is_an_error() -> None:
    other = evaluation()
    for item in other.checkpoints:
        item.metadata.image_rule = "grey-squash/0"
    assert "image rule differs" in against(other, evaluation(), max_worsening=0.1).cases[0].message
    elsewhere = evaluation([summary(layer="last")])
    assert against(elsewhere, evaluation(), max_worsening=0.1).outcome == "error"
    assert against(None, evaluation(), max_worsening=0.1).outcome == "error"


def test_baseline_pair_is_the_corresponding_one() -> None:
    """Judged against the pair of the same name, or the same place; never against just any."""
    series = evaluation()
    series.pairs = [
        series.pairs[0].model_copy(update={"name": name, "kind": "since-first", "metrics": [summary(mean=mean)]})
        for name, mean in (("a -> b", 0.3), ("a -> c", 0.8))
    ]
    fallen = series.model_copy(
        update={"pairs": [series.pairs[0], series.pairs[1].model_copy(update={"metrics": [summary(mean=0.4)]})]}
    )
    outcomes = [case.outcome for case in against(series, fallen, max_worsening=0.05).cases]
    assert outcomes == ["pass", "fail"]
    other = evaluation()
    other.pairs = [other.pairs[0].model_copy(update={"name": "x -> y", "architecture": "Other"})]
    assert "no one pair for 'a -> b'" in against(other, evaluation(), max_worsening=0.5).cases[0].message


def test_an_index_on_few_images_is_skipped() -> None:
    index = summary().index.model_copy(update={"n": 3})
    verdict = judged({"statistic": "index", "min": 0.1}, [summary(index=index)])
    assert (verdict.outcome, verdict.cases[0].message) == ("skipped", "3 images; the policy requires 30")


def test_a_class_that_the_baseline_lacks_does_not_hide_another() -> None:
    baseline = evaluation([summary(scope="calm", mean=0.9), summary(scope="storm", mean=None)])
    result = evaluation([summary(scope="calm", mean=0.3), summary(scope="storm")])
    verdict = against(baseline, result, scope="each-class", max_worsening=0.1)
    assert {case.scope: case.outcome for case in verdict.cases} == {"calm": "fail", "storm": "error"}
    assert verdict.exit_code == 1


def test_another_tensor_under_the_same_role_is_an_error() -> None:
    results = [evaluation(), evaluation()]
    for result, name in zip(results, ("mixed9", "mixed3"), strict=True):
        layer = {"name": name, "role": LAYER, "activations": "a", "gradients": "g"}
        for item in result.checkpoints:
            item.metadata = type(item.metadata).model_validate({**item.metadata.model_dump(), "layers": [layer]})
    verdict = against(results[0], results[1], max_worsening=0.5)
    assert "CAM layer penultimate of Made differs from the baseline's: mixed3 and mixed9" in verdict.cases[0].message


def test_indices_against_different_floors_are_not_compared() -> None:
    other = evaluation()
    other.pairs[0].floor = "replicate"
    verdict = against(other, evaluation(), statistic="index", max_worsening=0.9)
    assert verdict.cases[0].message == (
        "floor and chance are not drawn as the baseline's (jitter floor, jitter 4, chance 20; there replicate floor, "
        "jitter 4, chance 20): make the baseline anew"
    )


def test_old_draws_of_floor_and_chance_are_told_apart() -> None:
    """Of a baseline and of a policy that was derived; a policy that was written by hand rests on no draws."""
    old, new = (
        evaluation(),
        evaluation().model_copy(update={"jitter_draws": None, "chance_draws": None, "reference_budget": 1500}),
    )
    message = against(old, new, statistic="index", max_worsening=0.9).cases[0].message
    assert "jitter floor, by budget of 1500 images; there jitter floor, jitter 4, chance 20" in message
    assert "make the baseline anew" in message
    rules = {"format": 1, "rule": [{**PLACE, "statistic": "mean", "min": 0.1}]}
    for found, references, expected in (
        (new, None, "as an earlier version did, which did not say how; here by budget of 1500 images"),
        (new, old.references, "jitter 4, chance 20; here by budget of 1500 images"),
        (old, new.references, "by budget of 1500 images; here jitter 4, chance 20"),
        (new, new.references, None),
    ):
        derived = Policy.model_validate({**rules, "derived_from": "sha", "references": references})
        told = [text for text in judge(found, derived).warnings if "floor and chance drawn otherwise" in text]
        assert [expected in text and "derive it anew" in text for text in told] == ([] if expected is None else [True])
    assert judge(new, Policy.model_validate(rules)).warnings == []


# ---- policies


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "format: Field required"),
        ("format = 2\n[[rule]]\n", "format: Input should be 1"),
        ("format = 1\nrule = []\n", "rule: List should have at least 1 item"),
        ("format = 1\n[[rule]]\nmetrik = 'x'\n", "rule 1"),
        (
            "format = 1\n[requirements]\nmin_image = 3\n[[rule]]\n{iou}min = 0.5\n",
            "unknown key; did you mean min_image",
        ),
        ("format = 1\n[[rule]]\n{iou}min = 0.5\nmodus = 'point'\n", "rule 1 modus: unknown key; did you mean mode"),
        ("format = 1\n[[rule]]\n{iou}min = 1.5\n", "min = 1.5 is impossible: iou_top20 mean lies in 0.0 .. 1.0"),
        ("format = 1\n[[rule]]\n{iou}min = nan\n", "min: Input should be a finite number"),
        ("format = 1\n[[rule]]\n{iou}min = 0.0\n", "would always pass"),
        ("format = 1\n[[rule]]\n{iou}min = 0.6\nmax = 0.5\n", "nothing could pass"),
        ("format = 1\n[[rule]]\n{iou}", "a rule needs a bound"),
        ("format = 1\n[[rule]]\nmetric = 'iou_top2'\nstatistic = 'mean'\nmin = 0.5\n", "did you mean iou_top20"),
        (
            "format = 1\n[[rule]]\nmetric = 'iou_top20'\nstatistic = 'mean'\nmin = 0.5\n",
            "names its method and its layer",
        ),
        ("format = 1\n[[rule]]\n{acc}layer = 'last'\nmin = 0.5\n", "takes no method, layer or scope"),
        ("format = 1\n[[rule]]\n{iou}min = 0.5\nmode = 'sure'\n", "mode: Input should be 'surely-good'"),
        ("format = 1\n[[rule]]\n{gini}max_worsening = 0.1\n", "has no better side; use gini_shift"),
        ("format = 1\n[[rule]]\n{iou}max_worsening = 5\n", "max_worsening = 5.0 would always pass"),
        ("format = 1\n[[rule]]\n{iou}max_relative_worsening = 10\n", "max_relative_worsening = 10.0 would always pass"),
        ("format = 1\n[[rule\n", "not a TOML file"),
        ("format = " + 5000 * "[", "not a TOML file"),
    ],
)
def test_senseless_policy_is_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    place = f"method = '{METHOD}'\nlayer = '{LAYER}'\nstatistic = 'mean'\n"
    text = text.replace("{iou}", f"metric = 'iou_top20'\n{place}").replace("{gini}", f"metric = 'gini_change'\n{place}")
    file = tmp_path / "policy.toml"
    file.write_text(text.replace("{acc}", "metric = 'accuracy'\nstatistic = 'value'\n"))
    with pytest.raises(InputError) as caught:
        read_policy(file)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(str(file))


@pytest.mark.parametrize("metric", ["entropy_before", "gini_change"])
def test_statistics_that_a_metric_has_not_are_refused(metric: str) -> None:
    with pytest.raises(ValueError, match="has no stability index"):
        Rule(**{**PLACE, "metric": metric}, statistic="index", min=0.5)
    with pytest.raises(ValueError, match="does not count vanished"):
        Rule(**{**PLACE, "metric": metric}, statistic="vanished-rate", max=0.5)


def test_missing_policy_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--init"):
        read_policy(tmp_path / "policy.toml")


# ---- init


def test_proposed_policy_passes_its_own_result_and_stops_unrelated_maps(tmp_path: Path) -> None:
    result = evaluation()
    text = propose(result, "digest", "result\n[[rule]]")
    (tmp_path / "policy.toml").write_text(text)
    rules = read_policy(tmp_path / "policy.toml")
    assert rules.derived_from == "digest"
    verdict = judge(result, rules, digest="digest")
    assert verdict.outcome == "pass"
    assert "derived from this very result" in verdict.warnings[0]
    chance = evaluation([summary(scope=scope, mean=0.2) for scope in ("all", "calm", "storm")])
    assert judge(chance, rules).exit_code == 1
    assert judge(chance, rules).warnings == []


def test_proposal_leaves_out_what_it_cannot_derive() -> None:
    metrics = [summary(), summary(scope="calm", n=12), summary(scope="storm", mean=0.21)]
    text = propose(evaluation(metrics), "digest", "result")
    assert "# No rule: iou_top20, calm, layercam at penultimate: 12 images of 12 patients are too few" in text
    assert "# No rule: iou_top20, storm, layercam at penultimate: too near to chance" in text
    assert 'scope = "storm"' not in text


def replicated(means: dict[str, list[float]]) -> Evaluation:
    """Three pairs of one architecture, with a mean per scope and replicate; intervals of 0.02 to each side."""
    result = evaluation()
    result.pairs = [
        result.pairs[0].model_copy(
            update={
                "name": f"a -> b{n}",
                "metrics": [summary(scope=scope, mean=values[n]) for scope, values in means.items()],
            }
        )
        for n in range(3)
    ]
    return result


def test_replicates_set_the_bounds_by_how_they_vary(tmp_path: Path) -> None:
    """Literal: ends 0.02 below the means; standard deviations 0.01 and 0.03 pool to sqrt(5) / 100, four degrees."""
    means = {"all": [0.5, 0.5, 0.5], "calm": [0.49, 0.50, 0.51], "storm": [0.37, 0.40, 0.43]}
    (tmp_path / "policy.toml").write_text(propose(replicated(means), "digest", "result"))
    bounds = {rule.scope: rule.min for rule in read_policy(tmp_path / "policy.toml").rule if rule.statistic == "mean"}
    reach = 4.604 * math.sqrt(5) / 100 * math.sqrt(4 / 3)  # t(0.995, 4) = 4.604
    for scope, mean in (("all", 0.5), ("calm", 0.5), ("storm", 0.4)):
        assert bounds[scope] == pytest.approx(mean - 0.02 - reach, abs=1e-3)


def test_two_replicates_count_by_the_worse_one(tmp_path: Path) -> None:
    """Bad ends 0.48 and 0.38; chance 0.2, floor 0.8: half way is 0.5, a tenth beyond the worse end 0.32."""
    result = replicated({"all": [0.5, 0.4, 0.4]})
    result.pairs = result.pairs[:2]
    (tmp_path / "policy.toml").write_text(propose(result, "digest", "result"))
    rules = read_policy(tmp_path / "policy.toml")
    assert [rule.min for rule in rules.rule if rule.statistic == "mean"] == [0.32]
    assert judge(result, rules).outcome == "pass"


def test_replicates_that_do_not_tell_how_they_vary_say_so(tmp_path: Path) -> None:
    text = propose(replicated({"all": [0.5, 0.4, 0.45]}), "digest", "result")
    assert "here 0.500, 0.400, 0.450; too few patients per class to tell how replicates vary" in text
    (tmp_path / "policy.toml").write_text(text)
    assert [rule.min for rule in read_policy(tmp_path / "policy.toml").rule if rule.statistic == "mean"] == [0.32]


def test_a_replicate_without_images_and_a_class_of_any_script(tmp_path: Path) -> None:
    result = replicated({"all": [0.5, 0.5, 0.5]})
    result.pairs[2].metrics[0] = summary(n=0, mean=None)
    assert "0 images of 0 patients are too few" in propose(result, "digest", "result")
    named = evaluation([summary(), summary(scope="\U0001f600\x7f")])
    (tmp_path / "policy.toml").write_text(propose(named, "digest", "result"), encoding="utf-8")
    assert "\U0001f600\x7f" in {rule.scope for rule in read_policy(tmp_path / "policy.toml").rule}


def test_a_result_without_pairs_has_no_policy() -> None:
    with pytest.raises(InputError, match="holds no pair of checkpoints"):
        propose(evaluation(pairs=[]), "digest", "result")


def test_methods_that_are_one_map_get_one_rule() -> None:
    """As at `last`, where the gradient of a channel is the same everywhere; a difference in one class is one."""
    metrics = [
        summary(scope=scope, method=method) for method in (METHOD, "gradcam", "hirescam") for scope in ("all", "calm")
    ]
    text = propose(evaluation(metrics), "digest", "result")
    assert "gradcam and hirescam made the same maps: one rule for all" in text
    rules = parse_policy(text, "policy").rule
    assert {rule.method for rule in rules if not rule.is_quality} == {METHOD}
    assert len(rules) == len(parse_policy(propose(evaluation(metrics[:2]), "digest", "result"), "policy").rule)
    metrics[-1] = summary(scope="calm", method="hirescam", mean=0.501)
    rules = parse_policy(propose(evaluation(metrics), "digest", "result"), "policy").rule
    assert {rule.method for rule in rules if not rule.is_quality} == {METHOD, "hirescam"}


def test_methods_are_one_map_only_at_the_same_layer_and_in_every_replicate() -> None:
    place = {"layer": "last", "method": "gradcam"}
    elsewhere = propose(evaluation([summary(), summary(**place)]), "digest", "result")
    assert "same maps" not in elsewhere
    result = replicated({"all": [0.5, 0.5, 0.5]})
    for pair, mean in zip(result.pairs, (0.5, 0.5, 0.51), strict=True):
        pair.metrics.append(summary(method="gradcam", mean=mean))
    assert "same maps" not in propose(result, "digest", "result")
    result.pairs[2].metrics[1] = summary(method="gradcam")
    assert "gradcam made the same maps: one rule for all" in propose(result, "digest", "result")


def test_left_out_methods_that_are_one_map_are_named_once() -> None:
    text = propose(evaluation([summary(), *(summary(scope="calm", n=12, method=m) for m in (METHOD, "gradcam"))]),
                   "digest", "result")  # fmt: skip
    assert text.count("# No rule: iou_top20, calm") == 2
    both = [
        summary(scope=scope, method=m, n=n) for m in (METHOD, "gradcam") for scope, n in (("all", 100), ("calm", 12))
    ]
    assert "# No rule: iou_top20, calm, layercam and gradcam at penultimate: 12 images" in propose(
        evaluation(both), "digest", "result"
    )


def test_no_bound_on_means_of_a_method_whose_maps_are_lost(tmp_path: Path) -> None:
    text = propose(evaluation([summary(vanished=6), summary(scope="calm")]), "digest", "result")
    assert "# No rule: iou_top20, calm, layercam at penultimate: its maps are lost in 6% of the images" in text
    (tmp_path / "policy.toml").write_text(text)
    assert [r.statistic for r in read_policy(tmp_path / "policy.toml").rule] == ["change", "vanished-rate"]


def test_bound_of_a_metric_that_should_be_low_is_mirrored(tmp_path: Path) -> None:
    result = replicated({"all": [0.10, 0.11, 0.12], "calm": [0.10, 0.11, 0.12]})
    other = {"metric": "centroid_shift", "stable_is": "low", "vanished_rate": None}
    for pair in result.pairs:
        pair.metrics = [item.model_copy(update=other) for item in pair.metrics]
    (tmp_path / "policy.toml").write_text(propose(result, "digest", "result"))
    (bound,) = (rule.max for rule in read_policy(tmp_path / "policy.toml").rule if rule.scope == "calm")
    assert bound == pytest.approx(0.11 + 0.02 + 9.925 * 0.01 * math.sqrt(4 / 3), abs=1e-3)  # t(0.995, 2)


def test_quality_of_a_checkpoint_is_that_of_after() -> None:
    result = evaluation(checkpoints=[checkpoint("a", 0.99), checkpoint("b", 0.5)])
    rules = policy({"metric": "accuracy", "statistic": "value", "min": 0.9})
    assert judge(result, rules).outcome == "fail"

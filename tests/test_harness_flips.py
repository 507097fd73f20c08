"""Flipped answers against moved evidence: counts by hand, what reports and gate make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.common.errors import InputError
from harness.gate.judge import judge
from harness.gate.policy import Policy, parse_policy
from harness.report import findings, html_tables
from harness.report.gallery import Gallery
from harness.report.summaries import Summaries
from harness.report.text_tables import drift_table
from harness.results.contradictions import first_contradiction
from harness.results.moved_records import moved_everywhere, moved_records
from harness.results.pseudonyms import Names
from harness.results.schema import Estimate, Evaluation, Flips, FlipTable
from tests import made_results, tiny_graphs

pytestmark = pytest.mark.usefixtures("in_brief")
LAYER, METHOD = "early", "gradcam++"


@pytest.fixture(scope="module")
def outs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same pair, compared on true positives and on all images; both checkpoints err, and not on the same images."""
    with tiny_graphs.in_brief():
        folder = tmp_path_factory.mktemp("flips")
        graphs = [
            tiny_graphs.write_graph(folder / f"{name}.onnx", 7, nudge=nudge, balanced=True, phase=name)
            for name, nudge in (("before", 0.0), ("after", 0.6))
        ]
        manifest = tiny_graphs.write_images(folder / "images", exposure=0.6)
        tiny_graphs.label_as(graphs[0], manifest)
        asked = ["--before", graphs[0], "--after", graphs[1], "--data", manifest, "--map-size", 32, "--jitter", 2]
        asked += ["--layer", LAYER]
        for select in ("true-positive", "all"):
            tiny_graphs.evaluate(folder / select, *asked, "--select", select, "--chance", 1)
        return {select: folder / select for select in ("true-positive", "all")}


def reader_of(folder: Path) -> Any:
    return Gallery(folder, Names(None)).reader


def decisions(folder: Path) -> list[tuple[str, bool, bool, bool]]:
    """(image, same answer, right before, right after) from the logits of `predictions/`."""
    found: dict[str, list[tuple[int, int]]] = {}
    for row in tiny_graphs.read_rows(folder, "predictions"):
        found.setdefault(row["image"], []).append(
            (int(np.argmax(row["logits"])), tiny_graphs.CLASSES.index(row["labels"][0]))
        )
    return [(image, one == two, one == true, two == true) for image, [(one, true), (two, _)] in found.items()]


def test_flips_are_counted_over_every_readable_image(outs: dict[str, Path]) -> None:
    rows = decisions(outs["all"])
    for select in outs:
        flips = Evaluation.read(outs[select]).pairs[0].flips
        assert (flips.n, flips.n_patients) == (48, 24)
        assert flips.flipped == sum(not same for _, same, _, _ in rows) > 3
        assert flips.negative == sum(before and not after for _, _, before, after in rows) > 0
        assert flips.positive == sum(after and not before for _, _, before, after in rows) > 0
        assert flips.negative_flip_rate.mean == pytest.approx(flips.negative / 48)
        assert flips.negative_flip_rate.low <= flips.negative_flip_rate.mean <= flips.negative_flip_rate.high


@pytest.mark.parametrize("select", ["true-positive", "all"])
def test_the_two_by_two_is_that_of_single_images(outs: dict[str, Path], select: str) -> None:
    """Witness: scores of the evaluation of all images, and a threshold from the stored noise of this one."""
    where = {"method": METHOD, "layer": LAYER, "metric": "iou_top20"}
    values = {
        row["image"]: row["value"]
        for row in tiny_graphs.read_rows(outs["all"], "scores", reference="observed", **where)
    }
    compared = {row["image"] for row in tiny_graphs.read_rows(outs[select], "scores", reference="observed", **where)}
    noise = sorted(
        row["value"]
        for row in tiny_graphs.read_rows(outs[select], "scores", reference="jitter", **where)
        if row["image"] in compared and np.isfinite(row["value"])
    )
    threshold = noise[int(np.ceil(0.05 * len(noise))) - 1]
    counts = dict.fromkeys(("same_still", "same_moved", "flipped_still", "flipped_moved", "unknown"), 0)
    for image, same, _, _ in decisions(outs[select]):
        value = values[image]
        known = "same" if same else "flipped"
        kind = "unknown" if not np.isfinite(value) else f"{known}_{'moved' if value < threshold else 'still'}"
        counts[kind] += 1
    (table,) = [
        item
        for item in Evaluation.read(outs[select]).pairs[0].flips.tables
        if (item.layer, item.method) == (LAYER, METHOD)
    ]
    assert {key: getattr(table, key) for key in counts} == counts
    assert table.threshold == threshold
    known = counts["same_still"] + counts["same_moved"]
    assert table.moved_unseen_rate.mean == pytest.approx(counts["same_moved"] / known)
    assert counts["flipped_moved"] + counts["flipped_still"] > 3


def test_records_that_are_not_compared_have_the_same_threshold(outs: dict[str, Path]) -> None:
    reader = reader_of(outs["true-positive"])
    pair = reader.plan.drifts[0]
    some, every = moved_records(reader, pair, LAYER, METHOD), moved_everywhere(reader, pair, LAYER, METHOD)
    chosen = reader.selections[pair.name]
    assert some.threshold == every.threshold
    assert not some.known[~chosen].any()
    assert np.array_equal(some.moved[chosen], every.moved[chosen])


def test_a_checkpoint_against_itself_moves_nothing(outs: dict[str, Path], tmp_path: Path) -> None:
    graph = outs["all"].parent / "before.onnx"
    manifest = outs["all"].parent / "images" / "manifest.csv"
    result = tiny_graphs.evaluate(
        tmp_path / "out", "--before", graph, "--after", graph, "--data", manifest, "--map-size", 32, "--chance", 0
    )
    flips = result.pairs[0].flips
    assert flips.flipped == flips.negative == 0
    assert "answers:" not in drift_table(result)
    assert {item.same_moved + item.flipped_moved for item in flips.tables} == {0}


def test_without_noise_or_labels_nothing_is_claimed(outs: dict[str, Path], tmp_path: Path) -> None:
    folder = outs["all"].parent
    bare = tiny_graphs.write_images(tmp_path / "images", exposure=0.6)
    rows = [{"file": f"image-{n:03d}.png", "group": f"patient {n // 2}"} for n in range(48)]
    tiny_graphs.write_manifest(bare, rows)
    result = tiny_graphs.evaluate(
        tmp_path / "out", "--before", folder / "before.onnx", "--after", folder / "after.onnx", "--data", bare,
        "--select", "all", "--map-size", 32, "--chance", 0, "--jitter", 0,
    )  # fmt: skip
    flips = result.pairs[0].flips
    assert (flips.negative, flips.positive, flips.negative_flip_rate, result.majority) == (None, None, None, None)
    assert flips.flipped > 0
    assert {(item.threshold, item.unknown) for item in flips.tables} == {(None, 48)}
    for rule, message in (
        ({"metric": "negative-flip-rate", "max": 0.1}, "the result has no negative flips: its images have no classes"),
        (
            {"metric": "moved-unseen-rate", "max": 0.1, "method": METHOD, "layer": LAYER},
            "the result cannot say which images moved: it was made without jitter",
        ),
    ):
        (case,) = judge(result, Policy.model_validate({"format": 1, "rule": [rule]})).cases
        assert (case.outcome, case.message) == ("error", message)


def test_the_gallery_shows_same_answers_with_other_evidence(outs: dict[str, Path]) -> None:
    found = Gallery(outs["true-positive"], Names(None))
    pair = found.plan.drifts[0]
    groups = {group.kind: group.records for group in found.groups}
    moved = moved_records(found.reader, pair, *found.paths[0])
    values = found.rankings[pair.name, found.paths[0]].values
    assert groups["unseen"] == sorted(np.flatnonzero(moved.moved), key=lambda record: values[record])[:12]
    answers = found.reader.answers(pair)
    flipped = groups["flipped"]
    assert len(flipped) == min(12, int((~answers.same).sum()))
    negative = [bool(answers.negative_flips[record]) for record in flipped]
    assert negative == sorted(negative, reverse=True)
    assert negative[0]
    ranking = found.rankings[pair.name, found.paths[0]]
    assert {ranking.text(record) for record in flipped} == {"not compared"}


# What is made of it


def with_flips(**changed: Any) -> Evaluation:
    """Of 120 images 12 flipped, 8 to wrong; of the 108 same answers 100 are known and 40 moved."""
    table: dict[str, Any] = {
        "layer": made_results.LAYER, "method": made_results.METHOD, "threshold": 0.7, "same_still": 60,
        "same_moved": 40, "flipped_still": 3, "flipped_moved": 9, "unknown": 8,
        "moved_unseen_rate": made_results.estimate(0.4, 0.1), "n_patients": 70,
    }  # fmt: skip
    table |= {name: value for name, value in changed.items() if name in table}
    fields: dict[str, Any] = {
        "n": 120, "n_patients": 90, "flipped": 12, "negative": 8, "positive": 3,
        "negative_flip_rate": made_results.estimate(8 / 120, 0.03), "tables": [FlipTable(**table)],
    }  # fmt: skip
    fields |= {name: value for name, value in changed.items() if name in fields}
    result = made_results.evaluation()
    result.pairs[0].flips = Flips(**fields)
    return result


def sentence(result: Evaluation) -> str:
    (found,) = findings.findings(result, Summaries(result))
    return next((fact.text for fact in found.facts if fact.label == "Answers"), "")


def test_the_sentence_about_answers() -> None:
    assert sentence(with_flips()) == (
        "12 answers of 120 flipped, 8 of them from right to wrong (rate 0.067 (0.037 to 0.097)). Behind the same "
        "answer the evidence moved in 40 of 100 images (0.400 (0.300 to 0.500)) under layercam: more than in 95 % of "
        "the comparisons with noise."
    )
    assert sentence(made_results.evaluation()) == ""
    assert sentence(with_flips(negative=None, negative_flip_rate=None)).startswith("12 answers of 120 flipped. Behind")
    nothing = with_flips(threshold=None, moved_unseen_rate=Estimate(mean=None, low=None, high=None, reason="no_images"))
    assert sentence(nothing).endswith(
        "Without noise to compare with it is not known in which images the evidence moved."
    )


def test_noise_that_leaves_nothing_is_said() -> None:
    nothing = Estimate(mean=None, low=None, high=None, reason="no_images")
    counts = {"same_still": 0, "same_moved": 0, "flipped_still": 0, "flipped_moved": 0, "unknown": 120}
    result = with_flips(threshold=0.0, moved_unseen_rate=nothing, n_patients=0, **counts)
    assert sentence(result).endswith(
        "Noise alone leaves no overlap in 5 % of the comparisons under layercam, so it is not known in which images "
        "the evidence moved."
    )
    assert "same answer, moved" not in drift_table(result, wide=True)
    rule = {"metric": "moved-unseen-rate", "max": 0.5, "method": made_results.METHOD, "layer": made_results.LAYER}
    (case,) = judge(result, Policy.model_validate({"format": 1, "rule": [rule]})).cases
    assert case.outcome == "skipped"


def test_tables_hold_the_counts() -> None:
    result = with_flips()
    assert "answers: 12 of 120 flipped (8 negative, rate 0.067 (0.037 .. 0.097)); same answer, moved: 40 of 100" in (
        drift_table(result, wide=True)
    )
    (row,) = html_tables.flips(result)
    assert row.texts == ("a -> b", "penultimate", "layercam", "60", "40", "3", "9", "8", "0.400 (0.300 to 0.500)")
    (row,) = html_tables.negative_flips(result)
    assert row.texts == ("a -> b", "120", "12", "8", "0.067 (0.037 to 0.097)", "3")
    assert html_tables.flips(made_results.evaluation()) == []


PLACE = {"method": made_results.METHOD, "layer": made_results.LAYER}


@pytest.mark.parametrize(
    ("rule", "outcome"),
    [
        ({"metric": "negative-flip-rate", "max": 0.10}, "pass"),
        ({"metric": "negative-flip-rate", "max": 0.09}, "fail"),  # the interval ends at 0.097
        ({"metric": "negative-flip-rate", "max": 0.09, "mode": "point"}, "pass"),
        ({"metric": "moved-unseen-rate", "max": 0.51, **PLACE, "max_undefined": 0.1}, "pass"),
        ({"metric": "moved-unseen-rate", "max": 0.49, **PLACE, "max_undefined": 0.1}, "fail"),
        ({"metric": "moved-unseen-rate", "max": 0.51, **PLACE}, "skipped"),  # 8 of 120 are not known
        ({"metric": "moved-unseen-rate", "max": 0.51, **PLACE, "layer": "last"}, "error"),
    ],
)
def test_the_gate_bounds_flips_and_unseen_movement(rule: dict[str, Any], outcome: str) -> None:
    (case,) = judge(with_flips(), Policy.model_validate({"format": 1, "rule": [rule]})).cases
    assert case.outcome == outcome
    assert case.title.split(" ")[0] == rule["metric"]


def test_the_gate_holds_flips_against_a_baseline() -> None:
    rule = {"metric": "negative-flip-rate", "max_worsening": 0.02, "mode": "point"}
    policy = Policy.model_validate({"format": 1, "rule": [rule]})
    worse = with_flips(negative=11, positive=1, negative_flip_rate=made_results.estimate(0.09, 0.03))
    assert judge(with_flips(), policy, with_flips()).outcome == "pass"
    assert judge(worse, policy, with_flips()).outcome == "fail"


def test_results_of_earlier_versions_count_no_flips() -> None:
    (case,) = judge(
        made_results.evaluation(),
        Policy.model_validate({"format": 1, "rule": [{"metric": "negative-flip-rate", "max": 0.1}]}),
    ).cases
    assert (case.outcome, case.message) == (
        "error", "the result counts no flips: an earlier version wrote it; evaluate anew",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('metric = "negative-flip-rate"\nmethod = "layercam"\nmax = 0.1', "it takes no method, layer or scope"),
        ('metric = "moved-unseen-rate"\nmax = 0.1', "names its method and its layer"),
        ('metric = "moved-unseen-rate"\nmethod = "layercam"\nlayer = "x"\nscope = "calm"\nmax = 0.1', "takes no scope"),
        (
            'metric = "negative-flip-rate"\nstatistic = "mean"\nmax = 0.1',
            "unknown statistic of negative-flip-rate 'mean'",
        ),
        ('metric = "negative-flip-rate"\nmax = 1.0', "would always pass"),
    ],
)
def test_rules_that_make_no_sense_are_refused(lines: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_policy(f"format = 1\n[[rule]]\n{lines}\n", "policy.toml")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, False),
        ({"flipped": 121}, True),
        ({"negative": 10}, True),
        ({"same_moved": 41}, True),
        ({"same_moved": 39}, False),  # of a sample
        ({"flipped_moved": 10, "flipped_still": 3, "unknown": 7}, True),
        ({"negative_flip_rate": made_results.estimate(1.2)}, True),
    ],
)
def test_counts_that_do_not_add_up_are_refused(changed: dict[str, Any], said: bool) -> None:
    assert bool(first_contradiction(with_flips(**changed))) == said

"""The same model twice, or other data than a policy's: what evaluate, report and gate say, and with which exit code."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from harness import cli
from harness.api.write import render_again
from harness.gate.derive_policy import propose
from harness.gate.judge import judge
from harness.gate.policy import Policy, parse_policy
from harness.gate.verdict import Verdict
from harness.models.metadata import identity, sameness
from harness.report import findings, levels
from harness.report.html import render
from harness.report.summaries import Summaries
from harness.report.text_tables import SHORT, drift_table, markdown
from harness.results.pseudonyms import Names
from harness.results.schema import CheckpointResult, Evaluation
from tests import tiny_graphs
from tests.made_results import LAYER, METHOD, checkpoint, evaluation, summary

RULE = {"metric": "iou_top20", "method": METHOD, "layer": LAYER, "statistic": "mean", "min": 0.1}


def policy(origins: dict[str, object] | None = None, **requirements: bool) -> Policy:
    return Policy.model_validate({"format": 1, "rule": [RULE], "requirements": requirements, **(origins or {})})


def identified(key: str, digest: str, weights: str) -> CheckpointResult:
    found = checkpoint(key, 0.8)
    found.digest, found.metadata.weights_digest = digest, weights
    return found


def twice(digest: str = "a", weights: str = "a") -> Evaluation:
    """`a` against a checkpoint of these digests."""
    return evaluation(checkpoints=[checkpoint("a", 0.8), identified("b", digest, weights)])


FILE, WEIGHTS = "one file (sha256 a)", "the same weights in two files (digest of the weights a)"


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (("f", "w"), ("f", "w"), "one file (sha256 f)"),
        (("f", "w"), ("g", "w"), "the same weights in two files (digest of the weights w)"),
        (("f", "w"), ("g", "v"), None),
        (("f", ""), ("g", ""), None),
        (("f", ""), ("f", ""), "one file (sha256 f)"),
        (("f", ""), ("g", "f"), None),
    ],
)
def test_models_are_the_same_by_file_or_by_weights(first: tuple, second: tuple, same: str | None) -> None:
    one, other = identified("a", *first), identified("b", *second)
    assert sameness(one, other) == sameness(other, one) == same
    assert identity(one) == (first[1] or first[0])


@pytest.mark.parametrize(("result", "how"), [(twice(), FILE), (twice("other"), WEIGHTS)])
def test_the_gate_fails_the_same_model_twice(result: Evaluation, how: str) -> None:
    verdict = judge(result, policy())
    assert (verdict.outcome, verdict.exit_code, verdict.counts) == ("fail", 1, {"fail": 1, "pass": 1})
    assert verdict.cases[0].message == f"before and after are {how}: nothing was compared"
    allowed = judge(result, policy(distinct=False))
    assert allowed.exit_code == 0
    assert allowed.warnings == [f"a -> b: before and after are {how}: nothing was compared"]


def test_each_pair_is_looked_at() -> None:
    result = evaluation(checkpoints=[checkpoint("a", 0.8), checkpoint("b", 0.8), identified("c", "a", "a")])
    result.pairs.append(result.pairs[0].model_copy(update={"name": "a -> c", "after": "c"}))
    assert [case.pair for case in judge(result, policy()).cases if case.outcome == "fail"] == ["a -> c"]


def test_the_report_says_so_first() -> None:
    result = twice()
    line = f"WARNING: a -> b: before and after are {FILE}: nothing was compared"
    assert drift_table(result).splitlines()[0] == line
    assert markdown(result).splitlines()[2].startswith("- WARNING: a ->")
    found = findings.findings(result, Summaries(result))
    assert found[0].level is levels.SAME_MODEL
    assert found[0].sentence == f"Before and after are {FILE}: nothing was compared."
    assert (found[0].index, found[0].facts) == (None, [])
    assert findings.overall(found) == "Nothing was compared: before and after are the same model."
    assert findings.overall([*found, *found]) == "2 pairs of checkpoints: 2 of a model with itself."
    assert "WARNING" not in drift_table(evaluation()) + markdown(evaluation())


def test_the_exported_file_under_two_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As where a download failed and left the deployed file in place."""
    before = tiny_graphs.write_graph(tmp_path / "deployed.onnx", 0, balanced=True)
    manifest = tiny_graphs.write_images(tmp_path / "images", patients=24, each=1)
    tiny_graphs.label_as(before, manifest)
    candidate = Path(shutil.copy(before, tmp_path / "candidate.onnx"))
    out = tmp_path / "drift"
    for after in (candidate, before):
        line = ["--before", before, "--after", after, "--data", manifest, "--out", out, "--quiet"]
        line += ["--map-size", "16", "--chance", "2", "--jitter", "1", "--select", "all"]
        with tiny_graphs.in_brief():
            cli.cli.main(["evaluate", *map(str, line)], standalone_mode=False)
        printed = capsys.readouterr()
        assert "both checkpoints are one file (sha256" in printed.err
        assert printed.out.startswith("WARNING: ")
        assert '<h1 id="verdict-title">Nothing was compared' in render_again(out).read_text()
        assert judge(Evaluation.read(out), policy()).cases[0].title == "distinct models"


# Other data, another `before`


def judged(change: Callable[[Evaluation], object], same_data: bool, against: str) -> Verdict:
    """A changed result, judged by a policy (or beside a baseline) that comes from the unchanged one."""
    result = evaluation()
    change(result)
    if against == "baseline":
        return judge(result, policy(same_data=same_data), evaluation())
    return judge(result, policy({"data_digest": "d", "before_digests": ["a"]}, same_data=same_data))


def other_before(result: Evaluation) -> None:
    result.checkpoints[0] = identified("a", "x", "x")


def other_export(result: Evaluation) -> None:
    """The same weights, exported anew."""
    result.checkpoints[0] = identified("a", "x", "a")


@pytest.mark.parametrize("against", ["policy", "baseline"])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda result: setattr(result, "data_digest", "e"), "rests on other data (data digest d, here e)"),
        (other_before, "rests on another checkpoint `before`"),
    ],
)
def test_other_origins_are_a_warning_or_exit_code_3(
    change: Callable[[Evaluation], object], sentence: str, against: str
) -> None:
    verdict = judged(change, False, against)
    assert verdict.exit_code == 0
    assert [f"the {against} {sentence}" in text for text in verdict.warnings] == [True]
    strict = judged(change, True, against)
    assert (strict.outcome, strict.exit_code, strict.warnings) == ("error", 3, [])
    assert f"the {against} {sentence}" in strict.cases[0].message


@pytest.mark.parametrize("against", ["policy", "baseline"])
@pytest.mark.parametrize("change", [lambda _: None, other_export])
def test_the_same_origins_pass_in_silence(change: Callable[[Evaluation], object], against: str) -> None:
    verdict = judged(change, True, against)
    assert (verdict.exit_code, verdict.warnings) == (0, [])


def test_a_policy_without_digests_asks_for_none() -> None:
    assert judge(evaluation(data_digest="e"), policy(same_data=True)).exit_code == 0


def test_init_writes_the_digests_down() -> None:
    result = evaluation()
    result.pairs.append(result.pairs[0].model_copy(update={"name": "b -> a", "before": "b", "after": "a"}))
    found = parse_policy(propose(result, "sha", "result"), "policy")
    assert (found.derived_from, found.data_digest, found.before_digests) == ("sha", "d", ["a", "b"])
    assert (found.requirements.distinct, found.requirements.same_data) == (True, False)


def two_pairs(floor: Literal["jitter", "replicate"]) -> Evaluation:
    """`a -> b` on the jitter floor, and a second pair."""
    result = evaluation([summary(metric) for metric in SHORT])
    result.pairs.append(result.pairs[0].model_copy(update={"name": "a -> c", "floor": floor}))
    return result


def test_indices_on_different_floors_are_marked_in_the_table() -> None:
    alike, apart = drift_table(two_pairs("jitter")), drift_table(two_pairs("replicate"))
    assert "[0.50]" in alike
    assert "floor]" not in alike
    assert "[0.50, jitter floor]" in apart
    assert "[0.50, replicate floor]" in apart
    assert "[0.50]" not in apart


def test_indices_on_different_floors_are_marked_in_the_report(tmp_path: Path) -> None:
    alike, apart = (render(two_pairs(floor), tmp_path, Names(None)) for floor in ("jitter", "replicate"))
    assert " floor</small>" not in alike
    assert (apart.count(", jitter floor</small>"), apart.count(", replicate floor</small>")) == (1, 1)

"""What the gate prints and writes: table, record, JSON with its schema, JUnit, Markdown, annotations, baselines."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from jsonschema import ValidationError
from junitparser import JUnitXml

from harness import cli
from harness.common.errors import InputError
from harness.gate import reporters
from harness.gate.command import Outputs, judge_files, write_verdict
from harness.gate.derive_policy import initialise
from harness.gate.judge import judge
from harness.gate.policy import Policy
from harness.gate.verdict import SCHEMA, Case, Verdict, schema
from harness.results.schema import Evaluation
from harness.testing import assert_no_drift
from tests.json_schema import validator
from tests.made_results import LAYER, METHOD, evaluation, summary

PLACE = {"metric": "iou_top20", "method": METHOD, "layer": LAYER, "statistic": "mean"}


def policy(*rules: dict) -> Policy:
    return Policy.model_validate({"format": 1, "rule": [{**PLACE, **rule} for rule in rules]})


def gate(*arguments: object) -> int:
    """The exit code of `python -m harness gate`, in this process."""
    return cli.cli.main(["gate", *map(str, arguments)], standalone_mode=False)


def written(folder: Path, result: Evaluation) -> Path:
    folder.mkdir()
    result.write(folder)
    return folder


@pytest.fixture
def result(tmp_path: Path) -> Path:
    return written(tmp_path / "drift", evaluation())


@pytest.fixture
def rules_file(tmp_path: Path) -> Path:
    """Three rules on one number: it passes, fails and warns."""
    file = tmp_path / "policy.toml"
    place = f'metric = "iou_top20"\nmethod = "{METHOD}"\nlayer = "{LAYER}"\nstatistic = "mean"\n'
    bounds = ("min = 0.4", "min = 0.9", "min = 0.9\nseverity = 'warn'")
    file.write_text("format = 1\n" + "".join(f"[[rule]]\n{place}{bound}\n" for bound in bounds))
    return file


@pytest.fixture
def passing(rules_file: Path) -> Path:
    """The first of the rules alone."""
    rules_file.write_text("[[rule]]".join(rules_file.read_text().split("[[rule]]")[:2]))
    return rules_file


def test_every_output_tells_the_same(
    tmp_path: Path, rules_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = written(tmp_path / "<b>drift", evaluation())
    (result / "contact-sheet.png").write_bytes(b"")
    (tmp_path / "step.md").write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "step.md"))
    files = {name: tmp_path / "new" / f"verdict.{name}" for name in ("json", "junit", "markdown")}
    options = [word for name, file in files.items() for word in (f"--{name}", file)]
    assert gate(result, "--policy", rules_file, *options, "--github") == 1
    shown = capsys.readouterr().out
    assert "verdict: FAIL (1 fail, 1 warn, 1 pass; exit code 1)" in shown
    assert shown.count("::error title=iou_top20 mean") == 1
    assert shown.count("::warning title=") == 1
    assert shown.count("::notice title=") == 1
    content = json.loads(files["json"].read_text())
    assert [case["outcome"] for case in content["cases"]] == ["pass", "fail", "warn"]
    suite = next(iter(JUnitXml.fromfile(str(files["junit"]))))
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (3, 1, 0, 0)
    markdown = files["markdown"].read_text()
    assert "contact-sheet.png" in markdown
    assert "❌" in markdown
    assert (tmp_path / "step.md").read_text().strip() == f"before\n{markdown.strip()}"


# The record


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_every_output_holds_the_record(tmp_path: Path, result: Path, rules_file: Path) -> None:
    """Whoever holds a verdict and the files can tell whether they belong together."""
    baseline = written(tmp_path / "accepted", evaluation(seed=1)) / "evaluation.json"
    verdict = judge_files(result, rules_file, baseline, command=["python", "-m", "harness", "gate", str(result)])
    digests = [digest(result / "evaluation.json"), digest(rules_file), digest(baseline)]
    record = verdict.record
    assert record is not None
    assert [record.result.sha256, record.policy.sha256, record.baseline and record.baseline.sha256] == digests
    assert record.data_digest == "d"
    assert [(item.sha256, item.weights_digest) for item in record.checkpoints] == [("a", "a"), ("b", "b")]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record.time)
    assert re.fullmatch(r"\d+\.\d+.*", record.version)
    assert record.command == ["python", "-m", "harness", "gate", ".../drift"]
    texts = [reporters.as_json(verdict), reporters.junit(verdict), reporters.markdown(verdict, result)]
    for text in [*texts, "\n".join(reporters.github(verdict))]:
        for found in (*digests, record.time, record.version, ".../drift"):
            assert found in text
    assert all(one[:12] in reporters.terminal(verdict) for one in digests)


def test_a_verdict_in_memory_has_no_record() -> None:
    verdict = judge(evaluation(), policy({"min": 0.1}))
    assert verdict.record is None
    assert "judged:" not in reporters.terminal(verdict)
    assert json.loads(reporters.as_json(verdict))["record"] is None


def test_shipped_schema_is_the_generated_one() -> None:
    """Write it again with: python -c "from harness.gate.verdict import *; SCHEMA.write_text(schema())"."""
    assert SCHEMA.read_text(encoding="utf-8") == schema()


@pytest.mark.parametrize("metrics", [None, [summary(n=3)], [summary(index=None, mean=None)]])
def test_json_holds_to_the_schema(tmp_path: Path, rules_file: Path, metrics: list | None) -> None:
    verdict = judge_files(written(tmp_path / "drift", evaluation(metrics)), rules_file)
    content = json.loads(reporters.as_json(verdict), parse_constant=lambda name: pytest.fail(name))
    validator(schema()).validate(content)
    assert (content["format"], content["outcome"], content["exit_code"]) == (1, verdict.outcome, verdict.exit_code)
    for changed in ({**content, "strange": 1}, {key: value for key, value in content.items() if key != "record"}):
        with pytest.raises(ValidationError):
            validator(schema()).validate(changed)


PRIVATE = ("drmueller", "/home", "Users", "ward7", "/srv", "/tmp")


def test_no_output_tells_folders_or_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Home, another's home, a relative way out, Windows: in result, policy, baseline, data and command line."""
    home = tmp_path / "home" / "drmueller"
    (home / "ward7").mkdir(parents=True)
    monkeypatch.setattr(Path, "home", lambda: home)
    monkeypatch.chdir(tmp_path / "home")
    strange = evaluation()
    for item, file in zip(strange.checkpoints, ("/home/drmueller/a.onnx", r"C:\Users\drmueller\b.onnx"), strict=True):
        item.file = file
    result = written(home / "ward7" / "drift", strange)
    (result / "report.html").write_text("")
    initialise(result, home / "p.toml")
    files = {name: home / "ward7" / f"verdict.{name}" for name in ("json", "junit", "markdown")}
    options = [word for name, file in files.items() for word in (f"--{name}", file)]
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(home / "step.md"))
    line = [result, "--policy", home / "p.toml", "--baseline", "../home/drmueller/gone.json", *options, "--github"]
    monkeypatch.setattr("sys.argv", ["harness", "gate", *map(str, line)])
    assert gate(*line) == 1
    texts = [file.read_text() for file in (*files.values(), home / "step.md", home / "p.toml")]
    for text in [*texts, capsys.readouterr().out]:
        found = [word for word in PRIVATE if word in text.replace("~/ward7", "~")]
        assert not found, text
    assert "`~/ward7/drift/report.html`" in texts[2]


# The table


def wide_policy() -> Policy:
    long = {"metric": "iou_top20", "scope": "each-class"}
    return policy({"min": 0.9, **long}, {"min": 0.1, **long}, {"min": 0.1, "layer": "gone"})


@pytest.mark.parametrize("width", [40, 80, 100, 300])
def test_the_table_fits_and_failures_go_first(width: int) -> None:
    names = ["calm", "a class of a very long name, longer than any terminal's column can hold in one line " * 2]
    result = evaluation([summary(scope=name) for name in names], classes=names)
    text = reporters.terminal(judge(result, wide_policy()), width)
    assert max(map(len, text.splitlines())) <= max(60, min(width, 100))
    leads = [line.split()[0] for line in text.splitlines() if re.match("FAIL|ERROR|PASS|outcome", line)]
    assert leads == ["FAIL", "FAIL", "ERROR", "outcome", "PASS", "PASS"]
    details = " ".join(text.split())
    assert "rule 1: iou_top20 mean (layercam, penultimate); scope calm" in details
    assert "found 0.5, 95 % interval 0.48 .. 0.52; bound >= 0.9" in details
    assert "the interval's bad end is 0.48; this result would pass with >= 0.4800" in details
    assert "the result has no maps of layercam at gone; it has layercam at penultimate" in details


def test_wide_shows_every_column_in_one_line_per_case() -> None:
    text = reporters.terminal(judge(evaluation(), wide_policy()), 80, wide=True)
    rows = [line for line in text.splitlines() if re.match("FAIL|ERROR|PASS", line)]
    assert [row.split()[0] for row in rows] == ["FAIL", "FAIL", "ERROR", "PASS", "PASS"]
    assert all("a -> b" in row for row in rows)
    assert ">= 0.4800" in rows[0]


def test_the_pair_is_named_where_there_are_several() -> None:
    rules = policy({"min": 0.9}, {"min": 0.1})
    assert reporters.terminal(judge(evaluation(), rules)).startswith("pair: a -> b\n\nFAIL")
    assert reporters.terminal(judge(evaluation(), rules)).count("a -> b") == 1
    several = evaluation()
    several.pairs.append(several.pairs[0].model_copy(update={"name": "a -> c"}))
    text = reporters.terminal(judge(several, rules))
    assert text.count("a -> b") == text.count("a -> c") == 2


def test_an_index_says_on_which_floor_it_stands() -> None:
    several = evaluation()
    several.pairs.append(several.pairs[0].model_copy(update={"name": "a -> c", "floor": "replicate"}))
    verdict = judge(several, policy({"statistic": "index", "min": 0.1}, {"min": 0.1}))
    assert [case.floor for case in verdict.cases] == ["jitter", "replicate", None, None]
    for text in (reporters.terminal(verdict), reporters.terminal(verdict, wide=True), reporters.junit(verdict)):
        assert text.count("0.5 (jitter floor)") == text.count("0.5 (replicate floor)") >= 1


# JUnit and hostile names


def test_junit_marks_errors_and_skips() -> None:
    verdict = judge(evaluation([summary(n=3)]), policy({"min": 0.1, "layer": "x"}, {"min": 0.1}))
    suite = next(iter(JUnitXml.fromstring(reporters.junit(verdict).encode())))
    assert (suite.tests, suite.errors, suite.skipped) == (2, 1, 1)


# Attributes and children that the schema of Jenkins' xUnit plug-in (junit-10) allows; the first ones are required.
JUNIT = {
    "testsuites": ((), ("name", "time", "tests", "failures", "errors"), ("testsuite",)),
    "testsuite": (("name", "tests", "failures", "errors"), ("time", "skipped"), ("properties", "testcase")),
    "properties": ((), (), ("property",)),
    "property": (("name", "value"), (), ()),
    "testcase": (("name",), ("time", "classname"), ("skipped", "error", "failure", "system-out")),
    **dict.fromkeys(("skipped", "error", "failure"), ((), ("type", "message"), ())),
    "system-out": ((), (), ()),
}


def test_junit_holds_to_the_common_schema(tmp_path: Path) -> None:
    rules = tmp_path / "policy.toml"
    place = f'[[rule]]\nmetric = "iou_top20"\nmethod = "{METHOD}"\nstatistic = "mean"\n'
    bounds = (
        "layer = 'x'\nmin = 0.1",
        f"layer = '{LAYER}'\nscope = 'storm'\nmin = 0.1",
        f"layer = '{LAYER}'\nmin = 0.9",
    )
    rules.write_text("format = 1\n" + "".join(f"{place}{bound}\n" for bound in bounds))
    result = written(tmp_path / "drift", evaluation([summary(), summary(scope="storm", n=3)]))
    root = ElementTree.fromstring(reporters.junit(judge_files(result, rules)))
    assert root.tag == "testsuites"
    assert {element.tag for element in root.iter()} == set(JUNIT)
    for element in root.iter():
        required, optional, children = JUNIT[element.tag]
        assert set(required) <= set(element.attrib) <= {*required, *optional}, element.tag
        assert {child.tag for child in element} <= set(children), element.tag


def test_a_rule_cannot_begin_a_line_of_the_terminal() -> None:
    """A workflow command is one behind spaces, too, as a table sets them."""
    rule = {"metric": "iou_top20", "method": METHOD, "layer": "x\n::error::x", "statistic": "mean", "min": 0.1}
    verdict = judge(evaluation(), Policy.model_validate({"format": 1, "rule": [rule]}))
    assert not [line for line in reporters.terminal(verdict).splitlines() if line.lstrip().startswith("::")]


def test_annotations_escape_what_workflow_commands_give_a_meaning() -> None:
    """A property ends at a colon or comma, a command at the end of its line, and % begins an escape."""
    case = Case(
        rule=1, title="50 %, a: b\r\n::error::x", pair="pair", outcome="fail", message="100 % lost, really: yes"
    )
    (line,) = reporters.github(Verdict(cases=[case]))
    head, text = line.removeprefix("::error title=").split("::", 1)
    assert head == "50 %25%2C a%3A b%0D%0A%3A%3Aerror%3A%3Ax"
    assert text.startswith("fail: 50 %25, a: b%0D%0A::error::x, pair, all: ")
    assert text.endswith("100 %25 lost, really: yes")


def test_hostile_names_are_inert(tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>", "a|b`c\n::error::x\x00"]
    hostile = evaluation([summary(scope=name) for name in names], classes=names)
    for item, name in zip(hostile.checkpoints, names, strict=True):
        item.file = name
    result = written(tmp_path / "drift", hostile)
    (tmp_path / "p.toml").write_text(
        f'format = 1\n[[rule]]\nmetric = "iou_top20"\nmethod = "{METHOD}"\nlayer = "{LAYER}"\nstatistic = "mean"\n'
        'min = 0.9\nscope = "each-class"\n'
    )
    verdict = judge_files(result, tmp_path / "p.toml", command=names)
    text = reporters.markdown(verdict, tmp_path)
    assert not re.search(r"<script>(?![^`\n]*`)", text)  # in backticks it is text
    assert "a|b" not in text
    assert all("\n" not in line for line in reporters.github(verdict))
    assert "\n::error::x" not in reporters.terminal(verdict)
    assert len(next(iter(JUnitXml.fromstring(reporters.junit(verdict).encode())))) == 2


# Files


def test_a_file_may_be_standard_output(result: Path, passing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Then the table goes to standard error, and what is on standard output is JSON alone."""
    assert gate(result, "--policy", passing, "--json", "-") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["outcome"] == "pass"
    assert "verdict: PASS" in printed.err


@pytest.mark.parametrize("option", ["--json", "--junit", "--markdown"])
def test_an_empty_name_or_a_folder_is_a_sentence(result: Path, passing: Path, option: str) -> None:
    for name in ("", result):
        with pytest.raises(InputError, match="is a folder"):
            gate(result, "--policy", passing, option, name)
    assert sorted(path.name for path in result.iterdir()) == ["evaluation.json"]


def test_a_result_may_come_through_a_pipe(result: Path, passing: Path) -> None:
    """It is read once, and so is its digest that of what was judged."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb", closefd=True) as stream:
        stream.write((result / "evaluation.json").read_bytes()[:60000])
    verdict = judge_files(Path(f"/dev/fd/{reading}"), passing)
    os.close(reading)
    assert verdict.record is not None
    assert verdict.record.result.sha256 == digest(result / "evaluation.json")


def test_missing_baseline_fails_and_writes_the_candidate(
    tmp_path: Path, result: Path, passing: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = tmp_path / "accepted" / "baseline.json"
    line = (result, "--policy", passing, "--baseline", baseline)
    assert gate(*line) == 1
    assert not baseline.exists()
    candidate = baseline.with_name("baseline.json.candidate")
    assert str(candidate) in capsys.readouterr().err
    assert candidate.read_bytes() == (result / "evaluation.json").read_bytes()
    assert gate(*line, "--update-baseline") == 0
    assert baseline.read_bytes() == candidate.read_bytes()
    assert gate(*line) == 0


def test_a_baseline_may_be_a_result_folder_but_is_not_written_into_one(
    tmp_path: Path, result: Path, passing: Path
) -> None:
    accepted = written(tmp_path / "accepted", evaluation())
    assert gate(result, "--policy", passing, "--baseline", accepted) == 0
    with pytest.raises(InputError, match=r"accepted: is a folder; name the file to write"):
        gate(result, "--policy", passing, "--baseline", accepted, "--update-baseline")


def test_a_damaged_result_replaces_no_baseline(tmp_path: Path, passing: Path) -> None:
    baseline = written(tmp_path / "accepted", evaluation()) / "evaluation.json"
    before = baseline.read_bytes()
    (tmp_path / "damaged.json").write_text("{}")
    with pytest.raises(InputError, match="not an evaluation"):
        gate(tmp_path / "damaged.json", "--policy", passing, "--baseline", baseline, "--update-baseline")
    assert baseline.read_bytes() == before


def test_update_baseline_needs_a_file(result: Path, rules_file: Path) -> None:
    with pytest.raises(InputError, match="--update-baseline needs --baseline"):
        gate(result, "--policy", rules_file, "--update-baseline")


def test_init_refuses_what_judges(result: Path) -> None:
    with pytest.raises(InputError, match=r"--json judges; leave it out with --init"):
        gate(result, "--init", "--json", "x.json")


def test_init_does_not_overwrite(tmp_path: Path, result: Path) -> None:
    initialise(result, tmp_path / "p.toml")
    text = (tmp_path / "p.toml").read_text()
    with pytest.raises(InputError, match="exists; name another file"):
        initialise(result, tmp_path / "p.toml")
    assert (tmp_path / "p.toml").read_text() == text


def test_init_writes_nothing_that_makes_no_sense(tmp_path: Path) -> None:
    result = evaluation([summary(n=3, vanished_rate=None)])
    result.pairs[0].change = {}
    with pytest.raises(InputError, match="the policy proposed for"):
        initialise(written(tmp_path / "drift", result), tmp_path / "p.toml")
    assert not (tmp_path / "p.toml").exists()


def test_command_line_returns_the_exit_code(
    tmp_path: Path, result: Path, rules_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, code in ((rules_file, 1), (tmp_path / "gone.toml", 2)):
        monkeypatch.setattr("sys.argv", ["harness", "gate", str(result), "--policy", str(name)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert caught.value.code == code
    assert "gone.toml: cannot be read" in capsys.readouterr().err


# Python


def test_judging_prints_nothing(result: Path, rules_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = judge_files(result, rules_file)
    write_verdict(verdict, result, Outputs(json_file=result.parent / "v.json", summary=result.parent / "s.md"))
    assert isinstance(verdict, Verdict)
    assert capsys.readouterr() == ("", "")
    assert (result.parent / "s.md").is_file()


def test_pytest_helper(tmp_path: Path, result: Path, rules_file: Path) -> None:
    with pytest.raises(AssertionError, match="iou_top20 mean"):
        assert_no_drift(result, rules_file)
    rules_file.write_text(rules_file.read_text().replace("0.9", "0.3"))
    assert_no_drift(result, rules_file)
    skipped = written(tmp_path / "few", evaluation([summary(n=3)]))
    with pytest.raises(AssertionError, match="SKIPPED"):
        assert_no_drift(os.fspath(skipped), os.fspath(rules_file))
    with pytest.raises(AssertionError, match="no baseline at"):
        assert_no_drift(result, rules_file, tmp_path / "gone.json")

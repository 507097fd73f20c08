"""The benchmark report: ratios from a run, what is stored and read back, and what counts as a regression."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click import ClickException
from click.testing import CliRunner, Result

from benchmarks import judge, processors, report
from benchmarks.__main__ import main
from benchmarks.processors import Moment, elsewhere
from benchmarks.rows import Machine, Report, Row, parts_of, rows_of
from benchmarks.test_references_speed import many
from benchmarks.timing import in_turns
from harness.common.errors import InputError

MACHINE = Machine(cpu="A CPU", cores=2, memory=8.0)


def entry(contender: str, seconds: float, turn: int = 0, items: int = 1, wanted: float | None = 4) -> dict:
    information = {"contender": contender, "turn": turn, "items": items, "wanted": wanted}
    return {"group": "ssim", "stats": {"min": seconds}, "extra_info": information}


def row(what: str = "ssim", ratio: float = 10.0, suite: str = "kernels", wanted: float | None = 8) -> Row:
    return Row(suite=suite, what=what, rival="skimage", ours=0.001, theirs=0.001 * ratio, ratio=ratio, wanted=wanted)


def made(*rows: Row, machine: Machine = MACHINE) -> Report:
    return Report(
        machine=machine, versions={"numpy": "2"}, git_commit="c" * 40, command="python -m benchmarks report",
        load=(0.1, 1.9), minutes=9.5, rows=list(rows), elsewhere={"kernels": 0.25, "cam": None},
        note="Made beside other work.", parts={"ResNet50V2": {"onnxruntime": 9.0, "total": 10.0}},
    )  # fmt: skip


# From a run to rows


def test_times_are_per_item_and_every_rival_has_a_row() -> None:
    entries = [entry("ours", 0.004, items=8), entry("slow", 0.4, items=8), entry("fast", 0.01, items=4)]
    slow, fast = rows_of("kernels", {"benchmarks": entries})
    assert (slow.key, fast.key) == (("kernels", "ssim", "slow"), ("kernels", "ssim", "fast"))
    assert (fast.ours, fast.theirs) == pytest.approx((0.0005, 0.0025))
    assert (slow.ratio, fast.ratio) == pytest.approx((100, 5))


def test_ratio_is_taken_within_each_turn() -> None:
    """The machine was ten times slower in the second turn, and a rival had a bad moment in the third."""
    ours, theirs = (1.0, 10.0, 1.0), (2.0, 20.0, 50.0)
    entries = [entry("ours", seconds, turn) for turn, seconds in enumerate(ours)]
    entries += [entry("rival", seconds, turn) for turn, seconds in enumerate(theirs)]
    (found,) = rows_of("cam", {"benchmarks": entries})
    assert found.ratio == pytest.approx(2)
    assert (found.ours, found.theirs) == (1, 20)


def test_limits_that_a_contender_tells_have_rows_of_their_own() -> None:
    entries = [entry("ours", 1.0), entry("rival", 4.0)]
    entries[0]["extra_info"]["limits"] = [("ssim, all of it", "its kernel", 0.9, 0.94)]
    _, limit = rows_of("kernels", {"benchmarks": entries})
    assert limit.key == ("kernels", "ssim, all of it", "its kernel")
    assert (limit.ratio, limit.wanted, limit.is_short) == (pytest.approx(0.9), 0.94, True)


@pytest.mark.parametrize(("slowest", "scatters"), [(2.4, False), (2.6, True), (math.nan, True)])
def test_turns_that_disagree_scatter(slowest: float, scatters: bool) -> None:
    entries = [entry("ours", 1.0, turn) for turn in (0, 1)]
    entries += [entry("rival", seconds, turn) for turn, seconds in enumerate((2.0, slowest))]
    (found,) = rows_of("cam", {"benchmarks": entries})
    assert found.scatters == scatters
    assert ("(scatters) |" in report.markdown(made(found))) == scatters


def test_cases_that_scatter_are_timed_once_more(monkeypatch) -> None:
    asked: list[list[str] | None] = []

    def run(_suite: str, _rounds: int, cases: list[str] | None = None) -> dict:
        asked.append(cases)
        second = 2.0 if cases else 9.0
        steady = [entry("ours", 1.0), entry("rival", 3.0)]
        noisy = [{**entry("rival", seconds, turn), "group": "gini"} for turn, seconds in ((0, 2.0), (1, second))]
        ours = [{**entry("ours", 1.0, turn), "group": "gini"} for turn in (0, 1)]
        return {"benchmarks": [*([] if cases else steady), *ours, *noisy]}

    monkeypatch.setattr(report, "run", run)
    rows = rows_of("kernels", report.steady("kernels", 6))
    assert asked == [None, ["gini"]]
    assert [(row.what, row.ratio, row.scatters) for row in rows] == [("ssim", 3.0, False), ("gini", 2.0, False)]


@pytest.mark.parametrize(("ratio", "wanted", "short"), [(8, 8, False), (7.9, 8, True), (1, None, False)])
def test_short_is_what_falls_short_of_the_claim(ratio: float, wanted: float | None, short: bool) -> None:
    assert row(ratio=ratio, wanted=wanted).is_short == short
    assert ("8.00 **(short)** |" in report.markdown(made(row(ratio=ratio, wanted=wanted)))) == short


def test_parts_of_an_evaluation_are_kept() -> None:
    one = entry("ours", 1.0)
    one["extra_info"]["parts"] = {"total": 3.0}
    assert parts_of({"benchmarks": [one, entry("rival", 2.0)]}) == {"ssim": {"total": 3.0}}


def test_contenders_take_turns() -> None:
    names = [(parameter.values[1], parameter.values[2]) for parameter in in_turns(["case"], ["ours", "rival"], 2)]
    assert names == [("ours", 0), ("rival", 0), ("ours", 1), ("rival", 1)]


# The report


def test_markdown_says_how_it_was_made_and_shows_the_suites_that_ran() -> None:
    text = report.markdown(made(row("ssim", 7.2), row("ResNet50V2", 12.5, "evaluate")))
    assert "python -m benchmarks report\n" in text
    assert "Made beside other work.\n" in text
    assert "A CPU, 2 cores, 8.0 GiB of memory; 9.5 minutes; commit cccccccccccc.\n" in text
    assert "Load average before and after: 0.1 and 1.9. Share of the processors that other programs took:\n" in text
    assert "  kernels 25%.\n- Versions: numpy 2.\n" in text
    assert "| ssim   |          1 | skimage |      7.2 |           7.20 | 8.00 **(short)** |" in text
    assert "| ResNet50V2 | 9.0" in text
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        f"## {report.SUITES[name].title}" for name in ("evaluate", "kernels")
    ]


def test_report_survives_being_stored(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(made(row()).model_dump_json())
    assert Report.read(path) == made(row())


@pytest.mark.parametrize("content", ["{}", "not JSON", '{"format": 2}'])
def test_what_is_no_report_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"report\.json: not the JSON of a benchmark report .*; write one with --json"):
        Report.read(path)


def test_report_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.json: cannot be read \(No such file or directory\)"):
        Report.read(tmp_path / "gone.json")


def test_a_suite_that_fails_is_named_and_the_others_are_kept(tmp_path: Path, monkeypatch) -> None:
    def run(suite: str, _rounds: int, _cases: list[str] | None = None) -> dict:
        if suite == "start":
            raise ClickException("the suite 'start' failed")
        return {"benchmarks": [entry("ours", 1.0), entry("rival", 3.0)]}

    monkeypatch.setattr(report, "run", run)
    out = tmp_path / "report.json"
    found = CliRunner().invoke(main, ["report", "--suite", "start", "--suite", "kernels", "--json", str(out)])
    assert found.exit_code == 1
    assert "not measured: start" in found.output
    assert [row.suite for row in Report.read(out).rows] == ["kernels"]


# Other programs


def test_what_others_took_is_what_was_busy_and_not_ours() -> None:
    start, end = Moment(clock=100, busy=40, ours=7), Moment(clock=110, busy=55, ours=17)
    assert elsewhere(start, end, cores=2) == pytest.approx(0.25)  # 15 s busy, 10 s of them ours, 20 s there were
    assert elsewhere(start, replace(end, busy=49), cores=2) == 0  # rounding of the clocks
    assert elsewhere(start, replace(end, busy=None), cores=2) is None


def test_a_child_counts_as_ours() -> None:
    before = Moment.now()
    subprocess.run([sys.executable, "-c", "sum(range(10**7))"], check=True)
    assert Moment.now().ours > before.ours


@pytest.mark.parametrize("content", ["", "cpu one two"])
def test_a_system_that_does_not_tell_is_no_error(tmp_path: Path, monkeypatch, content: str) -> None:
    monkeypatch.setattr(processors, "STAT", tmp_path / "stat")
    assert Moment.now().busy is None
    (tmp_path / "stat").write_text(content)
    assert Moment.now().busy is None


def test_waiting_is_not_busy(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(processors, "STAT", tmp_path / "stat")
    monkeypatch.setattr(processors.os, "sysconf", lambda _: 100)
    (tmp_path / "stat").write_text("cpu 100 20 30 9000 800 5 6 7 0 0\ncpu0 1\n")
    assert Moment.now().busy == pytest.approx(1.68)


# Judging


@pytest.mark.parametrize(("ratio", "worse"), [(10, False), (8, False), (7.99, True), (20, False), (math.nan, True)])
def test_worse_is_what_falls_below_the_tolerated_share(ratio: float, worse: bool) -> None:
    found = judge.judge(made(row(ratio=10)), made(row(ratio=ratio)), 0.8, ["kernels"])
    assert bool(found.worse) == worse
    assert found.compared == 1


def test_rows_without_a_counterpart_are_listed_and_are_not_worse() -> None:
    found = judge.judge(made(row("old"), row("both")), made(row("both"), row("new")), 0.8, ["kernels"])
    assert ([one.what for one in found.gone], [one.what for one in found.new], found.worse) == (["old"], ["new"], [])
    assert found.lines() == [
        "not measured any more: kernels: old, against skimage",
        "not stored yet: kernels: new, against skimage",
        "1 ratios compared, 0 fell",
    ]


def test_suites_that_did_not_run_are_not_missed() -> None:
    found = judge.judge(made(row("one"), row("two", suite="cam")), made(row("one")), 0.8, ["kernels"])
    assert not found.gone


@pytest.mark.parametrize("change", [{"cpu": "Another CPU"}, {"cores": 4}])
def test_another_machine_is_refused(change: dict) -> None:
    other = MACHINE.model_copy(update=change)
    with pytest.raises(InputError, match=r"made on another machine .* store a report of this machine with --json"):
        judge.judge(made(row(), machine=other), made(row()), 0.8, ["kernels"])


def test_memory_is_for_information() -> None:
    judge.require_same_machine(made(row()), MACHINE.model_copy(update={"memory": 4.0}))


# The command


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that takes no time: one ratio of 10."""
    monkeypatch.setattr(report, "machine", lambda: MACHINE)
    monkeypatch.setattr(report, "measure", lambda *_: made(row(ratio=10)))


def call(*arguments: object) -> Result:
    """Options of `report`; the exit code is the command's answer."""
    return CliRunner().invoke(main, ["report", *map(str, arguments)], standalone_mode=False)


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(("stored", "tolerance", "code"), [(10, 0.8, 0), (13, 0.8, 1), (13, 0.7, 0)])
def test_exit_code_tells_a_regression(tmp_path: Path, stored: float, tolerance: float, code: int) -> None:
    path = tmp_path / "stored.json"
    path.write_text(made(row(ratio=stored)).model_dump_json())
    found = call("--suite", "kernels", "--compare", path, "--tolerance", tolerance)
    assert found.return_value == code
    named = "slower: kernels: ssim, against skimage: ratio 10.00, stored 13.00" in found.stderr
    assert named == bool(code)


@pytest.mark.usefixtures("measured")
def test_report_is_written_where_it_was_asked_for(tmp_path: Path) -> None:
    assert call("--suite", "kernels", "--out", tmp_path / "a.md", "--json", tmp_path / "a.json").return_value == 0
    assert Report.read(tmp_path / "a.json") == made(row())
    assert (tmp_path / "a.md").read_text() == report.markdown(made(row()))


def test_a_suite_that_cannot_run_here_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(report, "find_spec", lambda name: None if name == "pytorch_grad_cam" else object())
    found = call("--suite", "torch")
    assert isinstance(found.exception, InputError)
    assert "--suite torch: needs 'torch', 'torchvision', 'pytorch_grad_cam'; pip install" in str(found.exception)


@pytest.mark.usefixtures("measured")
def test_another_machine_is_refused_before_anything_runs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(report, "measure", lambda *_: pytest.fail("ran"))
    path = tmp_path / "stored.json"
    path.write_text(made(row(), machine=MACHINE.model_copy(update={"cores": 64})).model_dump_json())
    found = call("--compare", path)
    assert isinstance(found.exception, InputError)
    assert found.exception.exit_code == 2
    assert "(A CPU, 64 cores) than this one (A CPU, 2 cores)" in str(found.exception)


@pytest.mark.usefixtures("shared")
def test_more_radiographs_than_there_are_are_links_of_other_patients(tmp_path: Path) -> None:
    found = many(1600, tmp_path)
    assert len({*found.files}) == len(found.classes) == 1600
    again = [n for n, file in enumerate(found.files) if file.is_symlink()]
    assert again == list(range(1569, 1600))
    assert {found.groups[n] for n in again}.isdisjoint({found.groups[n] for n in range(1569)})
    for n in again:
        assert found.classes[n] == found.classes[found.files.index(found.files[n].readlink())]

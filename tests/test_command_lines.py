"""The command lines from outside: exit codes, one sentence on bad input, light start."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import export.cli
import harness.cli
from export.catalogue import COMPRESSIONS
from export.compress.methods import COMPRESSIONS as REGISTERED
from export.graph import fused_maps
from kernels.catalogue import METHODS, of_one_pass
from tests import tiny_graphs

HEAVY = ("onnxruntime", "numba", "tensorflow", "ray", "pyarrow", "matplotlib", "numpy")


def outcome(
    main: object, arguments: list[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command line, run in this process."""
    monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()  # type: ignore[operator]
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_graphs.write_graph(tmp_path_factory.mktemp("cli") / "a.onnx")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_graphs.write_images(tmp_path_factory.mktemp("images"))


def test_evaluate_prints_the_table_on_stdout_and_progress_on_stderr(
    graph: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "--before", graph, "--after", graph, "--data", manifest, "--out", tmp_path / "drift"]
    code, out, err = outcome(harness.cli.main, [*arguments, "--select", "all"], monkeypatch, capsys)
    assert code == 0
    assert "iou_top20" in out
    assert "written to" in out
    assert "image/s" in err
    assert (tmp_path / "drift" / "contact-sheet.png").stat().st_size > 10_000


def test_demonstration_without_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = outcome(harness.cli.main, ["evaluate", "--quiet"], monkeypatch, capsys)
    assert code == 0
    assert "PhantomNet: transfer -> finetune" in out
    assert "60 images of 40 patients" in out
    there = {path.name for path in (tmp_path / "drift").iterdir()}
    assert there >= {"contact-sheet.png", "evaluation.json", "report.md", "maps", "predictions", "scores"}
    assert all(name in out.splitlines()[-1] for name in there)


@pytest.mark.parametrize(
    ("changed", "code", "sentence"),
    [
        ({"--before": "gone.onnx"}, 2, "gone.onnx: cannot be read (No such file or directory)"),
        ({"--before": __file__}, 2, "not an ONNX file"),
        ({"--data": "gone.csv"}, 2, "gone.csv: no such manifest or folder"),
        ({"--data": None}, 2, "give --before, --after and --data together"),
        ({"--layer": "middle"}, 2, "no CAM layer 'middle'"),
        ({"--provider": "abacus"}, 2, "unknown provider 'abacus'; choose from cpu"),
        ({"--provider": "cuda"}, 3, "provider 'cuda' was asked for, but"),
        ({"--method": "fullgrad"}, 2, "'fullgrad' is not one of"),
        ({"--batch": "0"}, 2, "0 is not in the range x>=1"),
        ({"--split": "test"}, 2, "no column 'split'"),
    ],
)
def test_bad_input_is_one_sentence_and_an_exit_code(
    graph: Path,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    changed: dict[str, str | None],
    code: int,
    sentence: str,
) -> None:
    options = {"--before": graph, "--after": graph, "--data": manifest, "--out": tmp_path / "out"} | changed
    arguments = ["evaluate", *(part for pair in options.items() if pair[1] is not None for part in pair)]
    found, _, err = outcome(harness.cli.main, arguments, monkeypatch, capfd)
    assert found == code
    assert sentence in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_an_onnx_file_that_is_not_ours(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx_ir as ir

    foreign = tmp_path / "foreign.onnx"
    ir.save(tiny_graphs.forward().model, foreign)
    arguments = ["evaluate", "--before", foreign, "--after", foreign, "--data", manifest]
    code, _, err = outcome(harness.cli.main, arguments, monkeypatch, capsys)
    assert code == 2
    assert "not a graph of this project (no metadata); make one with `python -m export`" in err


def test_export_and_evaluate_a_foreign_model(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx_ir as ir

    made = tiny_graphs.forward()
    made.graph.outputs[:] = [made.logits]
    ir.save(made.model, tmp_path / "foreign.onnx")
    out = tmp_path / "ours.onnx"
    arguments = ["onnx", tmp_path / "foreign.onnx", "--out", out, "--classes", "dark,bright,left", "--fuse", "layercam"]
    code, printed, _ = outcome(export.cli.main, arguments, monkeypatch, capsys)
    assert code == 0
    assert "equal to its source at all ONNX Runtime optimisation levels" in printed
    arguments = ["evaluate", "--before", out, "--after", out, "--data", manifest, "--out", tmp_path / "d", "--quiet"]
    with tiny_graphs.in_brief():
        assert outcome(harness.cli.main, [*arguments, "--select", "all"], monkeypatch, capsys)[0] == 0


def test_export_refuses_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = outcome(export.cli.main, ["onnx", tmp_path / "x", "--out", tmp_path / "y"], monkeypatch, capsys)
    assert (code, err.count("\n")) == (2, 1)
    arguments = ["onnx", tmp_path / "x", "--out", tmp_path / "y", "--mean", "a"]
    code, _, err = outcome(export.cli.main, arguments, monkeypatch, capsys)
    assert code == 2
    assert "--mean takes numbers separated by commas, not 'a'" in err


def test_debug_lets_the_traceback_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["program", "onnx", str(tmp_path / "x"), "--out", "y", "--debug"])
    with pytest.raises(Exception, match="no such file"):
        export.cli.main()


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed, _ = outcome(harness.cli.main, ["--version"], monkeypatch, capsys)
    assert (code, printed) == (0, f"evidence-drift, version {version('evidence-drift')}\n")


def test_choices_are_the_registered_methods() -> None:
    asked = {option.name: option.type for option in harness.cli.evaluate.params}["methods"]
    fused = {option.name: option.type for option in export.cli.onnx.params}["methods"]
    assert tuple(asked.choices) == tuple(METHODS)
    assert tuple(fused.choices) == tuple(fused_maps.METHODS)
    assert set(fused_maps.METHODS) == {name for name in of_one_pass(METHODS) if METHODS[name].where != "picture"}
    assert set(COMPRESSIONS) == set(REGISTERED)


@pytest.mark.parametrize("program", ["harness", "export", "training"])
def test_help_loads_nothing_heavy(program: str) -> None:
    code = (
        f"import sys; sys.argv = ['p', '--help']; from {program}.cli import *\n"
        f"import runpy\ntry: runpy.run_module('{program}', run_name='__main__')\nexcept SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage" in found.stdout
    assert found.stdout.strip().splitlines()[-1] == "[]"

"""The cells of docs/python.md and of its notebook are executed in order, as in one session."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import harness
from kernels.catalogue import METHODS, METRICS
from tests import documents
from tests.documents import ROOT

PAGE, NOTEBOOK = "docs/python.md", ROOT / "docs" / "python.ipynb"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder; what the cells register is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    known = set(METRICS), set(METHODS)
    yield tmp_path
    for records, before in zip((METRICS, METHODS), known, strict=True):
        for name in set(records) - before:
            records.unregister(name)


def executed(text: str, session: dict[str, Any]) -> Any:
    """Execute a cell; the value of its last expression, as a notebook shows it."""
    tree = ast.parse(text)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, PAGE, "exec"), session)
    return None if last is None else eval(compile(ast.Expression(last.value), PAGE, "eval"), session)


@pytest.mark.slow
def test_the_page_is_one_session(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session: dict[str, Any] = {}
    shown = [executed(block.text, session) for block in documents.blocks(PAGE) if block.language == "python"]
    printed = capsys.readouterr().out
    assert (folder / "drift" / "report.html").is_file()
    assert "did you mean" in printed
    assert r"\toprule" in printed
    assert "<table>" in shown[1]._repr_html_()
    assert session["small"].evaluation.images == 24
    assert session["verdict"].exit_code == 0
    assert True in shown  # the bundle was verified
    (dice,) = shown[-1]
    assert dice[0] == "dice"
    assert 0 < dice[1] <= 1


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_the_notebook_runs() -> None:
    session: dict[str, Any] = {}
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    shown = [executed("".join(cell["source"]), session) for cell in cells if cell["cell_type"] == "code"]
    assert "iou_top20" in shown[0]._repr_html_()
    assert len(shown[1]) == 3
    assert shown[-1][0][0] in ("pass", "fail")


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ("numpy", "onnxruntime", "numba", "pyarrow", "cv2", "pydantic", "click")
    code = f"import sys, harness; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", harness.__all__)
def test_every_public_name_is_a_function_or_class(name: str) -> None:
    """And not a module of the same name, which its import would put in the place of the function."""
    for _ in range(2):
        assert callable(getattr(harness, name))

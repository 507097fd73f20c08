"""The recipes of docs/gate.md, taken from the page and executed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.evaluation.demonstration import FOLDER

PAGE = Path(__file__).parent.parent / "docs" / "gate.md"


def recipe(name: str) -> str:
    """The code block behind a marker of the page."""
    found = re.search(rf"<!-- recipe: {name} -->\n```\w+\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"docs/gate.md has no recipe {name!r}"
    return found[1]


def shell_lines(name: str) -> list[str]:
    """What a recipe runs in a shell, but for the installation."""
    text = recipe(name)
    if name == "shell":
        return [line for line in text.splitlines() if line.startswith("python")]
    content = yaml.safe_load(text)
    if name == "gitlab":
        lines = content["drift"]["script"]
    else:
        lines = [step["run"].strip() for step in content["jobs"]["drift"]["steps"] if "run" in step]
    assert lines[0].startswith("pip install")
    return lines[1:]


IMAGES = 44  # of the demonstration's 60: enough for `--init`, which asks for 30 true positives of 25 patients


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the recipes expect to find: a part of the demonstration under their names."""
    folder = tmp_path_factory.mktemp("recipes")
    shutil.copytree(FOLDER / "images", folder / "images")
    rows = (FOLDER / "manifest.csv").read_text(encoding="utf-8").splitlines()
    (folder / "test.csv").write_text("\n".join(rows[: IMAGES + 1]) + "\n", encoding="utf-8")
    for name, source in (("deployed", "transfer"), ("accepted", "finetune"), ("candidate", "finetune")):
        shutil.copy(FOLDER / f"{source}.onnx", folder / f"{name}.onnx")
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "work"))


@pytest.fixture(scope="module")
def evaluated(prepared: Path) -> Path:
    """`drift`, evaluated once by the line that the recipes of both services have."""
    (line,) = {shell_lines(name)[0] for name in ("github", "gitlab")}
    assert run(line, prepared).returncode == 0
    return prepared / "drift"


def run(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    root = str(PAGE.parent.parent)
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line],
        cwd=folder, env={**os.environ, "PATH": path, "PYTHONPATH": root, **environment}, text=True, capture_output=True,
    )  # fmt: skip


POLICY = """
format = 1
[[rule]]
metric = "iou_top20"
method = "layercam"
layer = "block4_out"
statistic = "mean"
min = {bound}
"""


@pytest.mark.slow
def test_shell_recipe(folder: Path) -> None:
    results = [run(line, folder) for line in shell_lines("shell")]
    assert [result.returncode for result in results] == [0, 0, 0, 0], [result.stderr for result in results]
    assert "verdict: PASS" in results[-1].stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["github", "gitlab"])
def test_recipes_of_ci_services_pass_and_fail(folder: Path, evaluated: Path, name: str) -> None:
    _, judging = shell_lines(name)
    shutil.copytree(evaluated, folder / "drift", dirs_exist_ok=True)
    for bound, code in ((0.5, 0), (0.95, 1)):
        (folder / "policy.toml").write_text(POLICY.format(bound=bound))
        result = run(judging, folder, GITHUB_STEP_SUMMARY=str(folder / "summary.md"))
        assert result.returncode == code, result.stderr
    assert (folder / "drift-gate.xml").is_file()
    if name == "github":
        assert "::error" in result.stdout
        assert "Evidence drift: fail" in (folder / "summary.md").read_text(encoding="utf-8")

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

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "gate.md"


def recipe(name: str) -> str:
    """The code block behind a marker of the page."""
    found = re.search(rf"<!-- recipe: {name} -->\n```\w+\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"docs/gate.md has no recipe {name!r}"
    return found[1]


def shell_lines(name: str) -> list[str]:
    """The commands of a shell recipe."""
    return [line for line in recipe(name).splitlines() if line.startswith("python")]


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
    """`drift`, evaluated once."""
    assert run(shell_lines("service")[0], prepared).returncode == 0
    return prepared / "drift"


def run(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    root = str(ROOT)
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
def test_the_two_lines_for_any_service_pass_and_fail(folder: Path, evaluated: Path) -> None:
    _, judging = shell_lines("service")
    shutil.copytree(evaluated, folder / "drift", dirs_exist_ok=True)
    for bound, code in ((0.5, 0), (0.95, 1)):
        (folder / "policy.toml").write_text(POLICY.format(bound=bound))
        result = run(judging, folder, GITHUB_STEP_SUMMARY=str(folder / "summary.md"))
        assert result.returncode == code, result.stderr
    assert (folder / "drift-gate.xml").is_file()
    assert "::error" in result.stdout
    assert "Evidence drift: fail" in (folder / "summary.md").read_text(encoding="utf-8")


def test_the_recipes_of_services_give_what_their_files_take() -> None:
    """Inputs of the action, variables of the GitLab file and hooks of pre-commit are named as they are there."""
    (_, step) = yaml.safe_load(recipe("action"))["jobs"]["drift"]["steps"]
    inputs = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))["inputs"]
    assert {name for name, given in inputs.items() if given.get("required")} <= set(step["with"]) <= set(inputs)
    gitlab = yaml.safe_load(recipe("gitlab"))
    template = yaml.safe_load((ROOT / gitlab["include"][0]["file"]).read_text(encoding="utf-8"))
    assert set(gitlab["drift"]["variables"]) <= set(template[gitlab["drift"]["extends"]]["variables"])
    (repository,) = yaml.safe_load(recipe("pre-commit"))["repos"]
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert {hook["id"] for hook in repository["hooks"]} == {hook["id"] for hook in hooks}

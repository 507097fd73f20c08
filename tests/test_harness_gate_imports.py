"""Judging a JSON file loads no runtime, compiler, image or table library: a gate starts in a second, on any machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.made_results import LAYER, METHOD, evaluation

ROOT = Path(__file__).parent.parent
HEAVY = (
    "onnxruntime",
    "pyarrow",
    "cv2",
    "tensorflow",
    "PIL",
    "pydicom",
    "matplotlib",
    "ray",
    "mlflow",
    "numba",
    "llvmlite",
    "scipy",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result, a policy that it passes, and one that it fails."""
    folder = tmp_path_factory.mktemp("gate")
    evaluation().write(folder)
    rule = f'metric = "iou_top20"\nmethod = "{METHOD}"\nlayer = "{LAYER}"\nstatistic = "mean"\n'
    for name, bound in (("pass", 0.1), ("fail", 0.9)):
        (folder / f"{name}.toml").write_text(f"format = 1\n[[rule]]\n{rule}min = {bound}\n")
    return folder


def loaded(*line: str, exit_code: int) -> set[str]:
    """The modules that a Python process imports."""
    found = subprocess.run([sys.executable, "-X", "importtime", *line], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == exit_code, found.stderr[-2000:]
    return set(re.findall(r"^import time: .*\| +(\S+)$", found.stderr, re.MULTILINE))


@pytest.fixture(scope="module")
def modules(folder: Path) -> dict[str, set[str]]:
    """What each way to judge imports."""
    outputs = [word for name in ("json", "junit", "markdown") for word in (f"--{name}", str(folder / f"out.{name}"))]
    line = ["-m", "harness", "gate", str(folder), *outputs, "--baseline", str(folder), "--github", "--policy"]
    code = (
        f"from harness.testing import assert_no_drift\nassert_no_drift({str(folder)!r}, {str(folder / 'pass.toml')!r})"
    )
    return {
        "pass": loaded(*line, str(folder / "pass.toml"), exit_code=0),
        "fail": loaded(*line, str(folder / "fail.toml"), exit_code=1),
        "testing": loaded("-c", code, exit_code=0),
    }


@pytest.mark.parametrize("library", HEAVY)
@pytest.mark.parametrize("way", ["pass", "fail", "testing"])
def test_judging_does_not_load(modules: dict[str, set[str]], way: str, library: str) -> None:
    found = sorted(name for name in modules[way] if name == library or name.startswith(f"{library}."))
    assert not found, f"{len(found)} modules, for example {found[0]}"


@pytest.mark.parametrize("file", sorted((ROOT / "harness" / "gate").glob("*.py")), ids=lambda file: file.name)
def test_the_gate_neither_prints_nor_reads_its_surroundings(file: Path) -> None:
    """Command line, environment and terminal are the business of `harness.cli`."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not imported & {"click", "sys", "os", "warnings", "shutil"}
    assert not named & {"print", "input"}


def test_the_list_of_modules_is_not_empty(modules: dict[str, set[str]]) -> None:
    for found in modules.values():
        assert {"pydantic", "harness.gate.judge", "harness.results.schema", "junitparser"} <= found

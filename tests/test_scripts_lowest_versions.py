"""The constraints that the lowest allowed versions are installed by."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.lowest_versions import lowest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("requirement", "constraint"),
    [
        ("numpy>=2.0", "numpy==2.0"),
        ("onnx-ir>=1.1,<3", "onnx-ir==1.1"),
        ("moto[server,s3]>=5", "moto==5"),
        ("a>=1.2; sys_platform == 'linux'", "a==1.2; sys_platform == 'linux'"),
    ],
)
def test_a_bound_becomes_a_constraint(requirement: str, constraint: str) -> None:
    assert lowest(requirement) == constraint


def test_a_requirement_without_a_bound_is_an_error() -> None:
    with pytest.raises(ValueError, match="'numpy' has no lower bound"):
        lowest("numpy")


def test_every_requirement_has_a_bound_and_every_test_is_there() -> None:
    command = [sys.executable, ROOT / "scripts" / "lowest_versions.py"]
    constraints, tests = (
        subprocess.run([*command, *more], check=True, capture_output=True, text=True).stdout.split("\n")[:-1]
        for more in ([], ["--tests"])
    )
    assert any(line.startswith("onnxruntime-gpu==") for line in constraints)
    assert all((ROOT / test).is_file() for test in tests)

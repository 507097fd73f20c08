"""The command line starts at once: little later than an empty Python, and without any heavy package."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.test_start_speed import ALLOWANCE

ROOT = Path(__file__).parent.parent
HEAVY = ("onnxruntime", "numba", "tensorflow", "ray", "pyarrow")


def python(*arguments: str) -> str:
    """Standard error of a Python process that works in the root."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stderr


def seconds(*arguments: str) -> float:
    started = time.perf_counter()
    python(*arguments)
    return time.perf_counter() - started


def imported(*arguments: str) -> set[str]:
    """Top-level packages that a Python process imports."""
    lines = python("-X", "importtime", *arguments).splitlines()
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines if line.startswith("import time:")}


@pytest.mark.alone
def test_help_takes_little_longer_than_an_empty_python() -> None:
    """The fastest of five each, in turns: other programs make a process slower, never faster."""
    pairs = [(seconds("-m", "harness", "--help"), seconds("-c", "pass")) for _ in range(5)]
    ours, empty = map(min, zip(*pairs, strict=True))
    assert ours - empty < ALLOWANCE


def test_help_imports_no_heavy_package() -> None:
    found = imported("-m", "harness", "--help")
    assert {"harness", "click"} <= found
    assert not found & set(HEAVY)


@pytest.mark.parametrize("package", ["numba", "pyarrow"])
def test_the_list_of_imports_tells_a_heavy_package(package: str) -> None:
    assert package in imported("-c", f"import {package}")

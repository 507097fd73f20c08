"""Processes from start to end: `--help` beside an empty Python, and what an evaluation imports beside its rival's."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.timing import OURS, in_turns, one_turn

ALLOWANCE = 0.4  # seconds that our command line may take longer than an empty Python
EMPTY, RIVAL = f"an empty Python, and {ALLOWANCE} s", "imports of tf-keras-vis + scikit-image"
HELP, IMPORTS = "python -m harness --help", "imports of `evaluate`"
CONTENDERS = {HELP: (OURS, EMPTY), IMPORTS: (OURS, RIVAL)}
LIBRARIES = "import cv2, scipy.stats, skimage.metrics, tensorflow, tf_keras_vis.layercam"


def python(*arguments: str) -> None:
    """One process from start to end."""
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-W", "ignore", *arguments], cwd=root, capture_output=True, check=True)


def empty_and_allowance() -> None:
    python("-c", "pass")
    time.sleep(ALLOWANCE)


RUNS: dict[tuple[str, str], Callable[[], None]] = {
    (HELP, OURS): lambda: python("-m", "harness", "--help"),
    (HELP, EMPTY): empty_and_allowance,
    (IMPORTS, OURS): lambda: python("-c", "import harness.cli, harness.evaluation.run"),
    (IMPORTS, RIVAL): lambda: python("-c", LIBRARIES),
}


@pytest.mark.parametrize(
    ("case", "contender", "turn"), [one for case, who in CONTENDERS.items() for one in in_turns([case], who)]
)
def test_speed(benchmark, case: str, contender: str, turn: int) -> None:
    one_turn(benchmark, RUNS[case, contender], contender, turn, 1, None if contender == OURS else 1.0)

"""Whole processes of `evaluate`: with its references by budget, as by default, beside the same run without them.

What a run without them takes is held against what ONNX Runtime takes of it and an allowance.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from benchmarks.evaluations import METHODS
from benchmarks.networks import PHASES, ROOT, checkpoints
from benchmarks.radiographs import Radiographs, radiographs
from benchmarks.timing import OURS, THREADS, TURNS, in_turns, one_turn
from harness.results.schema import Evaluation

BARE = "without references"
OPTIONS = {OURS: (), BARE: ("--jitter", "0", "--chance", "0")}
# Network, radiographs, how many times as long references may make a run, and what one without them may take beyond ONNX
# Runtime: seconds and a share of ONNX Runtime's
CASES = {
    "MobileNetV2 0.35, 431 radiographs": ("MobileNetV2", 431, 1.6, (2.2, 0.0)),
    "DenseNet201, 320 radiographs": ("DenseNet201", 320, 1.6, (0.0, 0.08)),
    "MobileNetV2 0.35, 5,000 radiographs": ("MobileNetV2", 5000, 1.3, (0.0, 0.15)),
}


def many(count: int, folder: Path) -> Radiographs:
    """So many radiographs: beyond those that there are, links to them under other names, of other patients."""
    found = radiographs(count)
    files, classes, groups = list(found.files), list(found.classes), list(found.groups)
    for number in range(len(files), count):
        original = number % len(found.files)
        link = folder / f"{number:05d}{files[original].suffix}"
        link.symlink_to(files[original])
        files.append(link)
        classes.append(found.classes[original])
        groups.append(f"{groups[original]}, again {number}")
    return Radiographs(files, classes, groups)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("references")


def evaluate(architecture: str, manifest: Path, out: Path, options: tuple[str, ...]) -> float:
    """One process from start to end; its seconds."""
    pair = checkpoints(architecture)
    shutil.rmtree(out, ignore_errors=True)
    line = [sys.executable, "-m", "harness", "evaluate", "--select", "all", "--quiet", "--data", manifest, "--out", out]
    line += ["--before", pair.onnx(PHASES[0]), "--after", pair.onnx(PHASES[1]), "--threads", THREADS]
    line += [part for method in METHODS for part in ("--method", method)]
    started = time.perf_counter()
    subprocess.run([*map(str, line), *options], cwd=ROOT, capture_output=True, check=True)
    return time.perf_counter() - started


@pytest.mark.parametrize(("case", "contender", "turn"), in_turns(CASES, list(OPTIONS), turns=max(1, TURNS // 2)))
def test_speed(benchmark, folder: Path, case: str, contender: str, turn: int) -> None:
    architecture, count, times, (more, share) = CASES[case]
    manifest, out = folder / f"{count}.csv", folder / "out"
    if not manifest.is_file():
        many(count, folder).write_manifest(manifest)
        evaluate(architecture, manifest, out, OPTIONS[BARE] if count < 1000 else ("--dry-run",))  # compiled, in cache
    wanted = None if contender == OURS else 1 / times
    one_turn(benchmark, partial(evaluate, architecture, manifest, out, OPTIONS[contender]), contender, turn, count,
             wanted, warm=False)  # fmt: skip
    if contender == BARE:
        seconds = Evaluation.read(out).seconds
        process, inside = benchmark.stats.stats.max, seconds["onnxruntime"]
        benchmark.extra_info["parts"] = {**seconds, "process": process, "beyond": process - inside}
        limit = f"ONNX Runtime and {share:.0%}" if share else f"ONNX Runtime and {more} s"
        allowed = (inside * (1 + share) + more) / count
        benchmark.extra_info["limits"] = [(f"{case}, {BARE}", limit, allowed, 1.0)]

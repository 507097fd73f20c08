"""`evaluate` end to end on real radiographs, beside pipelines that compute the same with other tools."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import evaluations, explainers, rival_pipeline
from benchmarks.networks import PHASES, SIZES, checkpoints
from benchmarks.radiographs import radiographs
from benchmarks.rival_pipeline import BATCH, Compared
from benchmarks.timing import OURS, TURNS, in_turns, one_turn
from harness.results.schema import Evaluation

VIS, TAPE = "tf-keras-vis + scikit-image", "compiled GradientTape + scikit-image"
EXPLAINERS = {VIS: explainers.tf_keras_vis, TAPE: explainers.tape}
WANTED = {VIS: 8.0, TAPE: 1.0}
OF_RUNTIME = 0.94  # least share of a whole evaluation without references that ONNX Runtime is to have
IMAGES = {OURS: 320, VIS: 2 * BATCH, TAPE: 2 * BATCH}  # per call; rates per image are compared
REFERENCES = ", with references"  # chance and noise floor by as many draws
CASES = [*in_turns(SIZES, [OURS, *EXPLAINERS], max(1, TURNS // 3)),
         *in_turns([f"{name}{REFERENCES}" for name in SIZES], [OURS, VIS], max(1, TURNS // 3))]  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """One network: a folder for our results, and what is called, with references or without."""

    folder: Path
    runs: dict[tuple[str, bool], Callable[[], object]]


@pytest.fixture(scope="module")
def bench_of(tmp_path_factory) -> Callable[[str], Bench]:
    """The bench of a network; one is kept at a time."""
    return lru_cache(maxsize=1)(lambda architecture: bench(architecture, tmp_path_factory.mktemp(architecture)))


def bench(architecture: str, folder: Path) -> Bench:
    """Everything loaded, traced and compiled, and found to compute the same on a batch."""
    pair, pictures = checkpoints(architecture), radiographs(max(IMAGES.values()))
    manifests = {
        count: pictures.first(count).write_manifest(folder / f"{count}.csv") for count in (BATCH, IMAGES[OURS])
    }

    def ours(count: int, references: bool) -> None:
        shutil.rmtree(folder / "out", ignore_errors=True)
        evaluations.evaluate(pair, manifests[count], folder / "out", references)

    def pipeline(name: str) -> Callable[[int, bool], Any]:
        models = [EXPLAINERS[name](pair.keras(phase), pair.layer) for phase in PHASES]
        size = SIZES[architecture], SIZES[architecture]

        def run(count: int, references: bool) -> Any:
            some = pictures.first(count)
            work = rival_pipeline.with_references if references else rival_pipeline.compare
            return work(some.files, some.classes, size, *models)

        return run

    pipelines = {name: pipeline(name) for name in EXPLAINERS}
    ours(BATCH, False)
    _require_same_work(folder / "out", {name: run(BATCH, False) for name, run in pipelines.items()})
    runs = {OURS: ours, **pipelines}
    return Bench(
        folder,
        {(name, which): partial(run, IMAGES[name], which) for name, run in runs.items() for which in (True, False)},
    )


def _require_same_work(out: Path, rivals: dict[str, Compared]) -> None:
    """No metric undefined, and the same numbers but for those of few pixels, by the methods that both have."""
    for rival, found in rivals.items():
        for method in found.metrics:
            assert np.isfinite(found.metrics[method]).all(), f"{rival}, {method}: undefined metrics"
        for method in found.metrics.keys() & set(explainers.METHODS):
            ours = evaluations.metrics_of(out, method)
            assert np.isfinite(ours).all(), f"{method}: undefined metrics"
            share = evaluations.disagreement(found.metrics[method], ours)
            assert share < 0.1, f"{rival}, {method}: {share:.0%} of the metrics differ"


@pytest.mark.parametrize(("case", "contender", "turn"), CASES)
def test_speed(benchmark, bench_of, case: str, contender: str, turn: int) -> None:
    references = case.endswith(REFERENCES)
    here = bench_of(case.removesuffix(REFERENCES))
    wanted = None if references else WANTED.get(contender)
    one_turn(benchmark, here.runs[contender, references], contender, turn, IMAGES[contender], wanted, warm=False)
    if contender == OURS and not references:
        seconds = Evaluation.read(here.folder / "out").seconds
        bound = seconds["onnxruntime"] / IMAGES[OURS]
        benchmark.extra_info.update(parts=seconds, limits=[(case, "ONNX Runtime's part of it", bound, OF_RUNTIME)])

"""`evaluate` end to end on real radiographs, beside pipelines that compute the same with other tools."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

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
IMAGES = {OURS: 320, VIS: 2 * BATCH, TAPE: 2 * BATCH}  # per call; rates per image are compared


@dataclass(frozen=True)
class Bench:
    """One network: a folder for our results, and what is called."""

    folder: Path
    runs: dict[str, Callable[[], object]]


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

    def ours(count: int) -> None:
        shutil.rmtree(folder / "out", ignore_errors=True)
        evaluations.evaluate(pair, manifests[count], folder / "out")

    def pipeline(name: str) -> Callable[[int], Compared]:
        models = [EXPLAINERS[name](pair.keras(phase), pair.layer) for phase in PHASES]
        size = SIZES[architecture], SIZES[architecture]

        def compare(count: int) -> Compared:
            some = pictures.first(count)
            return rival_pipeline.compare(some.files, some.classes, size, *models)

        return compare

    pipelines = {name: pipeline(name) for name in EXPLAINERS}
    ours(BATCH)
    _require_same_work(folder / "out", {name: run(BATCH) for name, run in pipelines.items()})
    return Bench(folder, {name: partial(run, IMAGES[name]) for name, run in {OURS: ours, **pipelines}.items()})


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


@pytest.mark.parametrize(("case", "contender", "turn"), in_turns(SIZES, [OURS, *EXPLAINERS], turns=max(1, TURNS // 3)))
def test_speed(benchmark, bench_of, case: str, contender: str, turn: int) -> None:
    here = bench_of(case)
    run = here.runs[contender]
    one_turn(benchmark, run, contender, turn, IMAGES[contender], WANTED.get(contender), warm=False)
    if contender == OURS:
        benchmark.extra_info["parts"] = Evaluation.read(here.folder / "out").seconds

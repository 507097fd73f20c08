"""Ours, end to end: `evaluate` with two methods and every metric, and what it wrote, as arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.explainers import METHODS
from benchmarks.networks import PHASES, Checkpoints
from benchmarks.rival_pipeline import MAP_SIZE
from benchmarks.timing import THREADS
from harness.api.evaluation import Settings, evaluate_plan
from harness.evaluation.study_file import ArchitectureConfig, make_plan
from harness.results.options import Options
from harness.results.plan import Data
from harness.results.schema import Evaluation
from kernels.catalogue import METRICS

COLUMNS = tuple(column for record in METRICS.values() for column in record.columns)


def evaluate(pair: Checkpoints, manifest: Path, out: Path, references: bool = False) -> Evaluation:
    """`python -m harness evaluate --select all --threads 2`, report and all.

    :param references: False: `--jitter 0 --chance 0`.
    """
    before, after = (pair.onnx(phase) for phase in PHASES)
    none = None if references else 0
    options = Options(methods=METHODS, select="all", map_size=MAP_SIZE, jitter=none, chance=none)
    plan = make_plan([ArchitectureConfig(before=before, after=after)], Data(manifest), options)
    return evaluate_plan(plan, Settings(out, threads=THREADS, progress=False)).evaluation


def metrics_of(out: Path, method: str) -> np.ndarray:
    """(N, M), the columns of COLUMNS, of the images in their order."""
    rows = pq.read_table(out / "scores", filters=[("method", "==", method)], columns=["record", "metric", "value"])
    found = np.full((1 + max(rows["record"].to_pylist()), len(COLUMNS)), np.nan)
    places = {column: place for place, column in enumerate(COLUMNS)}
    for row in rows.to_pylist():
        if row["metric"] in places:
            found[row["record"], places[row["metric"]]] = row["value"]
    return found


def maps_of(out: Path, phase: str, method: str) -> np.ndarray:
    """(N, h, w) raw maps of one checkpoint, of the images in their order."""
    where = [("method", "==", method), ("checkpoint", "==", phase)]
    rows = pq.read_table(out / "maps", filters=where, columns=["record", "height", "width", "map"]).to_pylist()
    rows.sort(key=lambda row: row["record"])
    return np.array([np.reshape(row["map"], (row["height"], row["width"])) for row in rows], np.float32)


def disagreement(found: np.ndarray, expected: np.ndarray) -> float:
    """Share of numbers that differ by more than 1e-3, or of which only one is undefined.

    It need not be 0: a mask changes by a pixel where two pixels at its threshold are equal but for rounding.
    """
    return float(np.mean(~np.isclose(found, expected, rtol=0, atol=1e-3, equal_nan=True)))

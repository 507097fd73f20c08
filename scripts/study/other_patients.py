"""Overlap of the maps of two different patients of a class within one checkpoint: what maps share without any drift."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.evaluation.nulls import PARTNERS, with_partners
from harness.results.part_files import reason_codes
from harness.results.reader import Maps, maps_of_rows
from harness.results.schema import Evaluation, PairResult
from harness.results.vocabulary import HEADLINE
from harness.statistics.bootstrap import Resampling, interval, mean_of_defined
from harness.statistics.chance import derangements


def rows(folder: Path, result: Evaluation, threads: int = 2) -> list[dict[str, Any]]:
    """One row per pair, layer and method of which every compared image has a map, with a 95 % interval over patients.

    :param folder: the result folder of `result`; its maps after the fine-tuning are compared, of the compared images
    """
    return [row for pair in result.pairs for row in _of_pair(folder, result, pair, threads)]


def _of_pair(folder: Path, result: Evaluation, pair: PairResult, threads: int) -> Iterator[dict[str, Any]]:
    patients = _patients(folder, pair)
    for layer in result.layers:
        for method in result.methods:
            table = _maps(folder, pair.after, layer, method)
            table = table.filter(pa.array([record in patients for record in table["record"].to_pylist()]))
            if len(table) == len(patients):  # methods of several passes have maps of a sample
                groups = [patients[record] for record in table["record"].to_pylist()]
                found = overlap(table, groups, result.map_size, threads, result.seed)
                yield {"architecture": pair.architecture, "pair": pair.name, "layer": layer, "method": method, **found}


def _patients(folder: Path, pair: PairResult) -> dict[int, str]:
    """The records that a pair compares, each with its patient."""
    where = [("pair", "==", pair.name), ("reference", "==", "observed"), ("metric", "==", HEADLINE)]
    table = pq.read_table(folder / "scores", columns=["record", "group"], filters=where)
    return dict(zip(table["record"].to_pylist(), table["group"].to_pylist(), strict=True))


def _maps(folder: Path, checkpoint: str, layer: str, method: str) -> pa.Table:
    where = [("checkpoint", "==", checkpoint), ("layer", "==", layer), ("method", "==", method), ("draw", "==", 0)]
    return pq.read_table(folder / "maps", filters=where).sort_by("record")


def overlap(
    table: pa.Table, groups: Sequence[str], size: tuple[int, int], threads: int, seed: int
) -> dict[str, float | None]:
    """Mean overlap of each map of a table with those of PARTNERS images of other patients of its class."""
    classes = np.unique(table["class"].to_pylist(), return_inverse=True)[1]
    maps = Maps(maps_of_rows(table), reason_codes(table["reason"]))
    partners = derangements(table["image"].to_pylist(), classes, groups, PARTNERS, seed)
    values = with_partners(maps, partners, size, threads, [HEADLINE])[HEADLINE][:, None]
    draws = Resampling(groups, seed=0)
    spread = interval(draws.means(values)[:, 0], int(draws.n_patients(values)[0]))
    return {"mean": float(mean_of_defined(values)[0]), "low": spread.low, "high": spread.high}

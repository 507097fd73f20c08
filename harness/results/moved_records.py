"""Which records of a pair moved under one layer and method, by the stored scores and maps."""

from __future__ import annotations

import numpy as np

from harness.results.part_files import BLOCK
from harness.results.plan import LayerMethod, Pair
from harness.results.reader import NOT_COMPARED, Reader
from harness.results.vocabulary import BUILT_IN, HEADLINE
from harness.statistics.moved import Moved, moved_beyond
from kernels.catalogue import METRICS
from kernels.metrics import pair_metrics


def moved_records(reader: Reader, pair: Pair, layer: str, method: str) -> Moved:
    """`moved_beyond` of the headline metric over all records (R,); one that is not compared is not known.

    The noise is pooled over the compared records and both checkpoints. Its scores are means over the draws of the
    noise, as they are stored.
    """
    values, jitter = _stored(reader, pair, layer, method)
    return _beyond(values, jitter)


def moved_everywhere(reader: Reader, pair: Pair, layer: str, method: str, threads: int = 1) -> Moved:
    """`moved_records` also of readable records that are not compared, as those whose answer flipped.

    The threshold is the same; the metric of the others is computed from the stored maps of the explained class.
    """
    values, jitter = _stored(reader, pair, layer, method)
    readable = reader.collected.readable[reader.collected.records.images]
    rest = np.flatnonzero(readable & ~reader.selections[pair.name])
    for block in np.unique(reader.collected.records.images[rest] // BLOCK):
        rows = rest[reader.collected.records.images[rest] // BLOCK == block]
        values[rows] = _computed(reader, pair, (layer, method), rows, threads)
    return _beyond(values, jitter)


def _beyond(values: np.ndarray, jitter: np.ndarray) -> Moved:
    return moved_beyond(values, jitter, BUILT_IN.direction_of(HEADLINE), BUILT_IN.worst_of(HEADLINE))


def _computed(reader: Reader, pair: Pair, path: LayerMethod, rows: np.ndarray, threads: int) -> np.ndarray:
    """(n,) headline metric of some records, NaN where it is undefined or a map is not there."""
    before, after = (reader.maps(side, *path, rows) for side in reader.plan.sides(pair))
    there = np.flatnonzero((before.codes != NOT_COMPARED) & (after.codes != NOT_COMPARED))
    found = np.full(len(rows), np.nan)
    if len(there):
        scores = pair_metrics(
            before.raw[there],
            after.raw[there],
            threads,
            before_reasons=before.codes[there],
            after_reasons=after.codes[there],
            size=reader.plan.options.map_size,
            metrics=[METRICS.built_in[HEADLINE]],
        )
        found[there] = scores.values[:, 0]
    return found


def _stored(reader: Reader, pair: Pair, layer: str, method: str) -> tuple[np.ndarray, np.ndarray]:
    """(values (R,), jitter (checkpoints, compared)) of the headline metric."""
    observed, noise = reader.drift_and_noise(pair, layer, method, HEADLINE)
    return observed.values[:, 0], noise[:, observed.compared]

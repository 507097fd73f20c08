"""Flipped answers against moved evidence: what a change of accuracy does not see.

A record whose answer stays while its evidence moves is seen by no statistic of predictions; one whose answer flips
while its evidence stays was decided by how the same evidence is weighed.
"""

from __future__ import annotations

import numpy as np

from harness.evaluation.estimates import estimated_of
from harness.results.moved_records import moved_everywhere
from harness.results.plan import Pair
from harness.results.reader import Reader
from harness.results.schema import Flips, FlipTable
from harness.results.selection import Answers
from harness.statistics.bootstrap import Resampling
from harness.statistics.moved import Moved


def flips(reader: Reader, by_record: Resampling, pair: Pair, threads: int) -> Flips:
    """The two-by-two of every layer and method, over all readable records of a pair."""
    found = reader.answers(pair)
    negative = _share_of(found.negative_flips, found.readable)
    rate, patients = estimated_of(by_record, negative)
    moved = [(place, moved_everywhere(reader, pair, *place, threads)) for place in reader.plan.layer_methods]
    return Flips(
        n=int(found.readable.sum()),
        n_patients=patients,
        flipped=int((found.readable & ~found.same).sum()),
        negative=int(found.negative_flips.sum()) if reader.labelled else None,
        positive=int(found.positive_flips.sum()) if reader.labelled else None,
        negative_flip_rate=rate if reader.labelled else None,
        tables=[_table(reader, by_record, found, *place, of_place) for place, of_place in moved],
    )


def _table(reader: Reader, by_record: Resampling, found: Answers, layer: str, method: str, moved: Moved) -> FlipTable:
    there = found.readable & reader.with_maps(method)
    known = there & moved.known
    rate, patients = estimated_of(by_record, _share_of(moved.moved, known & found.same))
    return FlipTable(
        layer=layer,
        method=method,
        threshold=moved.threshold,
        same_still=int((known & found.same & ~moved.moved).sum()),
        same_moved=int((known & found.same & moved.moved).sum()),
        flipped_still=int((known & ~found.same & ~moved.moved).sum()),
        flipped_moved=int((known & ~found.same & moved.moved).sum()),
        unknown=int((there & ~known).sum()),
        moved_unseen_rate=rate,
        n_patients=patients,
    )


def _share_of(what: np.ndarray, among: np.ndarray) -> np.ndarray:
    """(R,) 1 or 0 among some of the records, NaN elsewhere."""
    return np.where(among, what.astype(np.float64), np.nan)

"""Which records of a pair moved under one layer and method, by the stored scores."""

from __future__ import annotations

import numpy as np

from harness.results.plan import Pair
from harness.results.reader import Reader, Reference, tasks
from harness.results.vocabulary import BUILT_IN, HEADLINE
from harness.statistics.moved import Moved, moved_beyond


def moved_records(reader: Reader, pair: Pair, layer: str, method: str) -> Moved:
    """`moved_beyond` of the headline metric over all records (R,); one that is not compared is not known.

    The noise is pooled over the compared records and both checkpoints. Its scores are means over the draws of the
    noise, as they are stored.
    """
    sides = (reader.plan.place(pair.before), reader.plan.place(pair.after))
    here = [
        (number, task) for number, task in enumerate(tasks(reader.plan)) if (task.layer, task.method) == (layer, method)
    ]
    observed = next(number for number, task in here if task.pair == pair)
    noise = [number for number, task in here if task.kind == "jitter" and task.before in sides]
    values, compared = _headline(reader, observed, "observed")
    jitter = np.array([_headline(reader, number, "jitter")[0][compared] for number in noise])
    return moved_beyond(values, jitter, BUILT_IN.direction_of(HEADLINE))


def _headline(reader: Reader, number: int, reference: Reference) -> tuple[np.ndarray, np.ndarray]:
    """(values (R,), compared (R,)) of the headline metric of a task."""
    scores = reader.scores(number, reference, [HEADLINE])
    return scores.values[:, 0], scores.compared

"""The stability index: where a mean lies between what chance gives and what the noise floor leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.statistics.bootstrap import (
    NAN,
    NO_IMAGES,
    Resampling,
    as_columns,
    interval,
    mean,
)

FLOOR_NOT_SEPARATED = "floor_not_separated"
NO_DRIFT = 0.90  # an index whose interval lies below this one has shown drift


@dataclass(frozen=True)
class Index:
    """A stability index with its 95 % interval, NaN with a reason where it cannot be given.

    `observed`, `chance` and `floor` are the means over the `n` images on which all three are defined.
    """

    value: float
    low: float
    high: float
    reason: str | None
    n: int
    n_patients: int
    observed: float
    chance: float
    floor: float


def stability_index(
    resampling: Resampling, observed: np.ndarray, chance: np.ndarray, floor: np.ndarray, directions: Sequence[int]
) -> list[Index]:
    """Where the observed mean stands between chance (0) and the floor (1): (o - c) / (f - c) for each column.

    All three means run over the images on which all three are defined, and over the same draws of patients. The
    index is undefined (`floor_not_separated`) unless the 95 % interval of direction * (f - c) lies above 0, and
    (`few_patients`) below 20 patients.

    :param observed, chance, floor: (n, C) values of each image, NaN where undefined.
    :param directions: (C,) +1 where a high value is stable, -1 where a low one is.
    """
    observed, chance, floor = (as_columns(values, resampling.images) for values in (observed, chance, floor))
    complete = np.isfinite(observed) & np.isfinite(chance) & np.isfinite(floor)
    observed, chance, floor = (np.where(complete, values, np.nan) for values in (observed, chance, floor))
    sums = resampling.sums(np.hstack([observed - chance, floor - chance]))
    patients, draws = sums.n_patients, resampling.means_of([sums])[0].reshape(resampling.resamples, 2, -1)
    return [
        _index(
            draws[:, :, c],
            int(patients[c]),
            directions[c],
            [mean(v[:, c], resampling.weights) for v in (observed, chance, floor)],
            n,
        )
        for c, n in enumerate(complete.sum(axis=0).tolist())
    ]


def _index(draws: np.ndarray, n_patients: int, direction: int, means: Sequence[float], n: int) -> Index:
    """`draws` (R, 2): means of o - c and of f - c; `means`: of o, c and f over the `n` complete images."""
    observed, chance, floor = means
    gained, possible = draws.T
    separation = interval(direction * possible, n_patients)
    reason = NO_IMAGES if n == 0 else separation.reason or (None if separation.low > 0 else FLOOR_NOT_SEPARATED)
    if reason:
        return Index(NAN, NAN, NAN, reason, n, n_patients, observed, chance, floor)
    with np.errstate(divide="ignore", invalid="ignore"):  # a single draw may put the floor exactly at chance
        ends = interval(gained / possible, n_patients)
    value = (observed - chance) / (floor - chance)
    return Index(value, ends.low, ends.high, None, n, n_patients, observed, chance, floor)

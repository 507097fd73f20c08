"""Means with intervals that respect patients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
MIN_PATIENTS = 20
_CHUNK = 500  # resamples drawn at a time: bounds memory at _CHUNK x patients


@dataclass(frozen=True)
class Interval:
    """A 95 % interval; both ends NaN, with a reason, where it cannot be given."""

    low: float
    high: float
    reason: str | None = None


def patient_bootstrap(values: np.ndarray, groups: np.ndarray, seed: int, resamples: int = RESAMPLES) -> list[Interval]:
    """95 % percentile interval of each column's mean over defined values, resampling patients with replacement.

    The mean is a ratio of sums, theta = sum_p s_p / sum_p c_p with s_p the sum and c_p the number of the defined
    values of patient p; a resample draws as many patients as there are, and patients stay whole. Every column is
    resampled with the same draws.

    :param values: (n, columns), NaN where undefined.
    :param groups: (n,) patient of each row.
    :returns: one Interval per column, with the reason `few_patients` below 20 patients with a defined value.

    Source: Cameron, Gelbach & Miller 2008, doi:10.1162/rest.90.3.414 (pairs cluster bootstrap).
    """
    sums, counts = per_patient(values, groups)
    ratios = _resampled_means(sums, counts, seed, resamples)
    return [_interval(ratios[:, column], counts[:, column]) for column in range(values.shape[1])]


def per_patient(values: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(sums, counts) of the defined values of each patient, both (patients, columns)."""
    names, patient = np.unique(groups, return_inverse=True)
    defined = np.isfinite(values)
    sums = np.zeros((len(names), values.shape[1]))
    counts = np.zeros_like(sums)
    np.add.at(sums, patient, np.where(defined, values, 0.0))
    np.add.at(counts, patient, defined)
    return sums, counts


def _resampled_means(sums: np.ndarray, counts: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """(resamples, columns) means; the number of times that a patient is drawn is multinomial."""
    rng = np.random.default_rng(seed)
    patients = len(sums)
    equal = np.full(patients, 1.0 / patients)
    means = np.empty((resamples, sums.shape[1]))
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        drawn = rng.multinomial(patients, equal, size=size).astype(np.float64)  # (size, patients)
        with np.errstate(invalid="ignore"):
            means[start : start + size] = (drawn @ sums) / (drawn @ counts)
    return means


def _interval(means: np.ndarray, counts: np.ndarray) -> Interval:
    if np.count_nonzero(counts) < MIN_PATIENTS:
        return Interval(float("nan"), float("nan"), "few_patients")
    low, high = np.nanpercentile(means, [2.5, 97.5])
    return Interval(float(low), float(high))

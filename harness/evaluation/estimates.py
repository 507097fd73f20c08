"""From values and draws of patients to estimates: a mean, its interval, and why there is none."""

from __future__ import annotations

import numpy as np

from harness.results.schema import Estimate
from harness.statistics.bootstrap import Resampling, interval, mean


def estimated(resampling: Resampling, values: np.ndarray) -> Estimate:
    """The mean of the defined values (n,) with its interval over patients."""
    return estimated_of(resampling, values)[0]


def estimated_of(resampling: Resampling, values: np.ndarray) -> tuple[Estimate, int]:
    """As `estimated`, and of how many patients the values are."""
    sums = resampling.sums(values[:, None])
    patients = int(sums.n_patients[0])
    return of_draws(values, resampling.means_of([sums])[0][:, 0], patients, resampling.weights), patients


def of_draws(values: np.ndarray, draws: np.ndarray, patients: int, weights: np.ndarray | None = None) -> Estimate:
    """The mean of the defined values (n,), with the interval of its draws (resamples,)."""
    ends = interval(draws, patients)
    return Estimate(mean=mean(values, weights), low=ends.low, high=ends.high, reason=ends.reason)

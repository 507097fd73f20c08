"""Tests: sign-flip permutation of whole patients, Holm's adjustment, equivalence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.common.errors import InputError
from harness.statistics.bootstrap import (
    NAN,
    ROUNDING,
    PatientSums,
    as_columns,
    blocked_product,
    chunks,
    interval,
    patient_codes,
    per_patient,
)

FLIPS = 10_000


@dataclass(frozen=True)
class Equivalence:
    """Outcome of two one-sided tests at 5 %, with the 90 % interval that shows the same."""

    low90: float
    high90: float
    p: float
    equivalent: bool
    reason: str | None


def sign_flip(differences: np.ndarray, groups: Sequence[str] | np.ndarray, seed: int, flips: int = FLIPS) -> np.ndarray:
    """(C,) two-sided permutation p values of a mean difference of 0, flipping whole patients.

    If the difference of a patient is as likely to be d as -d, every pattern of signs is equally likely:
    p = (1 + b) / (1 + B), b = number of the B random patterns with |mean| at least as large as the observed one.
    Means that differ by rounding only count as equal. The number of images is the same in every pattern, so sums
    are compared. All columns share the patterns of signs. NaN for fewer than two patients with a difference.

    :param differences: (n, C) difference of each image, NaN where undefined.
    :param groups: (n,) patient of each image.

    Source: Phipson & Smyth 2010, doi:10.2202/1544-6115.1585 (the 1 that is added to both counts).
    """
    patient = patient_codes(groups)
    return sign_flip_of(
        per_patient(as_columns(differences, len(patient)), patient, int(patient.max()) + 1), seed, flips
    )


def sign_flip_of(table: PatientSums, seed: int, flips: int = FLIPS) -> np.ndarray:
    """`sign_flip` of differences of which only the sums over patients are known."""
    as_extreme = _count_as_extreme(table.sums, seed, flips)
    return np.where(table.n_patients < 2, np.nan, (1 + as_extreme) / (1 + flips))


def _count_as_extreme(sums: np.ndarray, seed: int, flips: int) -> np.ndarray:
    """(C,) how many random patterns of signs give a |sum| that is not below the observed one."""
    patients = len(sums)
    observed = sums.sum(axis=0)
    least = np.abs(observed) - ROUNDING * np.abs(sums).sum(axis=0)
    rng = np.random.default_rng(seed)
    count = np.zeros(sums.shape[1], dtype=np.int64)
    for rows in chunks(flips, patients):
        random = rng.integers(0, 256, (rows.stop - rows.start, -(-patients // 8)), dtype=np.uint8)
        flipped = np.unpackbits(random, axis=1, count=patients).astype(np.float64)  # (r, patients), 1 = flipped
        count += np.count_nonzero(np.abs(observed - 2 * blocked_product(flipped, sums)) >= least, axis=0)
    return count


def holm(p: np.ndarray) -> np.ndarray:
    """Adjusted p values (m,) of a family of m tests: max over j <= i of min(1, (m - j) p_(j)), j from 0.

    NaN stays NaN and does not count in the family. Source: Holm 1979, Scand. J. Statist. 6, 65-70.
    """
    p = np.asarray(p, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(p))
    ascending = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(len(ascending), 0, -1)
    adjusted = np.full(p.shape, np.nan)
    adjusted[ascending] = np.maximum.accumulate(np.minimum(1.0, factors * p[ascending]))
    return adjusted


def equivalence(distribution: np.ndarray, margin: float, n_patients: int) -> Equivalence:
    """Two one-sided bootstrap tests at 5 % that a difference lies within (-margin, margin).

    p = max((1 + #{d <= -margin}) / (1 + R), (1 + #{d >= margin}) / (1 + R)); equivalent where the 90 % interval lies
    inside the margins. NaN draws are left out. Below 20 patients nothing is shown, reason `few_patients`.

    :param distribution: (R,) bootstrap distribution of the difference.
    :raises InputError: for a margin that is not above 0.

    Source: Schuirmann 1987, doi:10.1007/BF01068419.
    """
    if not margin > 0:
        raise InputError(f"the equivalence margin is {margin}: give a number above 0")
    ends = interval(distribution, n_patients, level=0.90)
    if ends.reason:
        return Equivalence(ends.low, ends.high, NAN, False, ends.reason)
    defined = distribution[~np.isnan(distribution)]
    beyond = max(np.count_nonzero(defined <= -margin), np.count_nonzero(defined >= margin))
    inside = -margin < ends.low and ends.high < margin
    return Equivalence(ends.low, ends.high, (1 + beyond) / (1 + len(defined)), inside, None)

"""What a comparison would have shown: the smallest drop of the stability index that as many patients reveal."""

from __future__ import annotations

from statistics import NormalDist

from harness.statistics.stability import NO_DRIFT

POWER = 0.80
_TWO_SIDED, _POWER = NormalDist().inv_cdf(0.975), NormalDist().inv_cdf(POWER)  # 1.96 and 0.84


def smallest_shown(low: float, high: float) -> float:
    """The distance from a bound that is shown with 80 % power, from the 95 % interval of an estimate.

    With the standard error s = (high - low) / (2 z_975), taken to be the same at other values, and estimates that vary
    normally, a value at distance d is shown to lie beyond the bound with probability Phi(d / s - z_975); it is 80 % at
    d = (z_975 + z_80) s. Range 0 and more.

    :raises ValueError: ends that are no interval.

    Source: Cohen 1988, Statistical Power Analysis for the Behavioral Sciences, chapter 2.
    """
    if not low <= high:
        raise ValueError(f"an interval needs low <= high, not {low!r} .. {high!r}")
    error = (high - low) / (2 * _TWO_SIDED)
    return (_TWO_SIDED + _POWER) * error


def smallest_shown_drop(low: float, high: float) -> float:
    """The drop of the index below 1 that is shown with 80 % power, from the 95 % interval that was found.

    Drift is shown where the interval lies below 0.90 (`NO_DRIFT`), so the drop is 0.10 + `smallest_shown`. Range 0.10
    and more; above 1, even maps of unrelated images would not have been told apart.

    :raises ValueError: ends that are no interval.
    """
    return 1 - NO_DRIFT + smallest_shown(low, high)

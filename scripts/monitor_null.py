"""How often does the nightly monitor raise a false alarm, and how soon a right one? The tables of docs/deploy.md.

    python -m scripts.monitor_null [STREAMS]

A stream is a reference of 300 pictures, drawn anew for each, and a year of nights with 30 pictures each. A picture has
16 statistics: twelve that vary normally, each pair of them correlated by 0.6, and four of this kind that are rounded to
five levels, as probabilities that saturate nearly are. Ranks do not know of any other difference in distribution.

The first table counts streams without a change in which any statistic raised an alarm in any night (standard error of
5 % over 1,000 streams: 0.7 points), and beside it what ranks among the reference alone would have done with the same
bets and the same threshold: they find out, some day, that 300 pictures are not the population. The second plants a
shift of one statistic, by so many of its standard deviations, in the first, 31st or 181st night: nights to the alarm,
the first shifted one counted as 1, as median (90 % quantile) over 200 streams, and the share that has one in the year.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from tabulate import tabulate

from harness.statistics.conformal import conformal_p, log_wealth, threshold

REFERENCE, PICTURES, NIGHTS = 300, 30, 365
STATISTICS, ROUNDED, CORRELATION = 16, 4, 0.6
SHIFTS, BEGINNINGS, DELAYS = (0.1, 0.2, 0.3, 0.5, 1.0, 2.0), (0, 30, 180), 200
_NIGHTS = np.repeat(np.arange(NIGHTS), PICTURES)


def pictures(rng: np.random.Generator, statistics: int = STATISTICS) -> np.ndarray:
    """(reference + pictures of a year, statistics) of a stream without a change."""
    count = REFERENCE + PICTURES * NIGHTS
    shared = rng.normal(0, np.sqrt(CORRELATION), (count, 1))
    found = shared + rng.normal(0, np.sqrt(1 - CORRELATION), (count, statistics))
    found[:, STATISTICS - ROUNDED :] = np.clip(np.round(found[:, STATISTICS - ROUNDED :]), -2, 2)
    return found


def among_reference(values: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """What `conformal_p` would be without what came before: ranks among the reference and oneself."""
    ordered, new = np.sort(values[:REFERENCE]), values[REFERENCE:]
    low, high = np.searchsorted(ordered, new), np.searchsorted(ordered, new, "right")
    return (low + ties * (1 + high - low)) / (REFERENCE + 1)


def false_alarm(seed: int) -> tuple[bool, bool]:
    """Whether a stream without a change raises an alarm: by the monitor's ranks, and by those among the reference."""
    rng = np.random.default_rng([seed, 1])
    found, limit = pictures(rng), threshold(STATISTICS)
    ours = reference_alone = False
    for column in found.T:
        ties = rng.uniform(size=len(column) - REFERENCE)
        ours |= bool(log_wealth(conformal_p(column, REFERENCE, ties), _NIGHTS).max() >= limit)
        if seed < DELAYS:
            reference_alone |= bool(log_wealth(among_reference(column, ties), _NIGHTS).max() >= limit)
    return ours, reference_alone


def delay(job: tuple[float, int, int]) -> float:
    """Nights from the first shifted one to the alarm, counted from 1; infinite where a year has none."""
    shift, begins, seed = job
    rng = np.random.default_rng([seed, begins, round(100 * shift)])
    values = pictures(rng, 1)[:, 0]
    values[REFERENCE + PICTURES * begins :] += shift
    wealth = log_wealth(conformal_p(values, REFERENCE, rng.uniform(size=len(_NIGHTS))), _NIGHTS)
    alarms = _NIGHTS[wealth >= threshold(STATISTICS)]
    return np.inf if not len(alarms) or alarms[0] < begins else float(alarms[0] - begins + 1)


def quantile(delays: np.ndarray, share: float) -> str:
    """A quantile of delays, some of them infinite."""
    found = np.quantile(delays, share, method="inverted_cdf")
    return "none" if np.isinf(found) else f"{found:.0f}"


def delay_rows(found: Iterable[float]) -> list[list[str]]:
    delays = np.array(list(found)).reshape(len(SHIFTS), len(BEGINNINGS), DELAYS)
    rows = []
    for shift, of_shift in zip(SHIFTS, delays, strict=True):
        cells = [f"{quantile(of, 0.5)} ({quantile(of, 0.9)}); {np.isfinite(of).mean():.0%}" for of in of_shift]
        rows.append([f"{shift:g}", *cells])
    return rows


def main(streams: int) -> None:
    jobs = [(shift, begins, seed) for shift in SHIFTS for begins in BEGINNINGS for seed in range(DELAYS)]
    with ProcessPoolExecutor() as pool:
        ours, alone = zip(*pool.map(false_alarm, range(streams), chunksize=5), strict=True)
        delays = delay_rows(pool.map(delay, jobs, chunksize=20))
    compared = min(streams, DELAYS)
    rows = [
        ["reference and all that came before (the monitor)", streams, f"{np.mean(ours):.1%}"],
        ["reference alone", compared, f"{np.sum(alone) / compared:.0%}"],
    ]
    print(tabulate(rows, ["ranks among", "streams", "with a false alarm in a year"], tablefmt="github"))
    heads = ["shift (sd)", *(f"from night {begins + 1}" for begins in BEGINNINGS)]
    print("\n" + tabulate(delays, heads, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)

"""From the pictures that were measured to evidence, alarms and trends: a pure function of the state."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.monitoring.pictures import Kind
from harness.monitoring.state import REFERENCE, GoldenCases, Record, State
from harness.results.schema import Number, finite_or_none
from harness.statistics.conformal import conformal_p, log_wealth, threshold

LEAST_REFERENCE = 20  # pictures


class Spread(Record):
    """Quartiles and mean of some pictures; null where there is none."""

    n: int
    mean: Number
    q25: Number
    median: Number
    q75: Number


class StatisticNight(Record):
    """One statistic in one night.

    log10_e: evidence against "as the reference" after the night, as the decimal logarithm of the martingale's wealth;
    log10_e_highest: the highest so far, at any picture; alarm: whether that has ever reached the threshold
    """

    name: str
    kind: Kind
    tonight: Spread
    reference: Spread
    log10_e: float
    log10_e_highest: float
    alarm: bool


class NightReport(Record):
    """A line of `nights.jsonl`.

    given: pictures in the data; seen: already seen before; unreadable; tested: new, one per patient; repeated: new, of
    a patient of whom a picture was tested
    """

    format: Literal[1] = 1
    night: str
    time: str
    given: int
    seen: int
    unreadable: int
    tested: int
    repeated: int
    alarms: list[str]
    log10_threshold: float
    model: str
    reference: str
    provider: str
    runtime: str
    statistics: list[StatisticNight]


@dataclass(frozen=True)
class History:
    """All nights, and how the golden cases went, where they were given."""

    nights: list[NightReport]
    golden: GoldenCases | None
    alpha: float
    since: dict[str, str]  # statistic in alarm -> the night in which it began

    @property
    def alarms(self) -> list[str]:
        """Statistics in alarm; an alarm stays."""
        return list(self.since)

    @property
    def exit_code(self) -> int:
        """1 where a statistic is in alarm or a golden case failed, else 0."""
        return int(bool(self.since) or (self.golden is not None and not self.golden.passed))


@dataclass(frozen=True)
class _Course:
    """One statistic: values and nights of the tested pictures that have it, and its evidence by night."""

    values: np.ndarray
    nights: np.ndarray
    ends: np.ndarray  # (nights,) natural logarithm of the wealth at the end of each
    highest: np.ndarray  # (nights,)


def history(state: State) -> History:
    """What the state says, night by night."""
    statistics = state.identity.watched.statistics
    tested = [picture for picture in state.pictures if picture.values]
    table = np.array([picture.values for picture in tested], np.float64).reshape(len(tested), len(statistics))
    nights, digests = np.array([picture.night for picture in tested]), [picture.digest for picture in tested]
    courses = [_course(table[:, n], nights, digests, item.name, len(state.nights)) for n, item in enumerate(statistics)]
    limit = threshold(len(statistics), state.identity.alpha)
    reports = [_report(state, courses, number, limit) for number in range(len(state.nights))]
    since = {
        item.name: state.nights[int(np.argmax(course.highest >= limit))].night
        for item, course in zip(statistics, courses, strict=True)
        if (course.highest >= limit).any()
    }
    return History(reports, state.golden, state.identity.alpha, since)


def _course(column: np.ndarray, nights: np.ndarray, digests: list[str], name: str, count: int) -> _Course:
    there = np.isfinite(column)
    values, own = column[there], nights[there]
    reference = int((own == REFERENCE).sum())
    wealth = np.zeros(0)
    if reference:
        ties = np.array([tie_breaker(name, digests[n]) for n in np.flatnonzero(there)[reference:]])
        wealth = log_wealth(conformal_p(values, reference, ties), own[reference:])
    else:  # nothing to compare with: no evidence
        values, own = values[:0], own[:0]
    last = np.searchsorted(own[reference:], np.arange(count), "right")  # pictures up to the end of each night
    running = np.maximum.accumulate(np.concatenate([[0.0], wealth]))
    return _Course(values, own, np.concatenate([[0.0], wealth])[last], running[last])


def tie_breaker(statistic: str, digest: str) -> float:
    """A number in (0, 1) that a picture has once and for all, so that a repeated night gives the same numbers."""
    drawn = hashlib.sha256(f"{statistic}\0{digest}".encode()).digest()
    return (int.from_bytes(drawn[:6], "big") + 0.5) / 2**48


def _report(state: State, courses: list[_Course], number: int, limit: float) -> NightReport:
    night, identity = state.nights[number], state.identity
    mine = [picture for picture in state.pictures if picture.night == number]
    found = [
        StatisticNight(
            name=item.name,
            kind=item.kind,
            tonight=_spread(course.values[course.nights == number]),
            reference=_spread(course.values[course.nights == REFERENCE]),
            log10_e=_log10(course.ends[number]),
            log10_e_highest=_log10(course.highest[number]),
            alarm=bool(course.highest[number] >= limit),
        )
        for item, course in zip(identity.watched.statistics, courses, strict=True)
    ]
    tested = sum(bool(picture.values) for picture in mine)
    return NightReport(
        **night.model_dump(),
        tested=tested,
        repeated=len(mine) - tested,
        alarms=[item.name for item in found if item.alarm],
        log10_threshold=_log10(limit),
        model=identity.model,
        reference=identity.reference,
        provider=identity.provider,
        statistics=found,
    )


def _spread(values: np.ndarray) -> Spread:
    if not len(values):
        return Spread(n=0, mean=None, q25=None, median=None, q75=None)
    q25, median, q75 = (finite_or_none(float(end)) for end in np.quantile(values, [0.25, 0.5, 0.75]))
    return Spread(n=len(values), mean=float(values.mean()), q25=q25, median=median, q75=q75)


def _log10(value: float) -> float:
    return float(value) / math.log(10)

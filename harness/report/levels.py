"""Words for an index and its interval: what is shown, on which floor it stands, and what could not have been shown.

A convention for readers, not a test: a gate has bounds of its own. A word is said only where the whole interval lies
in it; an interval over several steps names the first and the last. So no word is stronger than the data, and none is
without its floor: an index beside noise and one beside a change of seed cannot be compared.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.common.formatting import count, number
from harness.results.schema import IndexResult
from harness.statistics.power import smallest_shown_drop
from harness.statistics.stability import NO_DRIFT

BEYOND = {"jitter": "beyond noise", "replicate": "beyond a change of seed"}


@dataclass(frozen=True)
class Step:
    """A word for an index of at least `least`; `key` names it in style sheets."""

    key: str
    least: float
    word: str


STEPS = (
    Step("none", NO_DRIFT, "no"),
    Step("slight", 0.75, "slight"),
    Step("moderate", 0.50, "moderate"),
    Step("strong", 0.25, "strong"),
    Step("severe", float("-inf"), "severe"),
)


@dataclass(frozen=True)
class Level:
    """What can be said of a pair in a few words. `key`: of the least drift that is shown; `order`: mildest first."""

    key: str
    words: str
    order: int = -1


UNKNOWN = Level("unknown", "Not judged")
SAME_MODEL = Level("same", "Nothing compared")  # before and after are one model
SAME_MAPS = Level("same", "Identical maps")  # though before and after are two models


def level_of(index: IndexResult | None, floor: str | None) -> Level:
    """The words for an index by its interval, rounded as it is shown; UNKNOWN where there is none.

    low >= 0.90: drift is excluded; high >= 0.90: none is shown; else at least the step of `high` is.
    """
    if index is None or index.value is None or index.low is None or index.high is None or floor is None:
        return UNKNOWN
    least, most = _step(index.high), _step(index.low)
    if most == 0:
        return Level("none", f"No drift {BEYOND[floor]}", 0)
    if least == 0:
        return Level("uncertain", f"No drift shown {BEYOND[floor]}", 1)
    words = STEPS[least].word if least == most else f"{STEPS[least].word} to {STEPS[most].word}"
    return Level(STEPS[least].key, f"{words.capitalize()} drift {BEYOND[floor]}", 10 * least + most)


def power_beside(level: Level, index: IndexResult | None) -> str | None:
    """`power` where no drift was found or shown, which does not say that there is none."""
    return power(index) if level.key in ("none", "uncertain") and index is not None else None


def power(index: IndexResult) -> str:
    """What as many patients would have shown; for an index with an interval."""
    assert index.low is not None
    assert index.high is not None
    drop = smallest_shown_drop(index.low, index.high)
    patients = count(index.n_patients, "patient")
    if drop >= 1:
        return f"With 80 % power, {patients} would not even have shown maps like those of unrelated images"
    to = f"a drop of {number(drop, 2)}, to an index of {number(1 - drop, 2)}"
    return f"With 80 % power, {patients} would have shown {to}"


def _step(value: float) -> int:
    """The place of its step; the number counts as it is shown, with two decimals."""
    return next(place for place, step in enumerate(STEPS) if round(value, 2) >= step.least)

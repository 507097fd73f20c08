"""What a report says as data: rows of ratios from a run of pytest-benchmark, and where and how they were measured."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from benchmarks.timing import OURS
from harness.common.errors import InputError, first_line

Turns = dict[int, float]  # seconds per item, by turn
SCATTER = 1.25  # largest ratio over the smallest: turns that lie farther apart are no measurement


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(_Record):
    """One comparison: seconds per item (image, map, pair, start) of ours and of a rival.

    ratio: how many times faster ours is, the median over turns of the ratio within a turn
    wanted: the least ratio that the project claims, where it claims one
    spread: the largest ratio of a turn over the smallest
    """

    suite: str
    what: str
    rival: str
    ours: float
    theirs: float
    ratio: float
    wanted: float | None = None
    spread: float = 1.0

    @property
    def key(self) -> tuple[str, str, str]:
        return self.suite, self.what, self.rival

    @property
    def is_short(self) -> bool:
        """True where the ratio is not what is claimed."""
        return self.wanted is not None and not self.ratio >= self.wanted

    @property
    def scatters(self) -> bool:
        """True where the turns disagree."""
        return not self.spread <= SCATTER

    def __str__(self) -> str:
        return f"{self.suite}: {self.what}, against {self.rival}"


class Machine(_Record):
    """The kind of machine; reports of two kinds are not compared. `memory` in GiB is for information."""

    cpu: str
    cores: int
    memory: float

    @property
    def kind(self) -> tuple[str, int]:
        return self.cpu, self.cores

    def __str__(self) -> str:
        return f"{self.cpu}, {self.cores} cores"


class Report(_Record):
    """A report.

    load: the machine's load average (one minute) before the first and after the last suite
    elsewhere: per suite, the share 0..1 of the processors' time that other programs took, where the system tells
    note: a sentence by whoever made the report
    parts: of `evaluate`, per network: seconds by part
    """

    format: Literal[1] = 1
    machine: Machine
    versions: dict[str, str]
    git_commit: str | None
    command: str
    load: tuple[float, float]
    minutes: float
    rows: list[Row]
    elsewhere: dict[str, float | None] = {}
    note: str = ""
    parts: dict[str, dict[str, float]] = {}

    @classmethod
    def read(cls, path: Path) -> Report:
        """A stored report.

        :raises InputError: the file cannot be read, or is no report.
        """
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); give the JSON of a report") from None
        except (ValidationError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path}: not the JSON of a benchmark report ({first_line(error)}); write one with --json"
            ) from None


def rows_of(suite: str, result: dict[str, Any]) -> list[Row]:
    """One row per case and rival, in their order, from the JSON of pytest-benchmark; behind them those of limits.

    A limit is a time that a contender itself tells after its turn: `(what, limit, seconds per item, wanted)`.
    """
    cases: dict[str, dict[str, Turns]] = defaultdict(lambda: defaultdict(dict))
    limits: dict[tuple[str, str], tuple[Turns, Turns]] = defaultdict(lambda: ({}, {}))
    wanted = {}
    for entry in result["benchmarks"]:
        about = entry["extra_info"]
        seconds, turn = entry["stats"]["min"] / about["items"], about["turn"]
        cases[entry["group"]][about["contender"]][turn] = seconds
        wanted[entry["group"], about["contender"]] = about["wanted"]
        for what, limit, allowed, least in about.get("limits", ()):
            limits[what, limit][0][turn], limits[what, limit][1][turn] = seconds, allowed
            wanted[what, limit] = least
    rows = [
        _row((suite, case, rival), contenders[OURS], turns, wanted[case, rival])
        for case, contenders in cases.items()
        for rival, turns in contenders.items()
        if rival != OURS
    ]
    return rows + [_row((suite, *name), *turns, wanted[name]) for name, turns in limits.items()]


def _row(key: tuple[str, str, str], ours: Turns, theirs: Turns, wanted: float | None) -> Row:
    ratios = [theirs[turn] / ours[turn] for turn in ours]
    middle = [float(np.median(list(turns.values()))) for turns in (ours, theirs)]
    suite, what, rival = key
    return Row(
        suite=suite, what=what, rival=rival, ours=middle[0], theirs=middle[1],
        ratio=float(np.median(ratios)), wanted=wanted, spread=float(np.max(ratios) / np.min(ratios)),
    )  # fmt: skip


def parts_of(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Case -> seconds by part, of the last turn that tells them."""
    entries = [entry for entry in result["benchmarks"] if "parts" in entry["extra_info"]]
    return {entry["group"]: entry["extra_info"]["parts"] for entry in entries}

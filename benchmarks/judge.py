"""Is a report worse than a stored one? Ratios are compared, so that a machine of the same kind will do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.rows import Machine, Report, Row
from harness.common.errors import InputError


@dataclass(frozen=True)
class Judgement:
    """worse: (stored, fresh) rows whose ratio fell; gone, new: rows without a counterpart."""

    worse: list[tuple[Row, Row]]
    gone: list[Row]
    new: list[Row]
    compared: int

    def lines(self) -> list[str]:
        """What to print, worst news first."""
        return [
            *(f"slower: {new}: ratio {new.ratio:.2f}, stored {old.ratio:.2f}" for old, new in self.worse),
            *(f"not measured any more: {row}" for row in self.gone),
            *(f"not stored yet: {row}" for row in self.new),
            f"{self.compared} ratios compared, {len(self.worse)} fell",
        ]


def require_same_machine(stored: Report, here: Machine) -> None:
    """Raise InputError where the stored report was made on another kind of machine."""
    if stored.machine.kind != here.kind:
        raise InputError(
            f"the stored report was made on another machine ({stored.machine}) than this one ({here}); "
            "store a report of this machine with --json and compare with that"
        )


def judge(stored: Report, fresh: Report, tolerance: float, suites: Sequence[str]) -> Judgement:
    """Compare the rows of the suites that were run.

    A row is worse where its ratio is not at least `tolerance` times the stored one, which NaN is not either.

    :raises InputError: the two were made on different kinds of machine.
    """
    require_same_machine(stored, fresh.machine)
    before = {row.key: row for row in stored.rows if row.suite in suites}
    after = {row.key: row for row in fresh.rows}
    both = [(before[key], after[key]) for key in before if key in after]
    return Judgement(
        worse=[(old, new) for old, new in both if not new.ratio >= tolerance * old.ratio],
        gone=[row for key, row in before.items() if key not in after],
        new=[row for key, row in after.items() if key not in before],
        compared=len(both),
    )

"""Progress of long work as a callback, so that the library draws nothing by itself."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""progress(step, done, total): `step` says what is done to what is counted, such as `explain images`."""

Advance = Callable[[int], None]
"""advance(number): so many more items are done."""

Announce = Callable[[str], None]
"""announce(sentence): what dear work will cost, before it starts."""


def silent(step: str, done: int, total: int) -> None:
    """Progress that is shown nowhere."""


def quiet(sentence: str) -> None:
    """An announcement that goes nowhere."""


class Counter:
    """The progress of one step, counted up."""

    def __init__(self, progress: Progress, step: str, total: int) -> None:
        self._progress, self._step, self._total = progress, step, total
        self._done = 0
        progress(step, 0, total)

    def add(self, number: int = 1) -> None:
        """Count `number` more of the step's items as done."""
        self._done += number
        self._progress(self._step, self._done, self._total)

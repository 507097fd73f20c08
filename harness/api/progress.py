"""Progress bars on stderr: what is shown where the caller brings no progress callback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from harness.common.formatting import one_line
from harness.common.progress import Announce, Progress, quiet, silent


@contextmanager
def shown(progress: Progress | bool | None) -> Iterator[Progress]:
    """The callback to work with: `progress` itself, bars for None and True, nothing for False."""
    if progress is False:
        yield silent
    elif callable(progress):
        yield progress
    else:
        bars = Bars()
        try:
            yield bars
        finally:
            bars.close()


def announcer(progress: Progress | bool | None) -> Announce:
    """Where sentences about coming work go: to stderr, nowhere where no progress is wanted."""
    return quiet if progress is False else lambda sentence: print(one_line(sentence), file=sys.stderr)


class Bars:
    """One bar per step with rate and time left; into a log file a line every ten seconds at most."""

    def __init__(self) -> None:
        self._step = ""
        self._bar: tqdm | None = None

    def __call__(self, step: str, done: int, total: int) -> None:
        if not total:
            return
        if self._bar is None or step != self._step:
            self.close()
            self._bar, self._step = _bar(step, total), step
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """End the bar that is shown."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None


def _bar(step: str, total: int) -> tqdm:
    verb, _, counted = step.partition(" ")
    unit = counted.removesuffix("ies") + "y" if counted.endswith("ies") else counted.removesuffix("s")
    interval = 0.1 if sys.stderr.isatty() else 10
    return tqdm(total=total, desc=verb, unit=unit, file=sys.stderr, mininterval=interval)

"""What other programs took of the processors while something ran: a ratio from a busy machine is worth less."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")
IDLE = (3, 4)  # columns of /proc/stat behind the name: idle, waiting for a disk


@dataclass(frozen=True)
class Moment:
    """Seconds since some start: by the clock, of all processors busy (None where it is not told), of our children."""

    clock: float
    busy: float | None
    ours: float

    @classmethod
    def now(cls) -> Moment:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return cls(time.monotonic(), _busy(), used.ru_utime + used.ru_stime)


def elsewhere(start: Moment, end: Moment, cores: int) -> float | None:
    """Share 0..1 of the processors' time that went to other programs than our children, which have ended."""
    if start.busy is None or end.busy is None:
        return None
    others = (end.busy - start.busy) - (end.ours - start.ours)
    return round(min(max(others / (cores * (end.clock - start.clock)), 0.0), 1.0), 3)


def _busy() -> float | None:
    try:
        ticks = [int(word) for word in STAT.read_text().splitlines()[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    return (sum(ticks) - sum(ticks[place] for place in IDLE)) / os.sysconf("SC_CLK_TCK")

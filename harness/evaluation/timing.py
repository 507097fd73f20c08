"""How long some work takes, to say what much of it will take."""

from __future__ import annotations

import time
from collections.abc import Callable


def seconds_of(work: Callable[[], object]) -> float:
    """The second time: the first prepares what the others use."""
    work()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started

"""How many CPUs there are for this process."""

from __future__ import annotations

import os


def available_cpus() -> int:
    """Those that it may run on: fewer than the machine has, where a scheduler or a container bound it to some."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

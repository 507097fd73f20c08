"""Which processes do the work: this one, or the workers of a Ray cluster, loaded only where they are asked for."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from harness.common.errors import InputError
from harness.evaluation.executors import Executor, LocalExecutor, WorkerPool


@contextmanager
def open_executor(pool: WorkerPool | None) -> Iterator[Executor]:
    """The engine for a pool of Ray workers, or without one this process.

    :raises InputError: Ray is not installed, the cluster cannot be reached, or does not hold the workers.
    """
    if pool is None:
        yield LocalExecutor()
        return
    pool = replace(pool, address=pool.address or os.environ.get("RAY_ADDRESS"))
    if pool.address is None:
        _lock()
    try:
        from harness.evaluation.ray_executor import cluster
    except ImportError:
        raise InputError("--engine ray: Ray is not installed; pip install 'evidence-drift[ray]'") from None
    with cluster(pool) as found:
        yield found


def _lock() -> None:
    """Let a cluster of our own answer to this process only: Ray listens on every network and runs what it is sent.

    Ray reads this when it is imported.
    """
    if "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", secrets.token_hex(32)

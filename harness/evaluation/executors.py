"""Who does the items of a stage: this process, or the workers of a Ray cluster. It changes no number."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from harness.common.errors import InputError
from harness.common.storage import Place
from harness.evaluation.explain import Progress, Running
from harness.evaluation.jobs import Stage


class Engine(Protocol):
    """Works on one stage after the other."""

    def running(self, asked: Running) -> Running:
        """How a worker cuts up its work."""

    def require_visible(self, where: Sequence[Place]) -> None:
        """Raise InputError where a worker cannot see a file or folder that is there for this process."""

    def begin(self, stage: Stage) -> Any:
        """Let the workers prepare a stage; returns what one of them answers."""

    def run(self, items: Sequence[Any], progress: Progress) -> Iterator[Any]:
        """Do items of the stage that was begun; their results, as they come."""


class Local:
    """One worker: this process."""

    def __init__(self) -> None:
        self._stage: Stage | None = None

    def running(self, asked: Running) -> Running:
        """As it was asked for."""
        return asked

    def require_visible(self, where: Sequence[Place]) -> None:
        """This process sees what it sees."""

    def begin(self, stage: Stage) -> Any:
        """Prepare the stage; what it answers."""
        self._stage = stage
        return stage.prepare()

    def run(self, items: Sequence[Any], progress: Progress) -> Iterator[Any]:
        """The results in the order of the items."""
        assert self._stage is not None
        for item in items:
            yield self._stage.do(item, progress)


@dataclass(frozen=True)
class Pool:
    """The workers to hire in a Ray cluster.

    address: host:port of the cluster, None for one on this machine that ends with the evaluation
    workers: None for as many as the cluster holds
    threads, gpus: CPUs and (a share of) GPUs of each
    """

    address: str | None = None
    workers: int | None = None
    threads: int = 1
    gpus: float = 0.0


@contextmanager
def opened(pool: Pool | None) -> Iterator[Engine]:
    """The engine for a pool of Ray workers, or without one this process.

    :raises InputError: Ray is not installed, the cluster cannot be reached, or does not hold the workers.
    """
    if pool is None:
        yield Local()
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

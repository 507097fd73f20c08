"""Who does the items of a job: this process, or the workers of a Ray cluster. It changes no number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from harness.common.progress import Advance
from harness.common.storage import Location
from harness.evaluation.explain import Batching
from harness.evaluation.jobs import Job


class Executor(Protocol):
    """Works on one job after the other."""

    def batching(self, asked: Batching) -> Batching:
        """How a worker cuts up its work."""

    def require_visible(self, where: Sequence[Location]) -> None:
        """Raise InputError where a worker cannot see a file or folder that is there for this process."""

    def begin(self, job: Job) -> Any:
        """Let the workers prepare a job; returns what one of them answers."""

    def run(self, items: Sequence[Any], progress: Advance) -> Iterator[Any]:
        """Do items of the job that was begun; their results, as they come."""


class LocalExecutor:
    """One worker: this process."""

    def __init__(self) -> None:
        self._job: Job | None = None

    def batching(self, asked: Batching) -> Batching:
        """As it was asked for."""
        return asked

    def require_visible(self, where: Sequence[Location]) -> None:
        """Nothing to check: the files are those of this process."""

    def begin(self, job: Job) -> Any:
        """Prepare the job; what it answers."""
        self._job = job
        return job.prepare()

    def run(self, items: Sequence[Any], progress: Advance) -> Iterator[Any]:
        """The results in the order of the items."""
        assert self._job is not None
        yield from self._job.each(items, progress)


# What is said where a cluster of our own does not come up; it can end this process without a word (see `harness.cli`).
DIED = (
    "Ray on this machine died while it started (its logs: /tmp/ray/session_latest/logs); leave --engine ray out, or "
    "start a cluster and give --address"
)


@dataclass(frozen=True)
class WorkerPool:
    """Number and size of the workers in a Ray cluster.

    address: host:port of the cluster, None for one on this machine that ends with the evaluation
    workers: None for as many as the cluster holds
    threads, gpus: CPUs and (a share of) GPUs of each
    """

    address: str | None = None
    workers: int | None = None
    threads: int = 1
    gpus: float = 0.0

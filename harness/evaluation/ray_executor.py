"""The work on a Ray cluster: the one module that knows Ray.

Workers are plain Ray actors. Each holds the graph of the current checkpoint in an ONNX Runtime session, gets one block
of images after the other, decodes them in its own threads (as many as it has CPUs, ahead of the session, exactly as
in one process) and writes the parts itself: rows and maps never pass through this process, which sees progress only.

Ray Data's actor pools were tried, too (docs/scale.md): nothing is left to stream between jobs, readers of their own
need CPUs beside the workers and hang without, and a pool lives for one dataset, so that every checkpoint would start
its processes anew. Here the workers stay, whatever a lost one did goes to whichever is free, and another is hired in
its place as soon as the cluster has room for one.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.common import storage
from harness.common.cpus import available_cpus
from harness.common.errors import CannotEvaluateError, InputError, first_line
from harness.common.progress import Advance
from harness.common.provenance import versions
from harness.common.storage import Location
from harness.evaluation.executors import DIED, WorkerPool
from harness.evaluation.explain import Batching
from harness.evaluation.jobs import Job

MAX_RETRIES = 5  # of workers over one item, until the evaluation gives up
WORKER_TIMEOUT = 300.0  # seconds without any worker, until it gives up
_SAME = ("evidence-drift", "onnxruntime-gpu", "onnxruntime", "numpy", "opencv-python-headless")  # on every node
_GONE = (TaskUnschedulableError, NodeDiedError)
_LOST = (RayActorError, WorkerCrashedError, ObjectLostError, OutOfMemoryError, NodeDiedError)


@contextmanager
def cluster(pool: WorkerPool) -> Iterator[Cluster]:
    """Connect, hire the workers, and let them and the connection go in the end.

    :raises InputError: no cluster at the address, nodes with other packages, or a pool that does not fit into it.
    :raises CannotEvaluateError: the cluster fails in a way that no other worker can mend.
    """
    _connect(pool.address)
    try:
        yield Cluster(pool)
    except RayTaskError:  # a mistake in our own code
        raise
    except RayError as error:
        raise CannotEvaluateError(
            f"the Ray cluster failed ({first_line(error)}); see to it, then run the same command with --resume"
        ) from error
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class _Assignment:
    """What a worker is busy with: an item and its number, or getting ready (None).

    begun: answered by the worker before that, never by one that has no place yet or was gone when it was asked.
    """

    worker: Any
    begun: Any
    number: int | None = None
    item: Any = None


class Cluster:
    """The engine whose workers are actors of the cluster that this process is connected to."""

    def __init__(self, pool: WorkerPool) -> None:
        self._threads, self._gpus = pool.threads, pool.gpus
        size = _capacity(pool, [node["Resources"] for node in _nodes()])
        self.require_visible([])
        self._workers = [self._new_worker() for _ in range(size)]
        self._job: Any = None
        self._busy: dict[Any, _Assignment] = {}
        self._idle: list[Any] = []
        self._failed_starts = 0  # workers lost in a row before they were ready

    def batching(self, asked: Batching) -> Batching:
        """As asked, with the threads of a worker."""
        return replace(asked, threads=self._threads)

    def require_visible(self, where: Sequence[Location]) -> None:
        """Refuse a node that does not see a local path which is there for this process, or has other packages.

        :raises InputError: naming the path or package, and the node.
        """
        paths = [str(path) for path in where if isinstance(path, Path) and path.exists()]
        probes = [(node["NodeManagerAddress"], _on(node).remote(str(Path.cwd()), paths)) for node in _nodes()]
        for name, probe in probes:
            try:
                missing, versions = ray.get(probe)
            except _GONE:  # it was lost since; workers on other nodes go on
                continue
            except RayTaskError as error:
                raise InputError(f"node {name}: {_cause(error)}; install the same packages on every node") from None
            if missing:
                raise InputError(
                    f"{missing[0]}: node {name} of the cluster does not see it; put it on storage that every node "
                    "mounts in the same place, or give an address (s3://...)"
                )
            _require_same(name, versions, _versions())

    def begin(self, job: Job) -> Any:
        """Send the job to every worker; the answer of the first that is ready."""
        self._job = ray.put(job)
        self._busy, self._idle = {}, []
        for worker in self._workers:
            self._get_ready(worker)
        while True:
            answer = self._next()[1]
            if answer is not None:
                return answer[0]

    def run(self, items: Sequence[Any], progress: Advance) -> Iterator[Any]:
        """The results as they come. An item whose worker is lost goes to another one.

        :raises CannotEvaluateError: workers are lost over one item again and again, or there are none for long.
        """
        waiting = deque(enumerate(items))
        retries: Counter[int] = Counter()
        while waiting or any(assignment.number is not None for assignment in self._busy.values()):
            while waiting and self._idle:
                self._give(self._idle.pop(), *waiting.popleft())
            assignment, answer = self._next()
            if assignment.number is None:
                continue
            if answer is None:
                waiting.appendleft((assignment.number, assignment.item))
                retries[assignment.number] += _had_begun(assignment)
                _require_hope(retries[assignment.number])
            else:
                progress(answer[1])
                yield answer[0]

    def _give(self, worker: Any, number: int, item: Any) -> None:
        begun = worker.here.remote()
        self._busy[worker.do.remote(item)] = _Assignment(worker, begun, number, item)

    def _get_ready(self, worker: Any) -> None:
        begun = worker.here.remote()
        self._busy[worker.begin.remote(self._job)] = _Assignment(worker, begun)

    def _next(self) -> tuple[_Assignment, Any]:
        """(assignment, answer) of the next worker that is done; without an answer where it was lost and replaced."""
        done = self._wait()
        assignment = self._busy.pop(done)
        try:
            answer = ray.get(done)
        except RayTaskError as error:
            raise _cause(error) from None
        except _LOST as error:
            self._failed_starts += assignment.number is None
            if self._failed_starts > MAX_RETRIES * len(self._workers):  # a node may end with all its workers
                raise CannotEvaluateError(f"the workers end before they are ready: {first_line(error)}") from None
            self._workers = [worker for worker in self._workers if worker is not assignment.worker] + [
                self._new_worker()
            ]
            self._get_ready(self._workers[-1])
            return assignment, None
        self._failed_starts = 0
        self._idle.append(assignment.worker)
        return assignment, answer

    def _wait(self) -> Any:
        """The next answer; an item or getting ready may take as long as it likes, but a worker has to be there."""
        while True:
            done, _ = ray.wait(list(self._busy), timeout=WORKER_TIMEOUT)
            if done:
                return done[0]
            if not ray.wait([assignment.begun for assignment in self._busy.values()], timeout=0)[0]:
                raise CannotEvaluateError(
                    f"the cluster started no worker in {WORKER_TIMEOUT:.0f} s; let other work end or start nodes, then "
                    "run the same command with --resume"
                )

    def _new_worker(self) -> Any:
        """A worker that starts as soon as a node has room for it."""
        options = {"num_cpus": self._threads, "num_gpus": self._gpus, "scheduling_strategy": "SPREAD"}
        return ray.remote(_Worker).options(**options).remote(secrets.token_hex(4), str(Path.cwd()))


class _Worker:
    """One process of the pool; it works on one job."""

    def __init__(self, name: str, folder: str) -> None:
        storage.set_writer_name(name)
        with suppress(OSError):  # relative paths mean what they mean for the driver
            os.chdir(folder)
        self._job: Job | None = None

    def begin(self, job: Job) -> tuple[Any]:
        self._job = job
        return (job.prepare(),)

    def here(self) -> None:
        """Answer before what is sent next is done."""

    def do(self, item: Any) -> tuple[Any, int]:
        """(result, images or parts done)."""
        assert self._job is not None
        done: list[int] = []
        return self._job.do(item, done.append), sum(done)


def _nodes() -> list[dict[str, Any]]:
    """The nodes that the cluster has now."""
    return [node for node in ray.nodes() if node["Alive"]]


def _had_begun(assignment: _Assignment) -> bool:
    """Whether a worker that is lost had been there for its item, so that the item may be the reason."""
    try:
        ray.get(assignment.begun)
    except RayError:
        return False
    return True


def _connect(address: str | None) -> None:
    if address is not None:
        _require_answer(address)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns of a change to come
    _silence_ray()
    quietly = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            ray.init("local", num_cpus=available_cpus(), include_dashboard=False, **quietly)
        else:
            ray.init(address, **quietly)
    except Exception as error:  # Ray raises a bare Exception, too
        if address is None:
            raise CannotEvaluateError(f"{DIED} ({first_line(error)})") from None
        raise InputError(f"no Ray cluster at {address}: {first_line(error)}") from None


def _silence_ray() -> None:
    """Keep Ray from printing on stdout what became of a lost worker, which it does even with `log_to_driver` off."""
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_, **__: None


def _require_answer(address: str) -> None:
    """Ray tries for long to reach what does not answer."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdigit():
        raise InputError(f"--address {address}: give HOST:PORT, as `ray start --head` prints it, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise InputError(f"--address {address}: nothing answers there ({error.strerror or error})") from None


def _capacity(pool: WorkerPool, nodes: Sequence[Mapping[str, float]]) -> int:
    """How many workers to hire.

    :raises InputError: more than the nodes hold: those would wait for ever; one GPU and a half for each.
    """
    if pool.gpus > 1 and not pool.gpus.is_integer():
        raise InputError(f"--gpus-per-worker {pool.gpus:g}: give a whole number, or a share of one GPU below 1")
    holds = sum(_workers_on(node, pool.threads, pool.gpus) for node in nodes)
    if holds and (pool.workers or 1) <= holds:
        return pool.workers or holds
    cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    each = f"{pool.threads} CPUs" + (f" and {pool.gpus:g} GPU" if pool.gpus else "")
    raise InputError(
        f"{pool.workers or 1} workers of {each} each do not fit: the cluster of {len(nodes)} nodes has {cpus:g} CPUs "
        f"and {gpus:g} GPUs and holds {holds}; a larger pool would starve its own readers or wait for ever, so give "
        "fewer --workers, --threads or --gpus-per-worker"
    )


def _workers_on(node: Mapping[str, float], threads: int, gpus: float) -> int:
    """How many workers fit on a node; a share of a GPU does not span two of them."""
    by_cpu, whole = int(node.get("CPU", 0) // threads), int(node.get("GPU", 0))
    if not gpus:
        return by_cpu
    return min(by_cpu, whole * int(1 / gpus + 1e-6) if gpus < 1 else int(whole // gpus))


def _on(node: Mapping[str, Any]) -> Any:
    """`_probe`, on that node."""
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return ray.remote(_probe).options(num_cpus=0, scheduling_strategy=there)


def _probe(folder: str, paths: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """(paths that are not there, versions) of the node on which this runs."""
    return [path for path in paths if not (Path(folder) / path).exists()], _versions()


def _versions() -> dict[str, str]:
    """Versions of the packages that decide numbers."""
    found = versions()
    return {name: found[name] for name in _SAME if name in found}


def _require_same(node: str, there: Mapping[str, str], here: Mapping[str, str]) -> None:
    different = [name for name in _SAME if there.get(name) != here.get(name)]
    if different:
        name = different[0]
        raise InputError(
            f"node {node} has {name} {there.get(name, 'not at all')}, here it is {here.get(name, 'not installed')}; "
            "install the same packages on every node"
        )


def _require_hope(retries: int) -> None:
    if retries >= MAX_RETRIES:
        raise CannotEvaluateError(
            f"{retries} workers ended over the same block, though its images decode by themselves; give each more "
            "memory (fewer --workers, a smaller --batch), then run the same command with --resume"
        )


def _cause(error: RayTaskError) -> Exception:
    """What a worker raised."""
    return error.cause if isinstance(error.cause, Exception) else error

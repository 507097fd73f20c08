"""Fixtures that every folder's tests share, and how the suite is spread over the CPUs."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest

with suppress(ImportError):
    import fcntl

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")  # gw0, gw1, ...; nothing outside of pytest-xdist
CPUS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
FINISHED = "finished"  # stands beside what all workers share, once it is whole
MOST_WORKERS = 4  # each imports TensorFlow, which takes 1 GB
# Files that take long, the longest first: they begin first, so that none is left to one worker in the end. Beside Ray's
# tests, which begin with two that run alone, are many short ones: who is alone waits for a test of each other worker.
LONG = (
    "test_harness_ray", "test_export_registry_graphs", "test_export_keras_tutorials", "test_export_keras",
    "test_harness_gate_recipes", "test_training_run", "test_training_cli", "test_harness_resume", "test_browser_report",
    "test_training_model", "test_training_resume", "test_export_rules", "test_harness_faults", "test_documentation",
    "test_harness_report", "test_training_preserve", "test_export_onnx", "test_trust_names", "test_harness_outofcore",
)  # fmt: skip
ONE_THREAD = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENCV_FOR_THREADS_NUM",
    "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS",
)  # fmt: skip

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
if WORKER:  # it has one CPU, and so have the processes that its tests start
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))

ROOT = Path(__file__).parent.parent


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Let pytest-xdist, where it is installed, run the whole suite in a worker per CPU; named files run right here.

    `-n` and `--dist` of the command line, `--pdb` and `-p no:xdist` are obeyed.
    """
    option = config.option
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if WORKER or not whole or option.usepdb or not hasattr(option, "numprocesses"):
        return
    if option.numprocesses is None:
        option.numprocesses, option.maxprocesses = "logical", option.maxprocesses or MOST_WORKERS
    if option.dist == "no" and option.numprocesses:
        option.dist = "loadfile"  # what a module shares is made once
        option.loadscopereorder = False  # keep the order below


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long, in each with what runs alone, where there are workers to share them."""
    if WORKER:
        order = {name: place for place, name in enumerate(LONG)}
        items.sort(key=lambda item: (order.get(item.path.stem, len(order)), item.get_closest_marker("alone") is None))


def pytest_collection_finish() -> None:
    """Take what the imports made out of garbage collection: a pass over TensorFlow's objects is 0.5 s each time.

    Keras collects garbage whenever a session is cleared.
    """
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A test marked `alone` begins when those in other workers have ended, and holds the next ones back.

    It has every CPU, as slow ones have; else a worker has one, as many threads as it has then compute, and so have the
    processes that its tests start.
    """
    alone, slow = (item.get_closest_marker(name) is not None for name in ("alone", "slow"))
    with ExitStack() as locks:
        if hasattr(item.config, "workerinput") and "fcntl" in globals():
            folder = item.config._tmp_path_factory.getbasetemp().parent  # type: ignore[attr-defined]  # of all workers
            with _locked(folder / "next.lock", exclusive=True):  # whoever waits for the others is the next
                locks.enter_context(_locked(folder / "running.lock", exclusive=alone))
        if WORKER and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, CPUS if alone or slow else {CPUS[int(WORKER.strip("gw")) % len(CPUS)]})
        return (yield)


@contextmanager
def _locked(path: Path, exclusive: bool) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real radiographs; tests that need it skip where it is absent, unless it is required."""
    folder = Path(os.environ.get("EVIDENCE_DRIFT_SHARED", ROOT.parent / "shared"))
    if not (folder / "cxr5" / "manifest.csv").is_file():
        message = f"real radiographs are not at {folder} (set EVIDENCE_DRIFT_SHARED)"
        _lacking("EVIDENCE_DRIFT_REQUIRE_SHARED", message)
    return folder


def _lacking(required: str, message: str) -> NoReturn:
    """Skip a test for which something is not there, or fail where the environment requires that thing."""
    if os.environ.get(required) == "1":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The Chromium of the system; without one the tests skip, unless it is required."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        _lacking("EVIDENCE_DRIFT_REQUIRE_BROWSER", "no Chromium: apt-get install chromium")
    return program


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """A headless browser without network."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def strace() -> str:
    """The system's strace; without it the tests skip, unless it is required."""
    program = shutil.which("strace")
    if program is None:
        _lacking("EVIDENCE_DRIFT_REQUIRE_STRACE", "strace is not installed")
    return program


@pytest.fixture(scope="module")
def in_brief() -> Iterator[None]:
    """The evaluations of a whole file in brief (`tests.tiny_graphs.in_brief`)."""
    from tests import tiny_graphs

    with tiny_graphs.in_brief():
        yield


@pytest.fixture(scope="session")
def finished_training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of one small complete run, to be read and copied, never changed (tests/training_runs.py).

    The first worker that needs it trains; the others take what it left.
    """
    from tests.training_runs import finish

    base = tmp_path_factory.getbasetemp().parent if WORKER else tmp_path_factory.getbasetemp()
    folder = base / "training"
    with _locked(base / "training.lock", exclusive=True) if WORKER else nullcontext():
        if not (folder / FINISHED).exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            finish(folder)
            (folder / FINISHED).touch()
    return folder / "run"


@pytest.fixture(scope="module")
def torch() -> ModuleType:
    """PyTorch, in a process of its own: Triton, which it loads, crashes beside TensorFlow's LLVM."""
    if "tensorflow" in sys.modules:
        pytest.fail("PyTorch crashes where TensorFlow is loaded: run `pytest -m torch tests/test_export_torch*.py`")
    if os.environ.get("EVIDENCE_DRIFT_REQUIRE_TORCH") != "1":
        pytest.importorskip("torchvision", reason="PyTorch is not installed: pip install 'evidence-drift[torch]'")
    import torch

    return torch

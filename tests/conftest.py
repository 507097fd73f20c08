"""Fixtures that every folder's tests share, and how the suite is spread over the CPUs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

WORKER = "PYTEST_XDIST_WORKER" in os.environ
MOST_WORKERS = 4  # each imports TensorFlow, which takes 1 GB
ONE_THREAD = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
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
        option.numprocesses = min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    if option.dist == "no" and option.numprocesses:
        option.dist = "loadgroup"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep in one worker, for `--dist loadgroup`, what shares a fixture: a module, and all that read one training."""
    training = {item.path for item in items if "finished_training" in getattr(item, "fixturenames", ())}
    for item in items:
        group = "training" if item.path in training else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real radiographs; tests that need it skip where it is absent, unless it is required."""
    folder = Path(os.environ.get("EVIDENCE_DRIFT_SHARED", ROOT.parent / "shared"))
    if not (folder / "cxr5" / "manifest.csv").is_file():
        message = f"real radiographs are not at {folder} (set EVIDENCE_DRIFT_SHARED)"
        if os.environ.get("EVIDENCE_DRIFT_REQUIRE_SHARED") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def finished_training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of one small complete run, to be read and copied, never changed (tests/training_runs.py)."""
    from tests.training_runs import finish

    return finish(tmp_path_factory.mktemp("training"))

"""Threads, compiled code on disk, and compiling ahead."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from numba.core.caching import UserProvidedCacheLocator

from kernels import jit
from kernels.catalogue import METRICS
from kernels.registry import by_name
from kernels.threads import for_each

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_each_item_is_done_once(threads: int) -> None:
    done = np.zeros(100, int)

    def worker():
        def count(n: int) -> None:
            done[n] += 1

        return count

    for_each(range(100), threads, worker)
    assert (done == 1).all()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("error", [ValueError, IndexError])
def test_exception_of_a_worker_reaches_the_caller(threads: int, error: type[Exception]) -> None:
    def worker():
        def fail(n: int) -> None:
            if n == 3:
                raise error("item three")

        return fail

    with pytest.raises(error, match="item three"):
        for_each(range(10), threads, worker)


def test_a_name_is_registered_once() -> None:
    record = METRICS["ssim"]
    assert by_name([record]) == {"ssim": record}
    with pytest.raises(ValueError, match="'ssim' is registered twice"):
        by_name([record, record])


def test_sums_keep_nan_and_infinity() -> None:
    @jit.sums
    def total(x):
        result = 0.0
        for p in range(x.size):
            result += x[p]
        return result, np.isnan(result), np.isfinite(result)

    assert total(np.array([1.0, np.nan]))[1:] == (True, False)
    assert total(np.array([1.0, np.inf])) == (np.inf, False, False)


def run_with_cache(code: str, folder: Path, **environment: str) -> str:
    everything = {**os.environ, "NUMBA_CACHE_DIR": str(folder), **environment}
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=everything, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


COUNT_COMPILED = """
import importlib, pkgutil
import kernels
from kernels.precompile import compile_all
from numba.core.dispatcher import Dispatcher
compile_all()
entered = [f for m in pkgutil.iter_modules(kernels.__path__)
           for f in vars(importlib.import_module("kernels." + m.name)).values() if isinstance(f, Dispatcher)]
hits = sum(sum(f.stats.cache_hits.values()) for f in entered)
misses = sum(sum(f.stats.cache_misses.values()) for f in entered)
print(hits, misses)
"""


@pytest.mark.slow
def test_compile_all_fills_the_cache_and_leaves_nothing_to_compile(tmp_path: Path) -> None:
    hits, misses = map(int, run_with_cache(COUNT_COMPILED, tmp_path).split())
    assert misses > 20
    assert list(tmp_path.rglob("*.nbc"))
    hits, misses = map(int, run_with_cache(COUNT_COMPILED, tmp_path).split())
    assert hits > 20
    assert misses == 0
    use = COUNT_COMPILED.replace("compile_all()\n", "", 1).replace(
        "entered =",
        "import numpy as np\n"
        "from kernels.partners import partner_metrics\n"
        "from kernels.metrics import pair_metrics\n"
        "maps = np.random.rand(2, 30, 40)\n"
        "pair_metrics(maps[:, ::2], maps[:, ::2], size=(12, 13))\n"
        "partner_metrics(maps, maps, np.array([[1, 0]]))\n"
        "entered =",
    )
    hits, misses = map(int, run_with_cache(use, tmp_path).split())
    assert hits > 10
    assert misses == 0


def test_fallback_folder_is_private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = jit.private_temporary_folder()
    assert folder is not None
    assert folder.parent == tmp_path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert jit.private_temporary_folder() == folder


def test_fallback_folder_that_others_can_write_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = jit.private_temporary_folder()
    assert folder is not None
    folder.chmod(0o777)
    assert jit.private_temporary_folder() is None
    folder.rmdir()
    folder.symlink_to(tmp_path)
    assert jit.private_temporary_folder() is None


def double(x):
    return 2 * x


@pytest.mark.parametrize("private", [True, False])
def test_kernels_work_where_nothing_can_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, private: bool
) -> None:
    """With numba's own folders out of reach, code goes to the private folder, or is compiled each time."""
    monkeypatch.setattr("numba.core.config.CACHE_DIR", "")
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [UserProvidedCacheLocator])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path if private else tmp_path / "missing"))
    assert jit.kernel(double)(21) == 42
    assert bool(list(tmp_path.rglob("*.nbc"))) == private

"""Every contender of every case of the kernels, timed in one process, after a check that all agree."""

from __future__ import annotations

import time

import numpy as np
import pytest

from benchmarks.kernel_cases import Case, cases
from benchmarks.timing import OURS

CASES = cases()


def contender(case: Case, name: str):
    """One thread is timed by the CPU time it takes, so that other programs do not count.

    Several are timed by the clock, and for longer: a round counts in which every thread had a CPU to itself.
    """
    timer, seconds = (time.process_time, 1) if case.threads == 1 else (time.perf_counter, 8)
    mark = pytest.mark.benchmark(group=case.name, timer=timer, max_time=seconds)
    return pytest.param(case, name, id=f"{case.name}, {name}", marks=mark)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_contenders_agree(case: Case) -> None:
    ours = case.contenders[OURS]()
    for name, compute in case.contenders.items():
        assert np.allclose(ours, compute(), rtol=case.tolerance, atol=case.tolerance), name


@pytest.mark.parametrize(("case", "name"), [contender(case, name) for case in CASES for name in case.contenders])
def test_speed(benchmark, case: Case, name: str) -> None:
    benchmark.extra_info.update(contender=name, turn=0, items=case.items, wanted=case.wanted)
    benchmark(case.contenders[name])
    assert benchmark.stats.stats.min > 0

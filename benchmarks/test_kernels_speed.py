"""`pytest benchmarks`: every contender of every case, timed in one process, after a check that all agree."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.kernel_cases import OURS, Case, cases

CASES = cases()
CONTENDERS = [pytest.param(case, name, id=f"{case.name}, {name}") for case in CASES for name in case.contenders]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_contenders_agree(case: Case) -> None:
    ours = case.contenders[OURS]()
    for name, contender in case.contenders.items():
        assert np.allclose(ours, contender(), rtol=case.tolerance, atol=case.tolerance), name


@pytest.mark.parametrize(("case", "contender"), CONTENDERS)
def test_speed(benchmark, case: Case, contender: str) -> None:
    benchmark.group = case.name
    benchmark.extra_info.update(contender=contender, items=case.items, wanted=case.wanted)
    benchmark(case.contenders[contender])
    assert benchmark.stats.stats.min > 0

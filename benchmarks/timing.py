"""How the suites on networks are timed: contenders take turns, one call each per turn, by the clock.

A ratio is later taken within each turn, so that a machine that is slower for a while is slower for everybody.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

OURS = "ours"
THREADS = 2  # of ours and of every rival, but for the kernels, where everybody has one
TURNS = int(os.environ.get("BENCHMARK_TURNS", "6"))
AGAIN = json.loads(os.environ.get("BENCHMARK_CASES", "null"))  # the cases that are to be timed; null: all


def in_turns(cases: Iterable[str], contenders: Sequence[str], turns: int = TURNS) -> list[Any]:
    """Parameters (case, contender, turn): every case in turns, in each of which all contenders are called once."""
    return [
        pytest.param(case, name, turn, id=f"{case}, {name}, {turn}", marks=pytest.mark.benchmark(group=case))
        for case in cases
        if AGAIN is None or case in AGAIN
        for turn in range(turns)
        for name in contenders
    ]


def one_turn(
    benchmark: Any,
    run: Callable[[], object],
    contender: str,
    turn: int,
    items: int,
    wanted: float | None = None,
    warm: bool = True,
) -> None:
    """Time one call, in the first turn after one that is not counted, and note what the report needs to know.

    items: how many images or starts one call does
    wanted: how many times faster than this contender ours shall be
    warm: False where the first call was made elsewhere
    """
    benchmark.extra_info.update(contender=contender, turn=turn, items=items, wanted=wanted)
    benchmark.pedantic(run, rounds=1, warmup_rounds=int(warm and turn == 0))

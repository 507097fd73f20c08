"""Stages that overlap: order, bounds, and what becomes of the stages before one that fails."""

import threading
import time
from collections.abc import Iterator

import pytest

from harness.evaluation.prefetch import prefetch


@pytest.mark.parametrize("threads", [1, 4])
def test_results_come_in_order_and_no_more_wait_than_asked_for(threads: int) -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.002 * (item % 3))
        return item * item

    for number, found in enumerate(prefetch(work, range(20), depth=3, threads=threads)):
        assert found == number * number
        assert len(begun) <= number + 4


def test_a_stage_that_fails_ends_those_before_it() -> None:
    """Else they would go on, and hold their threads as long as somebody holds the error."""
    loaded: list[int] = []

    def load(item: int) -> int:
        loaded.append(item)
        return item

    def fail(item: int) -> int:
        if item == 2:
            raise ValueError("no third")
        return item

    def stages() -> Iterator[int]:
        loading = prefetch(load, iter(range(1000)), depth=4, threads=2)
        yield from prefetch(fail, loading, depth=2, threads=2)

    before = threading.active_count()
    with pytest.raises(ValueError, match="no third") as held:
        list(stages())
    assert threading.active_count() == before
    assert held.traceback
    assert len(loaded) < 20


def test_a_caller_that_stops_early_ends_all_stages() -> None:
    before = threading.active_count()
    stages = prefetch(str, prefetch(abs, iter(range(1000)), depth=4, threads=2), depth=2, threads=2)
    assert next(stages) == "0"
    stages.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before

"""Work on many independent items with a few threads, over kernels that hold no interpreter lock.

Every item is computed alone and in the same way, so no result depends on the number of threads or on how a
batch was cut. Each thread makes one worker, which owns that thread's scratch memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from kernels.function_errors import UserFunctionError


def for_each(
    items: Sequence[int], threads: int, make_worker: Callable[[], Callable[[int], None]], run: int = 1
) -> None:
    """Call a worker on every item, the index of a map or pair. What is pending after an exception is dropped.

    run: how many items that follow each other a thread takes at a time

    :raises UserFunctionError: with the item, where a user's function failed; any other exception as it is.
    """
    threads = min(threads, len(items))
    if threads <= 1:
        _each(items, make_worker())
        return
    pending = deque(items[start : start + run] for start in range(0, len(items), run))
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(_drain, pending, make_worker()) for _ in range(threads)]:
            done.result()


def _drain(pending: deque[Sequence[int]], worker: Callable[[int], None]) -> None:
    try:
        _each(_taken(pending), worker)
    finally:
        pending.clear()  # after an exception nobody starts another item


def _taken(pending: deque[Sequence[int]]) -> Iterator[int]:
    while True:
        try:
            items = pending.popleft()  # a deque hands each run of items to one thread only
        except IndexError:
            return
        yield from items


def _each(items: Iterable[int], worker: Callable[[int], None]) -> None:
    item = None
    try:
        for item in items:
            worker(item)
    except UserFunctionError as error:
        assert item is not None
        raise error.at(item) from error.__cause__

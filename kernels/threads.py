"""Work on many independent items with a few threads, over kernels that hold no interpreter lock.

Every item is computed alone and in the same way, so no result depends on the number of threads or on how a
batch was cut. Each thread makes one worker, which owns that thread's scratch memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def for_each(items: Sequence[Item], threads: int, make_worker: Callable[[], Callable[[Item], None]]) -> None:
    """Call a worker on every item. A worker's exception is raised, and what is pending is dropped."""
    threads = min(threads, len(items))
    if threads <= 1:
        worker = make_worker()
        for item in items:
            worker(item)
        return
    pending = deque(items)
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(_drain, pending, make_worker()) for _ in range(threads)]:
            done.result()


def _drain(pending: deque[Item], worker: Callable[[Item], None]) -> None:
    try:
        while True:
            try:
                item = pending.popleft()  # a deque hands each item to one thread only
            except IndexError:
                return
            worker(item)
    finally:
        pending.clear()  # after an exception nobody starts another item

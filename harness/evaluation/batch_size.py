"""How many images to give an accelerator at once: as many as make it faster, and as fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from harness.evaluation.explain import Request
from harness.models.session import Model

LEAST, LARGEST = 16, 512
WORTH = 1.05  # a batch twice as large must do this times as many images per second


def best_batch(model: Model, request: Request) -> int:
    """The batch size from which doubling no longer pays, measured on grey images; at least LEAST.

    A batch that does not fit into the accelerator's memory ends the search, too.
    """
    maps = request.options.methods if request.options.maps == "graph" else ()

    def seconds(count: int) -> float:
        batch = np.full((count, 3, *model.metadata.input_size), 127, np.float32)
        target = np.zeros(count, np.int64)
        took = []
        for _ in range(3):  # the first call of a size prepares it
            started = time.perf_counter()
            model.explain(batch, target, request.layers, maps)
            took.append(time.perf_counter() - started)
        return min(took[1:])

    return _search(seconds)


def _search(seconds: Callable[[int], float]) -> int:
    best, rate = LEAST, 0.0
    for count in _doubled():
        try:
            found = count / seconds(count)
        except Exception:  # ONNX Runtime's errors share no base; what runs out of memory cannot be told from the rest
            if count == LEAST:
                raise
            break
        if found < WORTH * rate:
            break
        best, rate = count, found
    return best


def _doubled() -> Iterator[int]:
    count = LEAST
    while count <= LARGEST:
        yield count
        count *= 2

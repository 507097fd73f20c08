"""The three kinds of work of an evaluation that are cut into items: hashing files, explaining images, scoring maps.

A job is prepared once in every process that works on it, and then gets one item after the other, in any order. An
item's result does not depend on other items, and what it writes is written whole or not at all, so it can be done
again, by any process. `harness.evaluation.executors` decides which processes these are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from harness.common.errors import InputError
from harness.common.progress import Advance
from harness.common.provenance import bytes_digest
from harness.evaluation.batch_size import best_batch
from harness.evaluation.explain import Batching, Block, Request, explain_blocks
from harness.evaluation.prefetch import prefetch
from harness.evaluation.score import Scorer
from harness.images.crash_isolation import crashing_images
from harness.images.dataset import Sample, content_digests
from harness.models.metadata import read_graph_file
from harness.models.providers import accelerated
from harness.models.session import Model
from harness.results.part_files import Store
from harness.results.plan import Checkpoint
from harness.results.reader import tasks
from harness.results.vocabulary import require_methods

Item = TypeVar("Item", contravariant=True)
Result = TypeVar("Result", covariant=True)


class Job(Protocol[Item, Result]):
    """Work that is cut into items; it can be pickled until it is prepared."""

    def prepare(self) -> Any:
        """Get ready to work in this process; a second call changes nothing."""

    def do(self, item: Item, progress: Advance) -> Result:
        """Do one item; `progress` is called with the number of images (or parts) done."""

    def each(self, items: Sequence[Item], progress: Advance) -> Iterator[Result]:
        """Do items in their order; the next may be begun before one is done."""


class Hashing:
    """Items (first place, images): place of the first and digests of their contents."""

    def prepare(self) -> None:
        """Nothing to prepare."""

    def do(self, item: tuple[int, Sequence[Sample]], progress: Advance) -> tuple[int, list[bytes]]:
        start, samples = item
        digests = content_digests(samples)
        progress(len(samples))
        return start, digests

    def each(
        self, items: Sequence[tuple[int, Sequence[Sample]]], progress: Advance
    ) -> Iterator[tuple[int, list[bytes]]]:
        """As `do`, one after the other."""
        return (self.do(item, progress) for item in items)


class Explaining:
    """One checkpoint; items (part, block): writes predictions and maps, or maps of noisy copies.

    Returns the seconds spent in ONNX Runtime.

    The graph travels with the job: only the images and the result have to be seen from everywhere.
    """

    def __init__(
        self, checkpoint: Checkpoint, folder: Store, request: Request, provider: str, batching: Batching
    ) -> None:
        self.checkpoint = checkpoint
        self.folder = folder
        self.request = request
        self.provider = provider
        self.batching = batching
        self._content = read_graph_file(checkpoint.graph.path)
        self._model: Model | None = None
        if bytes_digest(self._content) != checkpoint.graph.digest:
            raise InputError(
                f"{checkpoint.graph.path}: changed while the evaluation ran; start again with a file that stays"
            )

    def prepare(self) -> dict[str, Any]:
        """Open the graph; returns the providers in use, with their options.

        :raises InputError: this process has not the CAM methods, or the metrics that are computed later.
        """
        self.request.vocabulary.functions()
        if self.request.options.maps == "kernels":
            require_methods(self.request.options.methods)
        return self._opened().providers

    def each(self, items: Sequence[tuple[int, Block]], progress: Advance) -> Iterator[float]:
        """As `do`; images of an item are decoded and explained while the last item is written."""
        model, parts = self._opened(), deque[int]()
        before = model.seconds
        with self.folder.begun("predictions") as begun:

            def blocks() -> Iterator[Block]:
                for part, block in items:
                    parts.append(part)
                    yield block if block.draws is not None else self._without_crashing(block, begun.add(part))

            for found in explain_blocks(self.checkpoint.key, model, blocks(), self.request, self.batching, progress):
                part = parts.popleft()
                self.folder.write("maps", part, found.maps)
                if found.predictions is not None:  # last: the part is whole where they are there
                    self.folder.write("predictions", part, [found.predictions])
                    begun.remove(part)
                last, before = before, model.seconds
                yield before - last

    def do(self, item: tuple[int, Block], progress: Advance) -> float:
        (seconds,) = self.each([item], progress)
        return seconds

    def _without_crashing(self, block: Block, deaths: int) -> Block:
        """The block; where processes ended over it, one of its images may have ended them: those are left out."""
        if not deaths:
            return block
        paths, rule = [sample.path for sample in block.samples], self.checkpoint.graph.metadata.rule
        crashing = crashing_images(paths, self.batching.max_pixels, rule)
        return replace(block, unreadable={**block.unreadable, **crashing})

    def _opened(self) -> Model:
        if self._model is None:
            path, threads = self.checkpoint.graph.path, self.batching.threads
            self._model = Model.load(path, self._content, self.provider, threads, at_once=True)
            if self.batching.batch is None and accelerated(self.provider):
                self.batching = replace(self.batching, batch=best_batch(self._model, self.request))
        return self._model

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None}  # a session cannot be pickled; it is opened again


class Scoring:
    """Items (number of a task, block): writes a part of the scores."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.tasks = tasks(scorer.plan)

    def prepare(self) -> None:
        """See that this process has the metrics.

        :raises InputError: it has not.
        """
        self.scorer.vocabulary.functions()

    def do(self, item: tuple[int, int], progress: Advance) -> None:
        (_,) = self.each([item], progress)

    def each(self, items: Sequence[tuple[int, int]], progress: Advance) -> Iterator[None]:
        """As `do`; threads work on an item each, as far as there are items: two on one wait for each other."""
        reader, threads = self.scorer.reader, self.scorer.threads
        at_once = max(1, min(threads, len(items)))
        scorer = self.scorer.with_threads(threads // at_once)

        def scored(item: tuple[int, int]) -> tuple[int, list[pa.Table]]:
            number, block = item
            return reader.parts(number)[block], list(scorer.score(self.tasks[number], block))

        for part, tables in prefetch(scored, items, depth=at_once, threads=at_once):
            reader.store.write("scores", part, tables)
            progress(1)
            yield

"""The three kinds of work of an evaluation that are cut into items: hashing files, explaining images, scoring maps.

A stage is prepared once in every process that works on it, and then gets one item after the other, in any order. An
item's result does not depend on other items, and what it writes is written whole or not at all, so it can be done
again, by any process. `harness.evaluation.executors` decides which processes these are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from harness.common.errors import InputError
from harness.common.provenance import bytes_digest
from harness.evaluation.batch_size import best_batch
from harness.evaluation.explain import Block, Progress, Running, Wanted, collect_block
from harness.evaluation.score import Comparer
from harness.images.crash_isolation import deadly
from harness.images.dataset import Sample, content_digests
from harness.models.metadata import read_graph_file
from harness.models.providers import accelerated
from harness.models.session import Model
from harness.results.part_files import Store
from harness.results.plan import Checkpoint
from harness.results.reader import tasks

Item = TypeVar("Item", contravariant=True)
Result = TypeVar("Result", covariant=True)


class Stage(Protocol[Item, Result]):
    """Work that is cut into items; it can be pickled until it is prepared."""

    def prepare(self) -> Any:
        """Get ready to work in this process; a second call changes nothing."""

    def do(self, item: Item, progress: Progress) -> Result:
        """Do one item; `progress` is called with the number of images (or parts) done."""


class Hashing:
    """Items (first place, images): place of the first and digests of their contents."""

    def prepare(self) -> None:
        """Nothing to prepare."""

    def do(self, item: tuple[int, Sequence[Sample]], progress: Progress) -> tuple[int, list[bytes]]:
        start, samples = item
        digests = content_digests(samples)
        progress(len(samples))
        return start, digests


class Explaining:
    """One checkpoint; items (part, block): writes predictions and maps, returns seconds spent in ONNX Runtime.

    The graph travels with the stage: only the images and the result have to be seen from everywhere.
    """

    def __init__(self, checkpoint: Checkpoint, folder: Store, wanted: Wanted, provider: str, running: Running) -> None:
        self.checkpoint = checkpoint
        self.folder = folder
        self.wanted = wanted
        self.provider = provider
        self.running = running
        self._content = read_graph_file(checkpoint.graph.path)
        self._model: Model | None = None
        if bytes_digest(self._content) != checkpoint.graph.digest:
            raise InputError(
                f"{checkpoint.graph.path}: changed while the evaluation ran; start again with a file that stays"
            )

    def prepare(self) -> dict[str, Any]:
        """Open the graph; returns the providers in use, with their options."""
        return self._opened().providers

    def do(self, item: tuple[int, Block], progress: Progress) -> float:
        part, block = item
        model = self._opened()
        before = model.seconds
        with self.folder.begun("predictions", part) as deaths:
            if deaths:  # an image may have ended the process that decoded it
                unreadable = {
                    **block.unreadable,
                    **deadly([sample.path for sample in block.samples], self.running.max_pixels),
                }
                block = replace(block, unreadable=unreadable)
            predictions, maps = collect_block(self.checkpoint.key, model, block, self.wanted, self.running, progress)
            self.folder.write("maps", part, maps)
            self.folder.write("predictions", part, [predictions])  # last: the part is whole where it is there
        return model.seconds - before

    def _opened(self) -> Model:
        if self._model is None:
            self._model = Model.load(self.checkpoint.graph.path, self._content, self.provider, self.running.threads)
            if self.running.batch is None and accelerated(self.provider):
                self.running = replace(self.running, batch=best_batch(self._model, self.wanted))
        return self._model

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None}  # a session cannot be pickled; it is opened again


class Scoring:
    """Items (number of a task, block): writes a part of the scores."""

    def __init__(self, comparer: Comparer) -> None:
        self.comparer = comparer
        self.tasks = tasks(comparer.plan)

    def prepare(self) -> None:
        """Nothing to prepare."""

    def do(self, item: tuple[int, int], progress: Progress) -> None:
        number, block = item
        part = self.comparer.numbers(number)[block]
        self.comparer.store.write("scores", part, list(self.comparer.score(self.tasks[number], block)))
        progress(1)

"""From stored maps to scores: what a pair scores, what chance would score, and what noise alone does.

Nothing here runs a model. Per layer and method there are four kinds of comparison, each written to `scores/`:

- a pair of checkpoints: `observed` (image i before and after);
- a pair of checkpoints: `chance` (image i before, image j after, of the same class and another patient);
- a checkpoint with itself: `jitter` (the image, and the image with noise, moved by a pixel and moved back);
- two trainings of one phase: `replicate`.

What is compared for `chance` and `jitter` is decided in `harness.results.references`. A part is computed from the maps
of its own block or, for chance, from those of the sample, so memory does not grow with the number of images, and any
part can be computed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from threading import Lock

import numpy as np
import pyarrow as pa

from harness.common.errors import InputError
from harness.common.validation import user_functions
from harness.images.jitter import shift_of
from harness.results import part_files
from harness.results.reader import NOT_COMPARED, Maps, Reader, Reference, Task
from harness.results.vocabulary import Vocabulary
from kernels.metrics import pair_metrics
from kernels.partners import mean_over_draws, partner_metrics
from kernels.scoring import PairScores


class _Sample:
    """The maps of the task that was asked for last; threads that ask for them meanwhile wait."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: tuple[Task, tuple[Maps, Maps]] | None = None

    def of(self, task: Task, read: Callable[[], tuple[Maps, Maps]]) -> tuple[Maps, Maps]:
        """What `read` returned for the task."""
        with self._lock:
            if self._kept is None or self._kept[0] != task:
                self._kept = task, read()
            return self._kept[1]

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Sample, ()  # a worker elsewhere reads its own


class Scorer:
    """Computes the parts of the scores from the stored maps. Several threads may do so at the same time."""

    def __init__(self, reader: Reader, threads: int) -> None:
        self.reader = reader
        self.plan = reader.plan
        self.vocabulary = reader.plan.vocabulary
        self.collected = reader.collected
        self.threads = threads
        self._sample = _Sample()

    def with_threads(self, threads: int) -> Scorer:
        """The same, with so many threads for each part."""
        other = copy(self)
        other.threads = threads
        return other

    def score(self, task: Task, block: int) -> Iterator[pa.Table]:
        """The tables of one part; they depend on nothing but plan, predictions and maps."""
        reference, records, scores = self._chance(task, block) if task.kind == "chance" else self._of_block(task, block)
        yield self._table(task, reference, records, scores)

    def _of_block(self, task: Task, block: int) -> tuple[Reference, np.ndarray, PairScores]:
        within = self.collected.records.within(block * part_files.BLOCK, (block + 1) * part_files.BLOCK)
        rows = np.arange(len(self.collected.records))[within]
        return self._jitter(task, within) if task.kind == "jitter" else self._pair(task, rows)

    def _pair(self, task: Task, rows: np.ndarray) -> tuple[Reference, np.ndarray, PairScores]:
        """(reference, records, scores) of a pair of checkpoints."""
        chosen = rows[(self.reader.selections[task.name] & self.reader.with_maps(task.method))[rows]]
        before, after = (self.reader.maps(side, task.layer, task.method, chosen) for side in (task.before, task.after))
        self._require_maps(chosen, before, after)
        with user_functions(self._image(chosen)):
            scores = pair_metrics(
                before.raw,
                after.raw,
                self.threads,
                before_reasons=before.codes,
                after_reasons=after.codes,
                size=self.plan.options.map_size,
                metrics=self.vocabulary.functions(),
            )
        observed = with_absolute_changes(scores, self.vocabulary)
        if task.pair is not None and task.pair.kind == "replicates":
            return "replicate", chosen, only(observed, self.vocabulary.stability)
        return "observed", chosen, observed

    def _require_maps(self, chosen: np.ndarray, *sides: Maps) -> None:
        """Refuse maps that lack a record which is to be compared."""
        lost = chosen[np.any([side.codes == NOT_COMPARED for side in sides], axis=0)]
        if len(lost):
            name = self.collected.samples[self.collected.records.images[lost[0]]].name
            raise InputError(
                f"{self.reader.store.folder}: its maps hold none of {name!r}, which was read; evaluate anew"
            )

    def _chance(self, task: Task, block: int) -> tuple[Reference, np.ndarray, PairScores]:
        """What a part of those records that have a chance level score against unrelated ones."""
        unrelated = self.reader.unrelated(task.name, task.method)
        records, part = unrelated.records, self._part_of(len(unrelated.records), block)
        before, after = self._maps_of(task, records)
        left = before.of(part)
        with user_functions(self._image(records[part])):
            mixed = partner_metrics(
                left.raw,
                after.raw,
                unrelated.partners[:, part],
                self.threads,
                before_reasons=left.codes,
                after_reasons=after.codes,
                size=self.plan.options.map_size,
                metrics=self.vocabulary.functions(),
                near=unrelated.near,
            )
        return "chance", records[part], self._mean_over_draws(mixed)

    def _part_of(self, count: int, block: int) -> np.ndarray:
        """The places of so many records that belong to a part: whole parts, as far as they go; the last are empty."""
        size = max(part_files.BLOCK, -(-count // len(self.reader.parts(0))))
        return np.arange(count)[block * size : (block + 1) * size]

    def _jitter(self, task: Task, within: slice) -> tuple[Reference, np.ndarray, PairScores]:
        """(reference, records, scores) of a checkpoint on images with noise, moved back, against itself."""
        place = task.before, task.layer, task.method
        noise = self.reader.noise(task.before).within(within.start, within.stop)
        noise = noise.among(self.reader.with_maps(task.method))
        clean, noisy = self.reader.maps(*place, noise.records), self.reader.noisy_maps(*place, noise)
        self._require_maps(noise.records, clean)
        self._require_maps(np.broadcast_to(noise.records, noise.draws.T.shape).ravel(), noisy)
        height, width = task.checkpoint.graph.metadata.input_size
        moves = np.array([shift_of(draw) for draw in noise.draws.T.ravel()]).reshape(*noise.draws.T.shape, 2)
        with user_functions(self._image(noise.records)):
            scores = partner_metrics(
                clean.raw,
                noisy.raw,
                np.arange(noise.draws.size).reshape(noise.draws.T.shape),
                self.threads,
                before_reasons=clean.codes,
                after_reasons=noisy.codes,
                size=self.plan.options.map_size,
                shifts=moves / (height, width),
                metrics=self.vocabulary.functions(),
            )
        return "jitter", noise.records, self._mean_over_draws(scores)

    def _mean_over_draws(self, scores: PairScores) -> PairScores:
        """The mean of what has a reference."""
        return mean_over_draws(only(with_absolute_changes(scores, self.vocabulary), self.vocabulary.stability))

    def _image(self, rows: np.ndarray) -> Callable[[int], str]:
        """What the images of some records are called in messages."""
        return lambda place: f"image {self.collected.samples[self.collected.records.images[rows[place]]].name!r}"

    def _maps_of(self, task: Task, records: np.ndarray) -> tuple[Maps, Maps]:
        """The maps before and after of some records, kept while the parts of one task are computed."""

        def read() -> tuple[Maps, Maps]:
            before, after = (self.reader.maps(n, task.layer, task.method, records) for n in (task.before, task.after))
            self._require_maps(records, before, after)
            return before, after

        return self._sample.of(task, read)

    def _table(self, task: Task, reference: str, rows: np.ndarray, scores: PairScores) -> pa.Table:
        """The long form: one row per record and metric."""
        width, count = len(scores.names), len(rows) * len(scores.names)
        samples, records = self.collected.samples, self.collected.records
        images, place = np.unique(records.images[rows], return_inverse=True)
        checkpoint = task.checkpoint
        columns = {
            "record": np.repeat(rows, width).astype(np.int32),
            "image": part_files.coded(np.repeat(place, width), [samples[image].name for image in images]),
            "group": part_files.coded(np.repeat(place, width), [samples[image].group for image in images]),
            "class": part_files.coded(np.repeat(records.classes[rows], width), self.plan.classes),
            "pair": part_files.text(task.name, count),
            "architecture": part_files.text(checkpoint.architecture, count),
            "phase": part_files.text(checkpoint.phase, count),
            "replicate": np.full(count, checkpoint.replicate, np.int32),
            "layer": part_files.text(task.layer, count),
            "method": part_files.text(task.method, count),
            "reference": part_files.text(reference, count),
            "metric": part_files.coded(np.tile(np.arange(width), len(rows)), scores.names),
            "value": scores.values.ravel(),
            "reason": part_files.reasons(scores.reasons.ravel()),
        }
        return pa.table(columns, schema=part_files.SCHEMAS["scores"])


def with_absolute_changes(scores: PairScores, vocabulary: Vocabulary) -> PairScores:
    """The scores with the absolute change of every concentration metric as further columns."""
    changes = [scores.column(name) for name in vocabulary.changes]
    values = np.concatenate([scores.values, np.stack([np.abs(value) for value, _ in changes], axis=-1)], axis=-1)
    codes = np.concatenate([scores.reasons, np.stack([code for _, code in changes], axis=-1)], axis=-1)
    return PairScores((*scores.names, *vocabulary.absolute_changes), values, codes)


def only(scores: PairScores, names: Sequence[str]) -> PairScores:
    """Some columns of the scores."""
    places = [scores.names.index(name) for name in names]
    return PairScores(tuple(names), scores.values[..., places], scores.reasons[..., places])

"""From stored maps to scores: what a pair scores, what chance would score, and what noise alone does.

Nothing here runs a model. Per layer and method there are three kinds of comparison, each written to `scores/`:

- a pair of checkpoints: `observed` (image i before and after) and `chance` (image i before, image j after, of the
  same class and another patient, as `harness.statistics.chance` draws them; of more than SAMPLE records for a
  sample of them only);
- a checkpoint with itself: `jitter` (the image, and the image with noise, moved by a pixel and moved back);
- two trainings of one phase: `replicate`.

A part is computed from the maps of its own block and, for chance, from those of the sample, so memory does not grow
with the number of images, and any part can be computed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from harness.common.errors import InputError
from harness.common.validation import user_functions
from harness.images.jitter import shift_of
from harness.results import part_files
from harness.results.reader import NOT_COMPARED, Maps, Reader, Reference, Task
from harness.results.vocabulary import Vocabulary
from harness.statistics.chance import SAMPLE, derangements, sampled
from kernels.metrics import pair_metrics
from kernels.partners import mean_over_draws, partner_metrics
from kernels.scoring import PairScores


@dataclass(frozen=True)
class Unrelated:
    """The records of a pair that get a chance level, ascending (n,), and their partners (draws, n), counted in them."""

    records: np.ndarray
    partners: np.ndarray


class Scorer:
    """Computes the parts of the scores from the stored maps."""

    def __init__(self, reader: Reader, threads: int) -> None:
        self.reader = reader
        self.plan = reader.plan
        self.vocabulary = reader.plan.vocabulary
        self.collected = reader.collected
        self.threads = threads
        self._unrelated: dict[str, Unrelated] = {}
        self._partners: tuple[tuple[str, ...], Maps] | None = None

    def score(self, task: Task, block: int) -> Iterator[pa.Table]:
        """The tables of one part, one per reference; they depend on nothing but plan, predictions and maps."""
        within = self.collected.records.within(block * part_files.BLOCK, (block + 1) * part_files.BLOCK)
        rows = np.arange(len(self.collected.records))[within]
        for reference, records, scores in (self._jitter if task.kind == "jitter" else self._pair)(task, rows):
            yield self._table(task, reference, records, scores)

    def _pair(self, task: Task, rows: np.ndarray) -> Iterator[tuple[Reference, np.ndarray, PairScores]]:
        """(reference, records, scores) of a pair of checkpoints."""
        chosen = rows[self.reader.selections[task.name][rows]]
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
            yield "replicate", chosen, only(observed, self.vocabulary.stability)
            return
        yield "observed", chosen, observed
        if self.plan.options.chance:
            yield self._chance(task, chosen, before)

    def _require_maps(self, chosen: np.ndarray, *sides: Maps) -> None:
        """Refuse maps that lack a record which is to be compared."""
        lost = np.flatnonzero(np.any([side.codes == NOT_COMPARED for side in sides], axis=0))
        if len(lost):
            name = self.collected.samples[self.collected.records.images[chosen[lost[0]]]].name
            raise InputError(
                f"{self.reader.store.folder}: its maps hold none of {name!r}, which was read; evaluate anew"
            )

    def _chance(self, task: Task, chosen: np.ndarray, before: Maps) -> tuple[Reference, np.ndarray, PairScores]:
        """What those of the records that are in the sample score against unrelated ones."""
        unrelated = self.unrelated(task.name)
        _, mine, drawn = np.intersect1d(chosen, unrelated.records, assume_unique=True, return_indices=True)
        left, right = before.of(mine), self._partners_of(task)
        with user_functions(self._image(chosen[mine])):
            mixed = partner_metrics(
                left.raw,
                right.raw,
                unrelated.partners[:, drawn],
                self.threads,
                before_reasons=left.codes,
                after_reasons=right.codes,
                size=self.plan.options.map_size,
                metrics=self.vocabulary.functions(),
            )
        return "chance", chosen[mine], self._mean_over_draws(mixed)

    def _jitter(self, task: Task, rows: np.ndarray) -> Iterator[tuple[Reference, np.ndarray, PairScores]]:
        """(reference, records, scores) of a checkpoint on images with noise, moved back, against itself."""
        place = task.before, task.layer, task.method
        draws = range(1, self.plan.options.jitter + 1)
        rows = rows[self.collected.readable[self.collected.records.images[rows]]]
        noisy = [self.reader.maps(*place, rows, draw) for draw in draws]
        inside = np.flatnonzero(noisy[0].codes != NOT_COMPARED)
        clean = self.reader.maps(*place, rows[inside])
        height, width = task.checkpoint.graph.metadata.input_size
        with user_functions(self._image(rows[inside])):
            scores = partner_metrics(
                clean.raw,
                np.concatenate([maps.raw[inside] for maps in noisy]),
                np.arange(len(noisy) * len(inside)).reshape(len(noisy), -1),
                self.threads,
                before_reasons=clean.codes,
                after_reasons=np.concatenate([maps.codes[inside] for maps in noisy]),
                size=self.plan.options.map_size,
                shifts=[(down / height, right / width) for down, right in map(shift_of, draws)],
                metrics=self.vocabulary.functions(),
            )
        yield "jitter", rows[inside], self._mean_over_draws(scores)

    def _mean_over_draws(self, scores: PairScores) -> PairScores:
        """The mean of what has a reference."""
        return mean_over_draws(only(with_absolute_changes(scores, self.vocabulary), self.vocabulary.stability))

    def _image(self, rows: np.ndarray) -> Callable[[int], str]:
        """What the images of some records are called in messages."""
        return lambda place: f"image {self.collected.samples[self.collected.records.images[rows[place]]].name!r}"

    def unrelated(self, pair: str) -> Unrelated:
        """The chance partners of the records of a pair."""
        if pair not in self._unrelated:
            self._unrelated[pair] = self._draw(np.flatnonzero(self.reader.selections[pair]))
        return self._unrelated[pair]

    def _draw(self, chosen: np.ndarray) -> Unrelated:
        records, samples, options = self.collected.records, self.collected.samples, self.plan.options

        def described(rows: np.ndarray) -> tuple[list[str], np.ndarray, list[str]]:
            images = [samples[image] for image in records.images[rows]]
            return [image.name for image in images], records.classes[rows], [image.group for image in images]

        drawn = chosen[sampled(*described(chosen), options.seed, SAMPLE)]
        return Unrelated(drawn, derangements(*described(drawn), options.chance, options.seed))

    def _partners_of(self, task: Task) -> Maps:
        """The maps after of the sample, kept while the parts of one task are computed."""
        place = task.name, task.layer, task.method
        if self._partners is None or self._partners[0] != place:
            records = self.unrelated(task.name).records
            self._partners = place, self.reader.maps(task.after, task.layer, task.method, records)
        return self._partners[1]

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

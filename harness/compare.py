"""From stored maps to scores: what a pair scores, what chance would score, and what noise alone does.

Nothing here runs a model. Per layer and method there are three kinds of comparison, each written to `scores/`:

- a pair of checkpoints: `observed` (image i before and after) and `chance` (image i before, image j after, of the
  same class and another patient, as `kernels.chance` draws them; of more than `kernels.chance.SAMPLE` records for a
  sample of them only);
- a checkpoint with itself: `jitter` (the image, and the image with noise, moved by a pixel and moved back);
- two trainings of one phase: `replicate`.

A part is computed from the maps of its own block and, for chance, from those of the sample, so memory does not grow
with the number of images, and any part can be computed alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa

from harness import store
from harness.collect import shift_of
from harness.dataset import UNLABELLED, Records, Sample
from harness.errors import InputError
from harness.model import GraphMetadata
from harness.store import Store
from harness.study import Checkpoint, Pair, Plan, Selection
from kernels.chance import SAMPLE, derangements, mean_over_draws, partner_metrics, sampled
from kernels.metrics import METRICS, pair_metrics
from kernels.scoring import PairScores

Reference = Literal["observed", "chance", "jitter", "replicate"]
NOT_COMPARED = 255  # the code of a record that is not in a selection; never written

CONCENTRATION = tuple(record.name for record in METRICS.values() if record.kind == "concentration")
PAIR_METRICS = tuple(record.name for record in METRICS.values() if record.kind == "pair")
SHIFTS = tuple(f"{name}_shift" for name in CONCENTRATION)  # |change|: a concentration as a pair metric
STABILITY = PAIR_METRICS + SHIFTS  # what has a chance level, a floor and an index
COLUMNS = (*(column for record in METRICS.values() for column in record.columns), *SHIFTS)
DIRECTIONS = {**{name: METRICS[name].direction for name in PAIR_METRICS}, **dict.fromkeys(SHIFTS, -1)}


@dataclass(frozen=True)
class Scores:
    """One reference of one task over all records: values (R, M), NaN where undefined or not compared.

    codes (R, M): why; NOT_COMPARED where the record is not in the selection.
    """

    names: tuple[str, ...]
    values: np.ndarray
    codes: np.ndarray

    @property
    def compared(self) -> np.ndarray:
        """(R,) records that have a score, defined or not."""
        return self.codes[:, 0] != NOT_COMPARED


@dataclass(frozen=True)
class Maps:
    """Raw maps (n, h, w) of some records and the codes (n,) of their reasons, NOT_COMPARED where there is no map."""

    raw: np.ndarray
    codes: np.ndarray

    def of(self, places: np.ndarray) -> Maps:
        """Some of them."""
        return Maps(self.raw[places], self.codes[places])


@dataclass(frozen=True)
class Unrelated:
    """The records of a pair that get a chance level, ascending (n,), and their partners (draws, n), counted in them."""

    records: np.ndarray
    partners: np.ndarray


@dataclass(frozen=True)
class Task:
    """A place in the plan: whose maps of which layer and method are compared."""

    name: str
    kind: Literal["pair", "jitter"]
    before: int  # index of the checkpoint
    after: int
    layer: str
    method: str
    checkpoint: Checkpoint  # whose architecture, phase and replicate the rows carry
    pair: Pair | None = None


@dataclass(frozen=True)
class Collected:
    """What the checkpoints said: read back from `predictions/`, in the order of the plan."""

    samples: Sequence[Sample]
    records: Records  # with the classes that are explained
    logits: Sequence[np.ndarray]  # per checkpoint (images, K), NaN where any checkpoint could not read the image
    errors: dict[str, str]  # image -> what is wrong with it

    @property
    def readable(self) -> np.ndarray:
        """(images,) bool."""
        return np.isfinite(self.logits[0]).all(axis=1)


def tasks(plan: Plan) -> list[Task]:
    """Every comparison of the plan, in the order of their parts."""
    places = [(layer, method) for layer in plan.layers for method in plan.options.methods]
    with_noise = plan.checkpoints if plan.options.jitter else ()
    alone = [
        Task(checkpoint.key, "jitter", number, number, layer, method, checkpoint)
        for number, checkpoint in enumerate(with_noise)
        for layer, method in places
    ]
    return alone + [
        Task(
            pair.name,
            "pair",
            plan.place(pair.before),
            plan.place(pair.after),
            layer,
            method,
            plan.by_key[pair.after],
            pair,
        )
        for pair in plan.pairs
        for layer, method in places
    ]


def selected(
    metadata: GraphMetadata, records: Records, before: np.ndarray, after: np.ndarray, select: Selection
) -> np.ndarray:
    """(R,) which records are compared, from the logits (images, K) of two checkpoints.

    true-positive: both say yes to the explained class; agree: both decide alike (in a multi-label model: on the
    explained class); all: every image that could be read.
    """
    said = [metadata.decisions(logits)[records.images] for logits in (before, after)]  # (R, K)
    readable = np.isfinite(before).all(axis=1)[records.images]
    chosen = np.maximum(records.classes, 0)[:, None]
    on_class = [np.take_along_axis(decided, chosen, axis=1)[:, 0] for decided in said]
    if select == "true-positive":
        return readable & on_class[0] & on_class[1]
    if select == "agree":
        alike = on_class[0] == on_class[1] if metadata.score_kind == "multilabel" else (said[0] == said[1]).all(axis=1)
        return readable & alike
    return readable


class Comparer:
    """Computes the parts of comparisons from the stored maps, and reads their scores back."""

    def __init__(self, plan: Plan, collected: Collected, select: Selection, folder: Store, threads: int) -> None:
        self.plan = plan
        self.collected = collected
        self.select = select
        self.store = folder
        self.threads = threads
        self.blocks = len(self.numbers(0))  # parts of a task
        self._unrelated: dict[str, Unrelated] = {}
        self._partners: tuple[tuple[str, ...], Maps] | None = None

    @cached_property
    def selections(self) -> dict[str, np.ndarray]:
        """Pair -> (R,) records that are compared; two replicates are compared on every image."""
        logits, records = self.collected.logits, self.collected.records
        return {
            pair.name: selected(
                self.plan.by_key[pair.after].graph.metadata,
                records,
                logits[self.plan.place(pair.before)],
                logits[self.plan.place(pair.after)],
                "all" if pair.kind == "replicates" else self.select,
            )
            for pair in self.plan.pairs
        }

    def numbers(self, task: int) -> range:
        """The numbers of the parts that hold a task's scores."""
        return store.parts_of(task, len(self.collected.samples))

    def score(self, task: Task, block: int) -> Iterator[pa.Table]:
        """The tables of one part, one per reference; they depend on nothing but plan, predictions and maps."""
        within = self.collected.records.within(block * store.BLOCK, (block + 1) * store.BLOCK)
        rows = np.arange(len(self.collected.records))[within]
        for reference, records, scores in (self._jitter if task.kind == "jitter" else self._pair)(task, rows):
            yield self._table(task, reference, records, scores)

    def read(self, number: int, reference: Reference, names: Sequence[str] | None = None) -> Scores:
        """The stored scores of one reference of a task: all its metrics, or those of `names`."""
        columns = COLUMNS if reference == "observed" else STABILITY
        names = columns if names is None else tuple(names)
        places = [columns.index(name) for name in names]
        shape = (len(self.collected.records), len(names))
        values, codes = np.full(shape, np.nan), np.full(shape, NOT_COMPARED, np.uint8)
        for rows in self.store.scan("scores", self.numbers(number), ["record", "value", "reason"], reference=reference):
            records = rows["record"].to_numpy()[:: len(columns)]
            values[records] = rows["value"].to_numpy().reshape(-1, len(columns))[:, places]
            codes[records] = store.reason_codes(rows["reason"]).reshape(-1, len(columns))[:, places]
        return Scores(names, values, codes)

    def maps(self, checkpoint: int, layer: str, method: str, records: np.ndarray, draw: int = 0) -> Maps:
        """The maps of some records, each named once, in their order. Only the parts that hold them are read."""
        raw, codes = None, np.full(len(records), NOT_COMPARED, np.uint8)
        numbers = store.parts_of(checkpoint, len(self.collected.samples))
        parts = [numbers[block] for block in np.unique(self.collected.records.images[records] // store.BLOCK)]
        columns = ["record", "reason", "height", "width", "map"]
        for rows in self.store.scan("maps", parts, columns, layer=layer, method=method, draw=draw):
            stored = rows["record"].to_numpy()
            _, mine, there = np.intersect1d(records, stored, assume_unique=True, return_indices=True)
            if len(mine):
                found = _raw(rows)[there]
                raw = np.zeros((len(records), *found.shape[1:]), np.float32) if raw is None else raw
                raw[mine] = found
                codes[mine] = store.reason_codes(rows["reason"])[there]
        return Maps(np.zeros((len(records), 1, 1), np.float32) if raw is None else raw, codes)

    def _pair(self, task: Task, rows: np.ndarray) -> Iterator[tuple[Reference, np.ndarray, PairScores]]:
        """(reference, records, scores) of a pair of checkpoints."""
        chosen = rows[self.selections[task.name][rows]]
        before, after = (self.maps(side, task.layer, task.method, chosen) for side in (task.before, task.after))
        self._require_maps(chosen, before, after)
        reasons = {"before_reasons": before.codes, "after_reasons": after.codes}
        scores = pair_metrics(before.raw, after.raw, self.threads, **reasons, size=self.plan.options.map_size)
        observed = with_shifts(scores)
        if task.pair is not None and task.pair.kind == "replicates":
            yield "replicate", chosen, only(observed, STABILITY)
            return
        yield "observed", chosen, observed
        if self.plan.options.chance:
            yield self._chance(task, chosen, before)

    def _require_maps(self, chosen: np.ndarray, *sides: Maps) -> None:
        """Refuse maps that lack a record which is to be compared."""
        lost = np.flatnonzero(np.any([side.codes == NOT_COMPARED for side in sides], axis=0))
        if len(lost):
            name = self.collected.samples[self.collected.records.images[chosen[lost[0]]]].name
            raise InputError(f"{self.store.folder}: its maps hold none of {name!r}, which was read; evaluate anew")

    def _chance(self, task: Task, chosen: np.ndarray, before: Maps) -> tuple[Reference, np.ndarray, PairScores]:
        """What those of the records that are in the sample score against unrelated ones."""
        unrelated = self.unrelated(task.name)
        _, mine, drawn = np.intersect1d(chosen, unrelated.records, assume_unique=True, return_indices=True)
        left, right = before.of(mine), self._partners_of(task)
        mixed = partner_metrics(
            left.raw,
            right.raw,
            unrelated.partners[:, drawn],
            self.threads,
            before_reasons=left.codes,
            after_reasons=right.codes,
            size=self.plan.options.map_size,
        )
        return "chance", chosen[mine], mean_over_draws(only(with_shifts(mixed), STABILITY))

    def _jitter(self, task: Task, rows: np.ndarray) -> Iterator[tuple[Reference, np.ndarray, PairScores]]:
        """(reference, records, scores) of a checkpoint on images with noise, moved back, against itself."""
        place = task.before, task.layer, task.method
        draws = range(1, self.plan.options.jitter + 1)
        rows = rows[self.collected.readable[self.collected.records.images[rows]]]
        noisy = [self.maps(*place, rows, draw) for draw in draws]
        inside = np.flatnonzero(noisy[0].codes != NOT_COMPARED)
        clean = self.maps(*place, rows[inside])
        height, width = task.checkpoint.graph.metadata.input_size
        scores = partner_metrics(
            clean.raw,
            np.concatenate([maps.raw[inside] for maps in noisy]),
            np.arange(len(noisy) * len(inside)).reshape(len(noisy), -1),
            self.threads,
            before_reasons=clean.codes,
            after_reasons=np.concatenate([maps.codes[inside] for maps in noisy]),
            size=self.plan.options.map_size,
            shifts=[(down / height, right / width) for down, right in map(shift_of, draws)],
        )
        yield "jitter", rows[inside], mean_over_draws(only(with_shifts(scores), STABILITY))

    def unrelated(self, pair: str) -> Unrelated:
        """Whom the records of a pair meet by chance."""
        if pair not in self._unrelated:
            self._unrelated[pair] = self._draw(np.flatnonzero(self.selections[pair]))
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
            self._partners = place, self.maps(task.after, task.layer, task.method, records)
        return self._partners[1]

    def _table(self, task: Task, reference: str, rows: np.ndarray, scores: PairScores) -> pa.Table:
        """The long form: one row per record and metric."""
        width, count = len(scores.names), len(rows) * len(scores.names)
        samples, records = self.collected.samples, self.collected.records
        images, place = np.unique(records.images[rows], return_inverse=True)
        checkpoint = task.checkpoint
        columns = {
            "record": np.repeat(rows, width).astype(np.int32),
            "image": store.coded(np.repeat(place, width), [samples[image].name for image in images]),
            "group": store.coded(np.repeat(place, width), [samples[image].group for image in images]),
            "class": store.coded(np.repeat(records.classes[rows], width), self.plan.classes),
            "pair": store.text(task.name, count),
            "architecture": store.text(checkpoint.architecture, count),
            "phase": store.text(checkpoint.phase, count),
            "replicate": np.full(count, checkpoint.replicate, np.int32),
            "layer": store.text(task.layer, count),
            "method": store.text(task.method, count),
            "reference": store.text(reference, count),
            "metric": store.coded(np.tile(np.arange(width), len(rows)), scores.names),
            "value": scores.values.ravel(),
            "reason": store.reasons(scores.reasons.ravel()),
        }
        return pa.table(columns, schema=store.SCHEMAS["scores"])


def with_shifts(scores: PairScores) -> PairScores:
    """The scores with |change| of every concentration metric as further columns."""
    changes = [scores.column(f"{name}_change") for name in CONCENTRATION]
    values = np.concatenate([scores.values, np.stack([np.abs(value) for value, _ in changes], axis=-1)], axis=-1)
    codes = np.concatenate([scores.reasons, np.stack([code for _, code in changes], axis=-1)], axis=-1)
    return PairScores((*scores.names, *SHIFTS), values, codes)


def only(scores: PairScores, names: Sequence[str]) -> PairScores:
    """Some columns of the scores."""
    places = [scores.names.index(name) for name in names]
    return PairScores(tuple(names), scores.values[..., places], scores.reasons[..., places])


def _raw(rows: pa.Table) -> np.ndarray:
    """Maps (n, h, w) of rows of `maps/`."""
    flat = np.concatenate([chunk.flatten().to_numpy() for chunk in rows["map"].chunks])
    return flat.reshape(len(rows), rows["height"][0].as_py(), rows["width"][0].as_py())


def read_collected(folder: Store, plan: Plan, samples: Sequence[Sample], count: int) -> Collected:
    """Logits and errors of the first `count` checkpoints; the classes of unlabelled images are what the first says.

    An image that one of them could not read has no logits in any: all numbers are of the same images.
    """
    tables = [folder.read("predictions", store.parts_of(n, len(samples))) for n in range(count)]
    width = 1 if plan.score_kind == "binary" else len(plan.classes)
    logits = [_logits(table, width) for table in tables]
    records = _with_classes(Records.of(samples), plan.checkpoints[0].graph.metadata, logits[0])
    errors = _errors(tables)
    unread = [number for number, sample in enumerate(samples) if sample.name in errors]
    for values in logits:
        values[unread] = np.nan
    return Collected(samples, records, logits, errors)


def _errors(tables: Sequence[pa.Table]) -> dict[str, str]:
    """Image -> the first sentence about it in tables of predictions."""
    found: dict[str, str] = {}
    for table in tables:
        for row in table.filter(table["error"].is_valid()).select(["image", "error"]).to_pylist():
            found.setdefault(row["image"], row["error"])
    return found


def _logits(table: pa.Table, width: int) -> np.ndarray:
    column = table["logits"].combine_chunks()
    there = column.is_valid().to_numpy(zero_copy_only=False)
    found = np.full((len(there), width), np.nan, np.float32)
    found[there] = column.flatten().to_numpy().reshape(-1, width)
    return found


def _with_classes(records: Records, metadata: GraphMetadata, logits: np.ndarray) -> Records:
    chosen = metadata.decisions(logits).argmax(axis=1)[records.images]
    return Records(records.images, np.where(records.classes == UNLABELLED, chosen, records.classes))

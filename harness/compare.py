"""From stored maps to scores: what a pair scores, what chance would score, and what noise alone does.

Nothing here runs a model. Per layer and method there are three kinds of comparison, each written to `scores/`:

- a pair of checkpoints: `observed` (image i before and after) and `chance` (image i before, image j after, of the
  same class and another patient, as `kernels.chance` draws them);
- a checkpoint with itself: `jitter` (the image, and the image with noise, moved by a pixel and moved back);
- two trainings of one phase: `replicate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa

from harness import store
from harness.collect import shift_of
from harness.dataset import UNLABELLED, Records, Sample
from harness.model import GraphMetadata
from harness.store import Store
from harness.study import Checkpoint, Pair, Plan, Selection
from kernels.chance import derangements, mean_over_draws, partner_metrics
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
    logits: Sequence[np.ndarray]  # per checkpoint (images, K), NaN where the image could not be read
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
    """Computes the parts of comparisons from the stored maps."""

    def __init__(self, plan: Plan, collected: Collected, select: Selection, folder: Store, threads: int) -> None:
        self.plan = plan
        self.collected = collected
        self.select = select
        self.store = folder
        self.threads = threads
        self.blocks = len(self.numbers(0))  # parts of a task

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

    def write(self, number: int, task: Task, progress: Callable[[int], None]) -> None:
        """Compute and write the parts of one task that are not there yet."""
        todo = [(block, part) for block, part in enumerate(self.numbers(number)) if not self.store.has("scores", part)]
        if not todo:
            return
        score = self._jitter_scorer(task) if task.kind == "jitter" else self._pair_scorer(task)
        for block, part in todo:
            within = self.collected.records.within(block * store.BLOCK, (block + 1) * store.BLOCK)
            rows = np.arange(len(self.collected.records))[within]
            tables = [self._table(task, *found) for found in score(rows)]
            self.store.write("scores", part, tables)
            progress(1)

    def read(self, number: int, reference: Reference) -> Scores:
        """The stored scores of one reference of a task."""
        columns = ["record", "metric", "value", "reason"]
        rows = self.store.read("scores", self.numbers(number), columns, reference=reference)
        names = COLUMNS if reference == "observed" else STABILITY
        shape = (len(self.collected.records), len(names))
        values, codes = np.full(shape, np.nan), np.full(shape, NOT_COMPARED, np.uint8)
        places = rows["record"].to_numpy()[:: len(names)]
        values[places] = rows["value"].to_numpy().reshape(-1, len(names))
        codes[places] = store.reason_codes(rows["reason"]).reshape(-1, len(names))
        return Scores(names, values, codes)

    def maps(self, checkpoint: int, layer: str, method: str, draw: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Raw maps (R, h, w) and reason codes (R,), NOT_COMPARED for a record that has no such map."""
        numbers = store.parts_of(checkpoint, len(self.collected.samples))
        columns = ["record", "reason", "height", "width", "map"]
        rows = self.store.read("maps", numbers, columns, layer=layer, method=method, draw=draw)
        count = len(self.collected.records)
        codes = np.full(count, NOT_COMPARED, np.uint8)
        if not len(rows):
            return np.zeros((count, 1, 1), np.float32), codes
        height, width = rows["height"][0].as_py(), rows["width"][0].as_py()
        maps = np.zeros((count, height, width), np.float32)
        places = rows["record"].to_numpy()
        flat = np.concatenate([chunk.flatten().to_numpy() for chunk in rows["map"].chunks])
        maps[places] = flat.reshape(-1, height, width)
        codes[places] = store.reason_codes(rows["reason"])
        return maps, codes

    def _pair_scorer(self, task: Task) -> Callable[[np.ndarray], Iterator]:
        """rows -> (reference, rows, scores) of a pair of checkpoints."""
        assert task.pair is not None
        chosen = np.flatnonzero(self.selections[task.name])
        sides = [self.maps(side, task.layer, task.method) for side in (task.before, task.after)]
        (before, before_codes), (after, after_codes) = [(maps[chosen], codes[chosen]) for maps, codes in sides]
        reasons = {"before_reasons": before_codes, "after_reasons": after_codes}
        observed = with_shifts(pair_metrics(before, after, self.threads, **reasons, size=self.plan.options.map_size))
        replicates, draws = task.pair.kind == "replicates", self.plan.options.chance
        partners = self._partners(chosen, draws) if draws and not replicates else None

        def score(rows: np.ndarray) -> Iterator:
            inside = np.flatnonzero(np.isin(chosen, rows))
            mine = PairScores(observed.names, observed.values[inside], observed.reasons[inside])
            if replicates:
                yield "replicate", chosen[inside], only(mine, STABILITY)
                return
            yield "observed", chosen[inside], mine
            if partners is None:
                return
            mixed = partner_metrics(
                before[inside],
                after,
                partners[:, inside],
                self.threads,
                before_reasons=before_codes[inside],
                after_reasons=after_codes,
                size=self.plan.options.map_size,
            )
            yield "chance", chosen[inside], mean_over_draws(only(with_shifts(mixed), STABILITY))

        return score

    def _jitter_scorer(self, task: Task) -> Callable[[np.ndarray], Iterator]:
        """rows -> (reference, rows, scores) of a checkpoint on images with noise, moved back, against itself."""
        place = task.before, task.layer, task.method
        clean, clean_codes = self.maps(*place)
        draws = range(1, self.plan.options.jitter + 1)
        noisy = [self.maps(*place, draw=draw) for draw in draws]
        height, width = task.checkpoint.graph.metadata.input_size
        moves = [(down / height, right / width) for down, right in map(shift_of, draws)]

        def score(rows: np.ndarray) -> Iterator:
            inside = rows[noisy[0][1][rows] != NOT_COMPARED]
            scores = partner_metrics(
                clean[inside],
                np.concatenate([maps[inside] for maps, _ in noisy]),
                np.arange(len(noisy) * len(inside)).reshape(len(noisy), -1),
                self.threads,
                before_reasons=clean_codes[inside],
                after_reasons=np.concatenate([codes[inside] for _, codes in noisy]),
                size=self.plan.options.map_size,
                shifts=moves,
            )
            yield "jitter", inside, mean_over_draws(only(with_shifts(scores), STABILITY))

        return score

    def _partners(self, chosen: np.ndarray, draws: int) -> np.ndarray:
        """(draws, n) partners among the chosen records."""
        records, samples = self.collected.records, self.collected.samples
        images = [samples[image] for image in records.images[chosen]]
        return derangements(
            [sample.name for sample in images],
            records.classes[chosen],
            [sample.group for sample in images],
            draws,
            self.plan.options.seed,
        )

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


def read_collected(folder: Store, plan: Plan, samples: Sequence[Sample], count: int) -> Collected:
    """Logits and errors of the first `count` checkpoints; the classes of unlabelled images are what the first says."""
    tables = [folder.read("predictions", store.parts_of(n, len(samples))) for n in range(count)]
    width = 1 if plan.score_kind == "binary" else len(plan.classes)
    logits = [_logits(table, width) for table in tables]
    rows = zip(tables[0]["image"].to_pylist(), tables[0]["error"].to_pylist(), strict=True)
    records = _with_classes(Records.of(samples), plan.checkpoints[0].graph.metadata, logits[0])
    return Collected(samples, records, logits, {image: error for image, error in rows if error is not None})


def _logits(table: pa.Table, width: int) -> np.ndarray:
    column = table["logits"].combine_chunks()
    there = column.is_valid().to_numpy(zero_copy_only=False)
    found = np.full((len(there), width), np.nan, np.float32)
    found[there] = column.flatten().to_numpy().reshape(-1, width)
    return found


def _with_classes(records: Records, metadata: GraphMetadata, logits: np.ndarray) -> Records:
    chosen = metadata.decisions(logits).argmax(axis=1)[records.images]
    return Records(records.images, np.where(records.classes == UNLABELLED, chosen, records.classes))

"""Reading a result folder: predictions, maps and scores, and the comparisons that a plan lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from harness.images.dataset import UNLABELLED, Records, Sample
from harness.models.metadata import GraphMetadata
from harness.results import part_files
from harness.results.options import Selection
from harness.results.part_files import Store
from harness.results.part_labels import PartLabels, plan_digest
from harness.results.plan import Checkpoint, Pair, Plan, StoredPlan
from harness.results.references import Noise, References, Unrelated, pairs_with_noise
from harness.results.selection import Answers, answers, sampled_records, selected
from harness.statistics.chance import sampled
from kernels.reasons import Reason

Reference = Literal["observed", "chance", "jitter", "replicate"]
NOT_COMPARED = 255  # the code of a record that is not in a selection; never written


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
class Task:
    """A place in the plan: whose maps of which layer and method are compared."""

    name: str
    kind: Literal["jitter", "pair", "chance"]
    before: int  # index of the checkpoint
    after: int
    layer: str
    method: str
    checkpoint: Checkpoint  # whose architecture, phase and replicate the rows carry
    pair: Pair | None = None


@dataclass(frozen=True)
class Predictions:
    """What the checkpoints said: read back from `predictions/`, in the order of the plan."""

    samples: Sequence[Sample]
    records: Records  # with the classes that are explained
    logits: Sequence[np.ndarray]  # per checkpoint (images, K), NaN where any checkpoint could not read the image
    errors: dict[str, str]  # image -> what is wrong with it
    notices: dict[str, list[str]]  # what else is to be said about pictures (`harness.images.notices`) -> images

    @property
    def readable(self) -> np.ndarray:
        """(images,) bool."""
        return np.isfinite(self.logits[0]).all(axis=1)


def tasks(plan: Plan) -> list[Task]:
    """Every comparison of the plan, in the order of their parts."""
    noise = [
        Task(checkpoint.key, "jitter", number, number, layer, method, checkpoint)
        for number, checkpoint in with_noise(plan)
        for layer, method in plan.layer_methods
    ]
    return [*noise, *_of_pairs(plan, "pair", plan.pairs), *_of_pairs(plan, "chance", plan.drifts)]


def _of_pairs(plan: Plan, kind: Literal["pair", "chance"], pairs: Sequence[Pair]) -> Iterator[Task]:
    if kind == "chance" and plan.options.chance == 0:
        return
    for pair in pairs:
        for layer, method in plan.layer_methods:
            yield Task(pair.name, kind, *plan.sides(pair), layer, method, plan.by_key[pair.after], pair)


def with_noise(plan: Plan) -> list[tuple[int, Checkpoint]]:
    """(place, checkpoint) of those that see noisy copies: by budget only where noise is the floor of a pair."""
    numbered = list(enumerate(plan.checkpoints))
    if plan.options.jitter is not None:
        return numbered if plan.options.jitter else []
    keys = {key for pair in pairs_with_noise(plan) for key in (pair.before, pair.after)}
    return [(number, checkpoint) for number, checkpoint in numbered if checkpoint.key in keys]


def noise_parts(plan: Plan, checkpoint: int, images: int) -> range:
    """Numbers of the parts of `maps/` that hold the maps of a checkpoint's noisy copies."""
    place = [number for number, _ in with_noise(plan)].index(checkpoint)
    return part_files.parts_of(len(plan.checkpoints) + place, images)


def labels_of(stored: StoredPlan) -> PartLabels:
    """What every part of an evaluation belongs to.

    Predictions and maps depend on the images and the seed of their noise; layers and methods may be fewer after
    `--from`. Scores depend on everything that decides a number.
    """
    plan = stored.plan
    digests = [checkpoint.graph.digest for checkpoint in plan.checkpoints]
    explained = [(item.key, "", (item.graph.digest,)) for item in plan.checkpoints]
    noisy = [(item.key, "with noise", (item.graph.digest,)) for _, item in with_noise(plan)]
    scored = [(task.name, _path_of(task), (digests[task.before], digests[task.after])) for task in tasks(plan)]
    data = {"data_digest": stored.data_digest, "images": stored.images, "jitter_seed": stored.jitter_seed}
    for_maps, for_scores = plan_digest(data), plan_digest({**data, **stored.statistics()})
    return PartLabels(
        {"predictions": explained, "maps": [*explained, *noisy], "scores": scored},
        {"predictions": for_maps, "maps": for_maps, "scores": for_scores},
        len(part_files.parts_of(0, stored.images)),
    )


def _path_of(task: Task) -> str:
    """What tells the parts of a task from others of the same name."""
    place = f"{task.layer}, {task.method}"
    return f"{place}, chance" if task.kind == "chance" else place


def maps_of_rows(rows: pa.Table) -> np.ndarray:
    """Maps (n, h, w) of rows of `maps/`."""
    flat = np.concatenate([chunk.flatten().to_numpy() for chunk in rows["map"].chunks])
    return flat.reshape(len(rows), rows["height"][0].as_py(), rows["width"][0].as_py())


def _paired(records: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """int64 (n,): one number for a record and a draw."""
    return records.astype(np.int64) << 32 | draws.astype(np.int64)


def read_collected(folder: Store, plan: Plan, samples: Sequence[Sample], count: int) -> Predictions:
    """Logits and errors of the first `count` checkpoints; the classes of unlabelled images are what the first says.

    An image that one of them could not read has no logits in any: all numbers are of the same images.
    """
    tables = [folder.read("predictions", part_files.parts_of(n, len(samples))) for n in range(count)]
    width = 1 if plan.score_kind == "binary" else len(plan.classes)
    logits = [_logits(table, width) for table in tables]
    records = _with_classes(Records.of(samples), plan.checkpoints[0].graph.metadata, logits[0])
    errors = _errors(tables)
    unread = [number for number, sample in enumerate(samples) if sample.name in errors]
    for values in logits:
        values[unread] = np.nan
    return Predictions(samples, records, logits, errors, _notices(tables[0]))


def _errors(tables: Sequence[pa.Table]) -> dict[str, str]:
    """Image -> the first sentence about it in tables of predictions."""
    found: dict[str, str] = {}
    for table in tables:
        for row in table.filter(table["error"].is_valid()).select(["image", "error"]).to_pylist():
            found.setdefault(row["image"], row["error"])
    return found


def _notices(table: pa.Table) -> dict[str, list[str]]:
    """Kind of notice -> the images that have it."""
    found: dict[str, list[str]] = {}
    for row in table.select(["image", "notices"]).to_pylist():
        for kind in row["notices"] or ():
            found.setdefault(kind, []).append(row["image"])
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


class Reader:
    """Predictions, maps and scores of a result folder, for the comparisons of a plan.

    noise_seed: with which the noise of the maps was drawn, by default the plan's
    """

    def __init__(
        self, plan: Plan, collected: Predictions, select: Selection, store: Store, noise_seed: int | None = None
    ) -> None:
        self.plan = plan
        self.collected = collected
        self.select = select
        self.store = store
        self._noise_seed = plan.options.seed if noise_seed is None else noise_seed
        self._empty: dict[tuple[int, str, str], np.ndarray] = {}
        self._noise: dict[int, Noise] = {}

    @cached_property
    def selections(self) -> dict[str, np.ndarray]:
        """Pair -> (R,) records that are compared; two replicates are compared on every image."""
        return {
            pair.name: selected(
                self.plan.by_key[pair.after].graph.metadata,
                self.collected.records,
                *self._logits(pair),
                "all" if pair.kind == "replicates" else self.select,
            )
            for pair in self.plan.pairs
        }

    @cached_property
    def sampled(self) -> np.ndarray:
        """(R,) bool: the records that methods of several passes were computed for."""
        return sampled_records(self.collected.samples, self.plan)

    def with_maps(self, method: str) -> np.ndarray:
        """(R,) bool: the records that a method was computed for."""
        if method in self.plan.methods_of_several_passes:
            return self.sampled
        return np.ones(len(self.collected.records), bool)

    def described(self, rows: np.ndarray) -> tuple[list[str], np.ndarray, list[str]]:
        """Name, class and patient of some records."""
        return self.collected.records.described(self.collected.samples, rows)

    def sample_of(self, pair: Pair, limit: int) -> np.ndarray:
        """At most `limit` of the records that a pair compares and all methods have maps of, as many of each class."""
        compared = self.selections[pair.name].copy()
        for method in self.plan.options.methods:
            compared &= self.with_maps(method)
        chosen = np.flatnonzero(compared)
        return chosen[sampled(*self.described(chosen), self.plan.options.seed, limit)]

    def unrelated(self, pair: str, method: str) -> Unrelated:
        """The chance partners of the records of a pair that a method was computed for."""
        dear = method in self.plan.methods_of_several_passes
        return self.references.unrelated(pair, self.sampled if dear else None)

    def residuals(self, checkpoint: int, layer: str, method: str) -> np.ndarray:
        """Residuals of completeness of the images' maps, of a method that has them; else none."""
        numbers = part_files.parts_of(checkpoint, len(self.collected.samples))
        found = [
            rows["residual"].drop_null().to_numpy()
            for rows in self.store.scan("maps", numbers, ["residual"], layer=layer, method=method, draw=0)
        ]
        return np.concatenate(found)

    @cached_property
    def references(self) -> References:
        """What the records of the pairs are held against."""
        collected = self.collected
        return References(
            self.plan, collected.samples, collected.records, self.selections, self._noise_seed, self._without_map
        )

    def _without_map(self, checkpoint: int, layer: str, method: str) -> np.ndarray:
        """(R,) records of which a checkpoint has a map that is undefined or zero everywhere."""
        key = checkpoint, layer, method
        if key not in self._empty:
            found = np.zeros(len(self.collected.records), bool)
            parts = part_files.parts_of(checkpoint, len(self.collected.samples))
            columns = ["record", "reason", "height", "width", "map"]
            for rows in self.store.scan("maps", parts, columns, layer=layer, method=method, draw=0):
                if len(rows):
                    defined = part_files.reason_codes(rows["reason"]) == Reason.DEFINED
                    found[rows["record"].to_numpy()] = ~(defined & maps_of_rows(rows).any(axis=(1, 2)))
            self._empty[key] = found
        return self._empty[key]

    def noise(self, checkpoint: int) -> Noise:
        """The records of which a checkpoint sees noisy copies; looked for once, as every block of scores asks."""
        if checkpoint not in self._noise:
            found = self.references.noise(checkpoint, self.collected.logits[checkpoint], self.select)
            self._noise[checkpoint] = found
        return self._noise[checkpoint]

    def answers(self, pair: Pair) -> Answers:
        """What the checkpoints of a pair say about each record."""
        metadata = self.plan.by_key[pair.after].graph.metadata
        return answers(metadata, self.collected.records, *self._logits(pair))

    def _logits(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        """(images, K) of the checkpoints before and after."""
        before, after = self.plan.sides(pair)
        return self.collected.logits[before], self.collected.logits[after]

    @property
    def labelled(self) -> bool:
        """True where every image has its classes, so that an answer can be right."""
        return all(sample.labels is not None for sample in self.collected.samples)

    def parts(self, task: int) -> range:
        """The numbers of the parts that hold the scores of a task."""
        return part_files.parts_of(task, len(self.collected.samples))

    def scores(self, number: int, reference: Reference, names: Sequence[str] | None = None) -> Scores:
        """The stored scores of one reference of a task: all its metrics, or those of `names`."""
        vocabulary = self.plan.vocabulary
        columns = vocabulary.columns if reference == "observed" else vocabulary.stability
        names = columns if names is None else tuple(names)
        places = [columns.index(name) for name in names]
        shape = (len(self.collected.records), len(names))
        values, codes = np.full(shape, np.nan), np.full(shape, NOT_COMPARED, np.uint8)
        for rows in self.store.scan("scores", self.parts(number), ["record", "value", "reason"], reference=reference):
            records = rows["record"].to_numpy()[:: len(columns)]
            values[records] = rows["value"].to_numpy().reshape(-1, len(columns))[:, places]
            codes[records] = part_files.reason_codes(rows["reason"]).reshape(-1, len(columns))[:, places]
        return Scores(names, values, codes)

    def drift_and_noise(self, pair: Pair, layer: str, method: str, metric: str) -> tuple[Scores, np.ndarray]:
        """A metric of the records before and after, and of those checkpoints that see noise (any number, R)."""
        here = [(n, task) for n, task in enumerate(tasks(self.plan)) if (task.layer, task.method) == (layer, method)]
        observed = next(n for n, task in here if task.kind == "pair" and task.pair == pair)
        noise = [n for n, task in here if task.kind == "jitter" and task.before in self.plan.sides(pair)]
        values = [self.scores(n, "jitter", [metric]).values[:, 0] for n in noise]
        return self.scores(observed, "observed", [metric]), np.array(values).reshape(
            len(noise), len(self.collected.records)
        )

    def maps(self, checkpoint: int, layer: str, method: str, records: np.ndarray) -> Maps:
        """The maps of some records, each named once, in their order. Only the parts that hold them are read."""
        parts = part_files.parts_of(checkpoint, len(self.collected.samples))
        return self._maps(parts, records, np.zeros(len(records), np.int64), layer=layer, method=method, draw=0)

    def noisy_maps(self, checkpoint: int, layer: str, method: str, noise: Noise) -> Maps:
        """The maps (D n, h, w) of noisy copies, draw by draw."""
        parts = noise_parts(self.plan, checkpoint, len(self.collected.samples))
        records = np.broadcast_to(noise.records, noise.draws.T.shape).ravel()
        return self._maps(parts, records, noise.draws.T.ravel(), layer=layer, method=method)

    def _maps(self, parts: Sequence[int], records: np.ndarray, draws: np.ndarray, **equal: Any) -> Maps:
        """The maps of records under draws, each pair of the two named once, in their order."""
        raw, codes = None, np.full(len(records), NOT_COMPARED, np.uint8)
        needed = [parts[block] for block in np.unique(self.collected.records.images[records] // part_files.BLOCK)]
        columns = ["record", "draw", "reason", "height", "width", "map"]
        wanted = _paired(records, draws)
        for rows in self.store.scan("maps", needed, columns, **equal):
            stored = _paired(rows["record"].to_numpy(), rows["draw"].to_numpy())
            _, mine, there = np.intersect1d(wanted, stored, assume_unique=True, return_indices=True)
            if len(mine):
                found = maps_of_rows(rows)[there]
                raw = np.zeros((len(records), *found.shape[1:]), np.float32) if raw is None else raw
                raw[mine] = found
                codes[mine] = part_files.reason_codes(rows["reason"])[there]
        return Maps(np.zeros((len(records), 1, 1), np.float32) if raw is None else raw, codes)

    def conditioning(self, checkpoint: int, layer: str, method: str) -> np.ndarray:
        """(R,) how well conditioned the map of each record is (`kernels.cam.conditioning`), NaN where not known."""
        found = np.full(len(self.collected.records), np.nan)
        parts = part_files.parts_of(checkpoint, len(self.collected.samples))
        columns = ["record", "conditioning"]
        for rows in self.store.scan("maps", parts, columns, layer=layer, method=method, draw=0):
            found[rows["record"].to_numpy()] = rows["conditioning"].to_numpy()
        return found

"""From stored scores to numbers: means, spreads, intervals, references, counts of what is undefined.

Scores are read a few metrics at a time, as many as HELD has room for, so that memory holds a few numbers per record
however many metrics, layers, methods and pairs there are. What the bootstrap draws are sums over patients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Literal

import numpy as np

from harness.evaluation.classification import Classification
from harness.evaluation.estimates import of_draws
from harness.evaluation.flips import flips
from harness.results.plan import Pair
from harness.results.reader import Reader, Scores, Task, tasks
from harness.results.references import BEFORE, NO_TURN
from harness.results.schema import (
    ALL,
    Completeness,
    Conditioning,
    Consistency,
    Estimate,
    IndexResult,
    MetricSummary,
    PairResult,
)
from harness.statistics.bootstrap import Resampling, interval, mean_of_defined
from harness.statistics.stability import stability_index
from kernels.pairwise import consistency
from kernels.reasons import Reason, tally
from kernels.resize import upsample

CONSISTENCY_SIZE = (56, 56)  # maps are compared with each other at a quarter of the usual side
CONSISTENCY_LIMIT = 500  # images per class: all pairs of them are compared
HELD = 2**24  # scores that are held at a time: 128 MB
Intervals = dict[Literal["q05", "median", "q95"], tuple[float, float]]
FloorKind = Literal["jitter", "replicate"]


@dataclass(frozen=True)
class _Read:
    """Some metrics of one task over all records.

    stable: those of them that have references; chance, floor: None where there is none
    classes (R,): by which the records of a reference stand for those that are compared
    """

    classes: np.ndarray
    observed: Scores
    stable: tuple[str, ...]
    chance: _Reference | None
    floor: _Reference | None

    def stand_for_all(self, drawn: np.ndarray) -> np.ndarray | None:
        """(R,) how many compared records of its class each of the records `drawn` (R,) stands for; None: 1 each."""
        compared, own = (np.bincount(self.classes[mask]) for mask in (self.observed.compared, drawn))
        own = np.pad(own, (0, len(compared) - len(own)))
        return None if (compared == own).all() else (compared / np.maximum(own, 1))[self.classes]


@dataclass(frozen=True)
class _Reference:
    """values (R, S), NaN where undefined; drawn (R,): the records that have one, defined or not."""

    values: np.ndarray
    drawn: np.ndarray


@dataclass(frozen=True)
class _Sample:
    """Values (n, C) of some metrics, with the draws of their patients."""

    names: Sequence[str]
    values: np.ndarray
    resampling: Resampling


class Summary:
    """Computes the numbers of a result from what is stored. Everything shares the same draws of patients."""

    def __init__(self, reader: Reader, resamples: int, threads: int = 1) -> None:
        self.reader = reader
        self.threads = threads
        self.plan, self.collected = plan, collected = reader.plan, reader.collected
        self.vocabulary = plan.vocabulary
        groups = np.array([sample.group for sample in collected.samples])
        by_image = Resampling(groups, plan.options.seed, resamples)
        self.by_record = by_image.among(collected.records.images)
        self.classification = Classification(plan, collected, by_image, threads)
        self.tasks = tasks(plan)

    @cached_property
    def scopes(self) -> list[tuple[str, np.ndarray]]:
        """(name, records (R,) bool): all, then each class that has a record."""
        classes = self.collected.records.classes
        named = [(name, classes == index) for index, name in enumerate(self.plan.classes)]
        return [(ALL, np.ones(len(classes), bool)), *((name, mask) for name, mask in named if mask.any())]

    def pair(self, pair: Pair) -> PairResult:
        """All numbers of one pair."""
        assert pair.kind != "replicates"
        before, after = self.plan.sides(pair)
        chosen = self.reader.selections[pair.name]
        return PairResult(
            name=pair.name,
            before=pair.before,
            after=pair.after,
            kind=pair.kind,
            architecture=pair.architecture,
            replicate=pair.replicate,
            selected=int(chosen.sum()),
            selected_patients=len(np.unique(self.by_record.patient[chosen])),
            floor=self._floor_kind(pair),
            agreement=self.classification.agreement(before, after),
            change=self.classification.changes(before, after),
            equivalence=self.classification.equivalences(pair.name, [before], [after]),
            metrics=list(self._metrics(pair)),
            flips=flips(self.reader, self.by_record, pair, self.threads),
        )

    def consistency(self, checkpoint: int) -> list[Consistency]:
        """Per layer, method and class."""
        weights = self.classification.probabilities(checkpoint)
        explained = np.isfinite(self.collected.logits[checkpoint]).all(axis=1)[self.collected.records.images]

        def at(place: tuple[str, str]) -> list[Consistency]:
            return list(self._consistency(checkpoint, *place, explained, weights))

        with ThreadPoolExecutor(self.threads) as pool:
            return list(chain.from_iterable(pool.map(at, self.plan.layer_methods)))

    def conditioning(self, checkpoint: int) -> list[Conditioning]:
        """Per layer and method, over the records of which it is known."""
        found = [(place, self.reader.conditioning(checkpoint, *place)) for place in self.plan.layer_methods]
        known = [(place, values[np.isfinite(values)]) for place, values in found]
        return [
            Conditioning(
                layer=layer,
                method=method,
                mean=float(values.mean()),
                median=float(np.median(values)),
                q95=float(np.quantile(values, 0.95)),
                n=len(values),
            )
            for (layer, method), values in known
            if len(values)
        ]

    def completeness(self, checkpoint: int) -> list[Completeness]:
        """Per layer and path method, how far the sums of its maps are from what they should be."""
        found = []
        for layer in self.plan.layers:
            for method in self.plan.methods_of_several_passes:
                residuals = self.reader.residuals(checkpoint, layer, method)
                if len(residuals):
                    median, q95 = map(float, np.quantile(residuals, [0.5, 0.95]))
                    found.append(Completeness(layer=layer, method=method, median=median, q95=q95, n=len(residuals)))
        return found

    def observed(self, pair: Pair, layer: str, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Method -> values (R, metrics) of a pair at one layer."""
        return {
            item.method: self.reader.scores(part, "observed", names).values
            for part, item in self._tasks_of(pair)
            if item.layer == layer
        }

    def _consistency(
        self, checkpoint: int, layer: str, method: str, explained: np.ndarray, weights: np.ndarray
    ) -> Iterator[Consistency]:
        """Of every class, over a sample of its explained records (R,) bool."""
        records, there = self.collected.records, explained & self.reader.with_maps(method)
        drawn = {scope: self._few(np.flatnonzero(mask & there)) for scope, mask in self.scopes[1:]}
        maps = self.reader.maps(checkpoint, layer, method, np.concatenate([*drawn.values()])).raw
        ends = np.cumsum([len(rows) for rows in drawn.values()])
        for (scope, rows), own in zip(drawn.items(), np.split(maps, ends[:-1]), strict=True):
            large = upsample(own, CONSISTENCY_SIZE, self.threads)
            of_class = weights[records.images[rows], records.classes[rows]]
            found = consistency(large, of_class, CONSISTENCY_LIMIT, threads=self.threads)
            reason = None if found.reason == Reason.DEFINED else found.reason.label
            yield Consistency(layer=layer, method=method, scope=scope, value=found.value, reason=reason, n=found.n)

    def _few(self, records: np.ndarray) -> np.ndarray:
        """A seeded sample of the records of a class."""
        return np.sort(np.random.default_rng(self.plan.options.seed).permutation(records)[:CONSISTENCY_LIMIT])

    def _tasks_of(self, pair: Pair) -> list[tuple[int, Task]]:
        return [(part, item) for part, item in enumerate(self.tasks) if item.kind == "pair" and item.pair == pair]

    def _metrics(self, pair: Pair) -> Iterator[MetricSummary]:
        columns = self.vocabulary.columns

        def summarise(numbered: tuple[int, Task]) -> list[MetricSummary]:
            groups = [self._scopes(pair, *numbered, names) for names in groups_of(columns, self.by_record.images)]
            return [item for scope in zip(*groups, strict=True) for items in scope for item in items]

        room = max(1, HELD // (self.by_record.images * len(columns)))  # tasks that are held at a time
        with ThreadPoolExecutor(min(self.threads, room)) as pool:
            for found in pool.map(summarise, self._tasks_of(pair)):
                yield from found

    def _scopes(self, pair: Pair, part: int, task: Task, names: tuple[str, ...]) -> list[list[MetricSummary]]:
        """Per scope the summaries of some metrics."""
        observed = self.reader.scores(part, "observed", names)
        stable = tuple(name for name in names if name in self.vocabulary.stability)
        classes = self.collected.records.classes
        chance, floor = self._chance(task, stable), self._floor(pair, task, stable)
        read = _Read(classes, observed, stable, chance, floor)
        return [list(self._scope(task, scope, mask, read)) for scope, mask in self.scopes]

    def _floor_kind(self, pair: Pair) -> FloorKind | None:
        if any(self._is_replicate(item, pair) for item in self.tasks):
            return "replicate"
        return None if self.plan.options.jitter == 0 else "jitter"

    def _chance(self, task: Task, names: tuple[str, ...]) -> _Reference | None:
        parts = [part for part, item in enumerate(self.tasks) if item == replace(task, kind="chance")]
        if not parts or not names:
            return None
        found = self.reader.scores(parts[0], "chance", names)
        return _Reference(found.values, found.compared) if found.compared.any() else None

    def _floor(self, pair: Pair, task: Task, names: tuple[str, ...]) -> _Reference | None:
        """The floor of every record: the mean over the replicates of the phase, or over the noise of both sides."""
        kind = self._floor_kind(pair)
        if kind is None or not names:
            return None
        sides = (task.before, task.after)
        parts = [
            part
            for part, item in enumerate(self.tasks)
            if (item.layer, item.method) == (task.layer, task.method)
            and (self._is_replicate(item, pair) if kind == "replicate" else _is_noise(item, sides))
        ]
        found = [self.reader.scores(part, kind, names) for part in parts]
        if kind == "jitter" and self.plan.options.jitter is None:
            return self._by_turns(
                pair, task, {self.tasks[part].before: scores for part, scores in zip(parts, found, strict=True)}
            )
        drawn = np.any([scores.compared for scores in found], axis=0)
        return _Reference(mean_of_defined(np.stack([scores.values for scores in found])), drawn)

    def _by_turns(self, pair: Pair, task: Task, found: Mapping[int, Scores]) -> _Reference:
        """The floor of every record by the checkpoint whose turn it was, or by the other where it was passed on."""
        before, after = (found[side].values for side in self.plan.sides(pair))
        turn = self.reader.references.turns(pair.name)[:, None]
        own, other = np.where(turn == BEFORE, (before, after), (after, before))
        passed_on = self.reader.references.passed_on(pair, task.layer, task.method)[:, None]
        values = np.where(passed_on & ~np.isfinite(own), other, own)
        return _Reference(np.where(turn == NO_TURN, np.nan, values), turn[:, 0] != NO_TURN)

    @staticmethod
    def _is_replicate(item: Task, pair: Pair) -> bool:
        """True for two trainings of the phase in which the pair ends."""
        other = item.pair
        return other is not None and other.kind == "replicates" and other.architecture == pair.architecture

    def _scope(self, task: Task, scope: str, mask: np.ndarray, read: _Read) -> Iterator[MetricSummary]:
        rows = np.flatnonzero(mask & read.observed.compared)
        names, values, codes = read.observed.names, read.observed.values[rows], read.observed.codes[rows]
        own = _Sample(names, values, self.by_record.of(rows))
        found = self._references(rows, read) | {"estimate": own, "vanished_rate": self._vanished(own, codes)}
        estimates = self._estimates(found)
        intervals, indices = self._quantile_intervals(own), self._indices(rows, read)
        patients = own.resampling.n_patients(values)
        for column, name in enumerate(names):
            defined = values[np.isfinite(values[:, column]), column]
            q05, q25, median, q75, q95 = _quantiles(defined)
            yield MetricSummary(
                layer=task.layer,
                method=task.method,
                scope=scope,
                metric=name,
                stable_is=self.vocabulary.stable_at(name),
                n=len(defined),
                n_patients=int(patients[column]),
                undefined=_undefined(codes[:, column]),
                vanished=int((codes[:, column] == Reason.VANISHED).sum()),
                sd=defined.std(ddof=1) if len(defined) > 1 else None,
                q05=q05,
                q25=q25,
                median=median,
                q75=q75,
                q95=q95,
                intervals=intervals.get(name, {}),
                index=indices.get(name),
                estimate=estimates["estimate"][name],
                vanished_rate=estimates["vanished_rate"].get(name),
                chance=estimates.get("chance", {}).get(name),
                floor=estimates.get("floor", {}).get(name),
            )

    def _references(self, rows: np.ndarray, read: _Read) -> dict[str, _Sample]:
        """Chance and floor of some records, as far as there are any."""
        found = {}
        for name, reference in (("chance", read.chance), ("floor", read.floor)):
            if reference is not None:
                drawn, resampling = self._drawn(rows, read, reference.drawn)
                found[name] = _Sample(read.stable, reference.values[drawn], resampling)
        return found

    def _drawn(self, rows: np.ndarray, read: _Read, drawn: np.ndarray) -> tuple[np.ndarray, Resampling]:
        """Those of the records that were drawn, and the draws of their patients."""
        drawn = drawn & read.observed.compared
        some, weights = rows[drawn[rows]], read.stand_for_all(drawn)
        return some, self.by_record.of(some, None if weights is None else weights[some])

    def _indices(self, rows: np.ndarray, read: _Read) -> dict[str, IndexResult]:
        """Metric -> stability index over the records that have both references."""
        if read.chance is None or read.floor is None:
            return {}
        drawn, resampling = self._drawn(rows, read, read.chance.drawn & read.floor.drawn)
        own = read.observed.values[drawn][:, [read.observed.names.index(name) for name in read.stable]]
        directions = [self.vocabulary.direction_of(name) for name in read.stable]
        indices = stability_index(resampling, own, read.chance.values[drawn], read.floor.values[drawn], directions)
        sampled = len(drawn) if len(drawn) < len(rows) else None
        return {
            name: IndexResult(**asdict(index), sampled=sampled)
            for name, index in zip(read.stable, indices, strict=True)
        }

    def _vanished(self, own: _Sample, codes: np.ndarray) -> _Sample:
        """1 where the evidence of a compared image vanished, 0 where not."""
        names = [name for name in own.names if name in self.vocabulary.overlaps]
        columns = [own.names.index(name) for name in names]
        return _Sample(names, (codes[:, columns] == Reason.VANISHED).astype(np.float64), own.resampling)

    def _quantile_intervals(self, own: _Sample) -> dict[str, Intervals]:
        """Metric -> interval of q05, median and q95, where there are patients enough."""
        names = [name for name in own.names if name in self.vocabulary.stability]
        values = own.values[:, [own.names.index(name) for name in names]]
        draws, patients = own.resampling.quantiles(values, (0.05, 0.5, 0.95)), own.resampling.n_patients(values)
        found: dict[str, Intervals] = {}
        for column, metric in enumerate(names):
            ends = [interval(draws[:, column, place], int(patients[column])) for place in range(3)]
            if not any(end.reason for end in ends):
                low, middle, high = ((end.low, end.high) for end in ends)
                found[metric] = {"q05": low, "median": middle, "q95": high}
        return found

    def _estimates(self, samples: dict[str, _Sample]) -> dict[str, dict[str, Estimate]]:
        """Mean and interval of every metric of some samples, all from the same draws."""
        sums = [sample.resampling.sums(sample.values) for sample in samples.values()]
        distributions = self.by_record.means_of(sums)
        return {
            kind: dict(zip(sample.names, _estimated(sample, table.n_patients, draws), strict=True))
            for (kind, sample), table, draws in zip(samples.items(), sums, distributions, strict=True)
        }


def groups_of(names: Sequence[str], records: int) -> Iterator[tuple[str, ...]]:
    """Metrics, as many at a time as there is room for with so many records."""
    each = max(1, HELD // max(1, records))
    for start in range(0, len(names), each):
        yield tuple(names[start : start + each])


def _estimated(sample: _Sample, patients: np.ndarray, draws: np.ndarray) -> Iterator[Estimate]:
    for column, n, distribution in zip(sample.values.T, patients.tolist(), draws.T, strict=True):
        yield of_draws(column, distribution, n, sample.resampling.weights)


def _is_noise(item: Task, sides: tuple[int, int]) -> bool:
    return item.kind == "jitter" and item.before in sides


def _quantiles(values: np.ndarray) -> list[float | None]:
    if not values.size:
        return [None] * 5
    return [float(value) for value in np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])]


def _undefined(codes: np.ndarray) -> dict[str, int]:
    return {reason.label: n for reason, n in tally(codes).items() if reason.is_undefined}

"""From stored scores to numbers: means, spreads, intervals, references, counts of what is undefined."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Literal

import numpy as np

from harness.compare import (
    COLUMNS,
    DIRECTIONS,
    SHIFTS,
    STABILITY,
    Collected,
    Comparer,
    Scores,
    Task,
    tasks,
)
from harness.quality import Classification
from harness.results import ALL, Consistency, Estimate, IndexResult, MetricSummary, PairResult
from harness.statistics import Resampling, interval, mean_of_defined, stability_index
from harness.study import Pair, Plan
from kernels.metrics import METRICS
from kernels.reasons import Reason, tally
from kernels.resize import upsample
from kernels.scoring import StableIs
from kernels.sets import consistency

CONSISTENCY_SIZE = (56, 56)  # maps are compared with each other at a quarter of the usual side
CONSISTENCY_LIMIT = 1000  # images per class
Intervals = dict[Literal["q05", "median", "q95"], tuple[float, float]]
FloorKind = Literal["jitter", "replicate"]

OVERLAPS = tuple(name for name, record in METRICS.items() if record.is_overlap)
_STABILITY_COLUMNS = [COLUMNS.index(name) for name in STABILITY]
_STABLE_IS: dict[str, StableIs] = {
    **{column: record.stable_is for record in METRICS.values() for column in record.columns},
    **dict.fromkeys(SHIFTS, "low"),
}


class References:
    """What stands beside the observed means of one scope: by metric, None where there is no such reference."""

    def __init__(self) -> None:
        self.chance: dict[str, Estimate] = {}
        self.floor: dict[str, Estimate] = {}
        self.index: dict[str, IndexResult] = {}


class Summary:
    """Computes the numbers of a result from what is stored. Everything shares the same draws of patients."""

    def __init__(self, plan: Plan, collected: Collected, comparer: Comparer, resamples: int) -> None:
        self.plan = plan
        self.collected = collected
        self.comparer = comparer
        groups = np.array([sample.group for sample in collected.samples])
        self.groups = groups[collected.records.images]  # (R,)
        self.by_record = Resampling(self.groups, plan.options.seed, resamples)
        self.classification = Classification(plan, collected, Resampling(groups, plan.options.seed, resamples))
        self.tasks = tasks(plan)

    @cached_property
    def scopes(self) -> list[tuple[str, np.ndarray]]:
        """(name, records (R,) bool): all, then each class that has a record."""
        classes = self.collected.records.classes
        named = [(name, classes == index) for index, name in enumerate(self.plan.classes)]
        return [(ALL, np.ones(len(classes), bool)), *((name, mask) for name, mask in named if mask.any())]

    def pair(self, pair: Pair, threads: int) -> PairResult:
        """All numbers of one pair."""
        assert pair.kind != "replicates"
        before, after = self.plan.place(pair.before), self.plan.place(pair.after)
        chosen = self.comparer.selections[pair.name]
        return PairResult(
            name=pair.name,
            before=pair.before,
            after=pair.after,
            kind=pair.kind,
            architecture=pair.architecture,
            replicate=pair.replicate,
            selected=int(chosen.sum()),
            selected_patients=len(np.unique(self.groups[chosen])),
            floor=self._floor_kind(pair),
            agreement=self.classification.agreement(before, after),
            change=self.classification.changes(before, after),
            equivalence=self.classification.equivalences(pair.name, [before], [after]),
            metrics=list(self._metrics(pair, threads)),
        )

    def consistency(self, checkpoint: int, threads: int) -> list[Consistency]:
        """Per layer, method and class."""
        weights = self.classification.probabilities(checkpoint)
        images = self.collected.records.images
        explained = np.isfinite(self.collected.logits[checkpoint]).all(axis=1)[images]
        drawn = {scope: self._few(np.flatnonzero(mask & explained)) for scope, mask in self.scopes[1:]}
        found = []
        for layer in self.plan.layers:
            for method in self.plan.options.methods:
                maps = self.comparer.maps(checkpoint, layer, method, np.concatenate([*drawn.values()])).raw
                ends = np.cumsum([len(records) for records in drawn.values()])
                for (scope, records), own in zip(drawn.items(), np.split(maps, ends[:-1]), strict=True):
                    value, reason, n = self._consistency(own, records, weights, threads)
                    found.append(Consistency(layer=layer, method=method, scope=scope, value=value, reason=reason, n=n))
        return found

    def observed(self, pair: Pair, layer: str) -> dict[str, Scores]:
        """Method -> scores of a pair at one layer."""
        return {
            item.method: self.comparer.read(part, "observed")
            for part, item in self._tasks_of(pair)
            if item.layer == layer
        }

    def _consistency(
        self, maps: np.ndarray, records: np.ndarray, weights: np.ndarray, threads: int
    ) -> tuple[float, str | None, int]:
        """(value, reason, n) over the maps of some records of a class."""
        images, classes = self.collected.records.images[records], self.collected.records.classes[records]
        large = upsample(maps, CONSISTENCY_SIZE, threads)
        found = consistency(large, weights[images, classes], CONSISTENCY_LIMIT, threads=threads)
        reason = None if found.reason == Reason.DEFINED else found.reason.label
        return found.value, reason, found.n

    def _few(self, records: np.ndarray) -> np.ndarray:
        """A seeded sample of the records of a class."""
        return np.sort(np.random.default_rng(self.plan.options.seed).permutation(records)[:CONSISTENCY_LIMIT])

    def _tasks_of(self, pair: Pair) -> list[tuple[int, Task]]:
        return [(part, item) for part, item in enumerate(self.tasks) if item.pair == pair]

    def _metrics(self, pair: Pair, threads: int) -> Iterator[MetricSummary]:
        def summarise(numbered: tuple[int, Task]) -> list[MetricSummary]:
            part, item = numbered
            observed, chance = self.comparer.read(part, "observed"), self.comparer.read(part, "chance")
            floor = self._floor(pair, item)
            scopes = [(scope, mask & observed.compared) for scope, mask in self.scopes]
            return [
                found
                for scope, inside in scopes
                for found in self._scope(
                    item, scope, inside, observed, self._references(inside, observed, chance, floor)
                )
            ]

        with ThreadPoolExecutor(threads) as pool:
            for found in pool.map(summarise, self._tasks_of(pair)):
                yield from found

    def _floor_kind(self, pair: Pair) -> FloorKind | None:
        if any(self._is_replicate(item, pair) for item in self.tasks):
            return "replicate"
        return "jitter" if self.plan.options.jitter else None

    def _floor(self, pair: Pair, task: Task) -> np.ndarray | None:
        """(R, S) floor of every record: the mean over the replicates of the phase, or over the noise of both sides."""
        kind = self._floor_kind(pair)
        if kind is None:
            return None
        sides = (task.before, task.after)
        parts = [
            part
            for part, item in enumerate(self.tasks)
            if (item.layer, item.method) == (task.layer, task.method)
            and (self._is_replicate(item, pair) if kind == "replicate" else _is_noise(item, sides))
        ]
        return mean_of_defined(np.stack([self.comparer.read(part, kind).values for part in parts]))

    @staticmethod
    def _is_replicate(item: Task, pair: Pair) -> bool:
        """True for two trainings of the phase in which the pair ends."""
        other = item.pair
        return other is not None and other.kind == "replicates" and other.architecture == pair.architecture

    def _scope(
        self, task: Task, scope: str, inside: np.ndarray, observed: Scores, references: References
    ) -> Iterator[MetricSummary]:
        values = np.where(inside[:, None], observed.values, np.nan)
        estimates, patients = self._estimates(values)
        intervals, vanished = self._quantile_intervals(values), self._vanished_rates(inside, observed)
        for column, name in enumerate(COLUMNS):
            codes = observed.codes[inside, column]
            defined = values[np.isfinite(values[:, column]), column]
            q05, q25, median, q75, q95 = _quantiles(defined)
            yield MetricSummary(
                layer=task.layer,
                method=task.method,
                scope=scope,
                metric=name,
                stable_is=_STABLE_IS[name],
                n=len(defined),
                n_patients=int(patients[column]),
                undefined=_undefined(codes),
                vanished=int((codes == Reason.VANISHED).sum()),
                estimate=estimates[column],
                sd=defined.std(ddof=1) if len(defined) > 1 else None,
                q05=q05,
                q25=q25,
                median=median,
                q75=q75,
                q95=q95,
                intervals=intervals.get(name, {}),
                vanished_rate=vanished.get(name),
                chance=references.chance.get(name),
                floor=references.floor.get(name),
                index=references.index.get(name),
            )

    def _quantile_intervals(self, values: np.ndarray) -> dict[str, Intervals]:
        """Metric -> interval of q05, median and q95, where there are patients enough."""
        own = values[:, _STABILITY_COLUMNS]
        draws, patients = self.by_record.quantiles(own, (0.05, 0.5, 0.95)), self.by_record.n_patients(own)
        found: dict[str, Intervals] = {}
        for column, metric in enumerate(STABILITY):
            ends = [interval(draws[:, column, place], int(patients[column])) for place in range(3)]
            if not any(end.reason for end in ends):
                low, middle, high = ((end.low, end.high) for end in ends)
                found[metric] = {"q05": low, "median": middle, "q95": high}
        return found

    def _vanished_rates(self, inside: np.ndarray, observed: Scores) -> dict[str, Estimate]:
        """Metric -> share of compared images whose evidence vanished."""
        columns = [COLUMNS.index(name) for name in OVERLAPS]
        vanished = np.where(inside[:, None], observed.codes[:, columns] == Reason.VANISHED, np.nan)
        return dict(zip(OVERLAPS, self._estimates(vanished)[0], strict=True))

    def _references(self, inside: np.ndarray, observed: Scores, chance: Scores, floor: np.ndarray | None) -> References:
        found = References()
        by_chance = np.where(inside[:, None], chance.values, np.nan)
        with_chance = chance.compared.any()
        if with_chance:
            found.chance = dict(zip(STABILITY, self._estimates(by_chance)[0], strict=True))
        if floor is not None:
            floor = np.where(inside[:, None], floor, np.nan)
            found.floor = dict(zip(STABILITY, self._estimates(floor)[0], strict=True))
        if floor is not None and with_chance:
            own = np.where(inside[:, None], observed.values, np.nan)[:, _STABILITY_COLUMNS]
            directions = [DIRECTIONS[name] for name in STABILITY]
            indices = stability_index(self.by_record, own, by_chance, floor, directions)
            found.index = {
                name: IndexResult.model_validate(index) for name, index in zip(STABILITY, indices, strict=True)
            }
        return found

    def _estimates(self, values: np.ndarray) -> tuple[list[Estimate], np.ndarray]:
        """Mean and interval of each column of values (R, C), and its number of patients (C,)."""
        distribution, patients = self.by_record.means(values), self.by_record.n_patients(values)
        ends = [interval(distribution[:, column], int(n)) for column, n in enumerate(patients)]
        means = [_mean(column[np.isfinite(column)]) for column in values.T]
        found = [
            Estimate(mean=mean, low=end.low, high=end.high, reason=end.reason)
            for mean, end in zip(means, ends, strict=True)
        ]
        return found, patients


def _is_noise(item: Task, sides: tuple[int, int]) -> bool:
    return item.kind == "jitter" and item.before in sides


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def _quantiles(values: np.ndarray) -> list[float | None]:
    if not values.size:
        return [None] * 5
    return [float(value) for value in np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])]


def _undefined(codes: np.ndarray) -> dict[str, int]:
    return {reason.label: n for reason, n in tally(codes).items() if reason.is_undefined}

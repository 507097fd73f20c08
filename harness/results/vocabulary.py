"""The metrics and CAM methods that a result may name: columns, ranges and directions, all from the records.

`BUILT_IN` are ours. `current()` adds what this process has registered and what installed packages offer. A result that
was made with more than ours carries their records (`registered_metrics`, `registered_methods` of `evaluation.json`),
so that another machine judges and shows it without the functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from harness.common.errors import InputError
from kernels.catalogue import METHODS, METRICS, check_metric
from kernels.record_types import MethodRecord, MetricRecord, StableIs
from kernels.registry import by_name, look_up

HEADLINE = "iou_top20"
_MEND = "register it there, or install the package that offers it (Ray workers have installed packages only)"


@dataclass(frozen=True)
class Vocabulary:
    """Metrics and methods, ours first; functions of users are not part of it."""

    metrics: tuple[MetricRecord, ...]
    methods: tuple[MethodRecord, ...]

    @classmethod
    def with_registered(cls, metrics: Iterable[MetricRecord], methods: Iterable[MethodRecord]) -> Vocabulary:
        """Ours, and those that a file describes.

        :raises ValueError: a description that contradicts itself, or takes one of our names.
        """
        known = dict(METRICS.built_in)
        for record in metrics:
            try:
                check_metric(record, known)
            except ValueError as error:
                raise ValueError(f"metric {record.name!r}: {error}") from error
            known[record.name] = record
        return cls(tuple(known.values()), tuple(by_name([*METHODS.built_in.values(), *methods]).values()))

    @cached_property
    def pair_metrics(self) -> tuple[str, ...]:
        return tuple(record.name for record in self.metrics if record.kind == "pair")

    @cached_property
    def concentration(self) -> tuple[str, ...]:
        return tuple(record.name for record in self.metrics if record.kind == "concentration")

    @cached_property
    def changes(self) -> tuple[str, ...]:
        """The columns that hold the change of a concentration."""
        return tuple(record.change for record in self.metrics if record.change)

    @cached_property
    def absolute_changes(self) -> tuple[str, ...]:
        """The columns that hold its absolute value."""
        return tuple(record.absolute_change for record in self.metrics if record.absolute_change)

    @cached_property
    def stability(self) -> tuple[str, ...]:
        """The columns that have a chance level, a floor and an index."""
        return self.pair_metrics + self.absolute_changes

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """All columns, in the order of the scores."""
        return (*(column for record in self.metrics for column in record.columns), *self.absolute_changes)

    @cached_property
    def overlaps(self) -> tuple[str, ...]:
        """The metrics for which evidence that vanished scores 0."""
        return tuple(record.name for record in self.metrics if record.is_overlap)

    @cached_property
    def registered_metrics(self) -> tuple[MetricRecord, ...]:
        """Those that are not ours."""
        return tuple(record for record in self.metrics if record.name not in METRICS.built_in)

    @cached_property
    def registered_methods(self) -> tuple[MethodRecord, ...]:
        """Those that are not ours."""
        return tuple(record for record in self.methods if record.name not in METHODS.built_in)

    def metric(self, column: str) -> MetricRecord:
        """The metric that a column is of."""
        return self._by_column[column]

    def method(self, name: str) -> MethodRecord:
        """The CAM method of a name; raises ValueError with the nearest known names."""
        return look_up(self._by_method, name, METHODS.kind)

    def range_of(self, column: str) -> tuple[float, float]:
        """Between what the values of a column lie."""
        return self.metric(column).range_of(column)

    def stable_at(self, column: str) -> StableIs:
        """The side of its range at which a column says that nothing drifted."""
        return self.metric(column).stable_at(column)

    def direction_of(self, column: str) -> int:
        """+1 where a higher value of the column means more stable, -1 where a lower one, 0 where one near zero does."""
        return {"high": 1, "low": -1, "zero": 0}[self.stable_at(column)]

    def worst_of(self, column: str) -> float:
        """The end of its range at which a column with an index says that everything drifted."""
        low, high = self.range_of(column)
        return low if self.direction_of(column) > 0 else high

    def functions(self) -> list[MetricRecord]:
        """The metrics with the functions that compute them, in order.

        :raises InputError: this process has none of that name, or another one.
        """
        return [METRICS.built_in.get(record.name) or _own_metric(record) for record in self.metrics]

    def extended(self) -> Vocabulary:
        """The same with the metrics that were registered since.

        :raises InputError: this process has none of the name of one of its metrics.
        """
        now = current()
        known = {record.name for record in now.metrics}
        for record in self.registered_metrics:
            if record.name not in known:
                raise InputError(f"metric {record.name!r} is not registered in the process that needs it; {_MEND}")
        return replace(self, metrics=now.metrics)

    def describe(self, methods: Sequence[str]) -> dict[str, Any]:
        """What is registered beyond ours, as JSON; of the methods, those that are named. Empty where nothing is."""
        found = {
            "metrics": [_described(record) for record in self.registered_metrics],
            "methods": [_described(record) for record in self.registered_methods if record.name in methods],
        }
        return {"registered": found} if any(found.values()) else {}

    @classmethod
    def restored(cls, content: dict[str, Any]) -> Vocabulary:
        """The vocabulary of which `describe` wrote what `content` holds under `registered`, if anything.

        :raises ValueError: as `with_registered`.
        """
        found = content.get("registered", {"metrics": [], "methods": []})
        metrics = [MetricRecord(**{**item, "range": tuple(item["range"])}) for item in found["metrics"]]
        return cls.with_registered(metrics, [MethodRecord(**item) for item in found["methods"]])

    @cached_property
    def _by_column(self) -> dict[str, MetricRecord]:
        return {column: record for record in self.metrics for column in (*record.columns, record.stability)}

    @cached_property
    def _by_method(self) -> dict[str, MethodRecord]:
        return {record.name: record for record in self.methods}


def current() -> Vocabulary:
    """Ours, what this process has registered, and what installed packages offer.

    :raises InputError: an installed package offers what cannot be registered.
    """
    try:
        metrics, methods = list(METRICS.values()), list(METHODS.values())
    except ValueError as error:
        raise InputError(str(error)) from error
    return Vocabulary(tuple(one.described() for one in metrics), tuple(one.described() for one in methods))


def require_methods(names: Iterable[str]) -> None:
    """Refuse a CAM method that this process cannot compute.

    :raises InputError: naming it.
    """
    known = {record.name for record in current().methods}
    for name in names:
        if name not in known:
            raise InputError(f"CAM method {name!r} is not registered in the process that needs it; {_MEND}")


def _own_metric(record: MetricRecord) -> MetricRecord:
    """The record of this process that computes a registered metric."""
    known = {own.name: own for own in current().registered_metrics}
    if record.name not in known:
        raise InputError(f"metric {record.name!r} is not registered in the process that needs it; {_MEND}")
    if known[record.name] != record:
        raise InputError(f"metric {record.name!r} is registered as another one in the process that needs it; {_MEND}")
    return METRICS[record.name]


def _described(record: MetricRecord | MethodRecord) -> dict[str, Any]:
    content = asdict(record)
    return {name: value for name, value in content.items() if name != "implementation"}


BUILT_IN = Vocabulary(tuple(METRICS.built_in.values()), tuple(METHODS.built_in.values()))
CONCENTRATION = BUILT_IN.concentration
PAIR_METRICS = BUILT_IN.pair_metrics
STABILITY = BUILT_IN.stability
COLUMNS = BUILT_IN.columns
DIRECTIONS = {column: BUILT_IN.direction_of(column) for column in STABILITY}

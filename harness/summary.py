"""From stored rows to numbers: means, spreads, intervals, counts of what is undefined."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.results import Estimate, MetricSummary, number
from harness.statistics import Interval, patient_bootstrap
from kernels.metrics import METRICS
from kernels.reasons import Reason

ALL = "all"
_STABLE_IS = {column: record.stable_is for record in METRICS.values() for column in record.columns}


def summarise(scores: pa.Table, seed: int) -> list[MetricSummary]:
    """One summary per layer, method, scope (all images, then each class) and metric."""
    return [
        summary
        for (layer, method), rows in _groups(scores, ["layer", "method"])
        for scope, scoped in _scopes(rows)
        for summary in _summaries(layer, method, scope, scoped, seed)
    ]


def accuracies(predictions: pa.Table, seed: int) -> dict[str, Estimate]:
    """Share of correct predictions of `before` and `after`, and of images on which the two agree (`agreement`)."""
    images = {side: rows for (side,), rows in _groups(predictions, ["side"])}
    before, after = images["before"], images["after"]
    truth = _strings(before, "class")
    said = {side: _strings(images[side], "predicted") for side in ("before", "after")}
    assert (_strings(before, "image") == _strings(after, "image")).all()
    columns = np.stack([said["before"] == truth, said["after"] == truth, said["before"] == said["after"]], axis=1)
    values = columns.astype(np.float64)  # (images, 3)
    intervals = patient_bootstrap(values, _strings(before, "group"), seed)
    names = ("before", "after", "agreement")
    return {name: _estimate(values[:, i], intervals[i]) for i, name in enumerate(names)}


def _summaries(layer: str, method: str, scope: str, rows: pa.Table, seed: int) -> Iterator[MetricSummary]:
    names, values, reasons, groups = _pivot(rows)
    intervals = patient_bootstrap(values, groups, seed)
    for column, name in enumerate(names):
        defined = np.isfinite(values[:, column])
        low, middle, high = _quartiles(values[defined, column])
        yield MetricSummary(
            layer=layer,
            method=method,
            scope=scope,
            metric=name,
            reference="observed",
            stable_is=_STABLE_IS[name],
            n=int(defined.sum()),
            n_patients=len(np.unique(groups[defined])),
            undefined=_undefined(reasons[:, column]),
            vanished=int((reasons[:, column] == Reason.VANISHED.label).sum()),
            estimate=_estimate(values[:, column], intervals[column]),
            sd=number(values[defined, column].std(ddof=1)) if defined.sum() > 1 else None,
            q25=low,
            median=middle,
            q75=high,
        )


def _pivot(rows: pa.Table) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """(metric names, values (images, metrics), reasons (images, metrics), patients (images,))."""
    metrics = _strings(rows, "metric")
    names = list(dict.fromkeys(metrics))
    width = len(names)
    assert (metrics.reshape(-1, width) == names).all(), "every image carries every metric, in one order"
    values = rows["value"].to_numpy().reshape(-1, width)
    return names, values, _strings(rows, "reason").reshape(-1, width), _strings(rows, "group")[::width]


def _estimate(values: np.ndarray, interval: Interval) -> Estimate:
    defined = values[np.isfinite(values)]
    mean = number(defined.mean()) if defined.size else None
    return Estimate(mean=mean, low=number(interval.low), high=number(interval.high), interval_reason=interval.reason)


def _quartiles(values: np.ndarray) -> tuple[float | None, float | None, float | None]:
    if not values.size:
        return None, None, None
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return float(low), float(middle), float(high)


def _undefined(reasons: np.ndarray) -> dict[str, int]:
    labels, counts = np.unique(reasons, return_counts=True)
    defined = (Reason.DEFINED.label, Reason.VANISHED.label)
    return {str(label): int(count) for label, count in zip(labels, counts, strict=True) if label not in defined}


def _scopes(rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    yield ALL, rows
    for (name,), scoped in _groups(rows, ["class"]):
        yield name, scoped


def _groups(table: pa.Table, keys: list[str]) -> Iterator[tuple[tuple[Any, ...], pa.Table]]:
    """The rows of each combination of `keys`, in the order of first appearance."""
    columns = [_strings(table, key) for key in keys]
    for combination in dict.fromkeys(zip(*columns, strict=True)):
        masks = [column == value for column, value in zip(columns, combination, strict=True)]
        yield combination, table.filter(pa.array(np.logical_and.reduce(masks)))


def _strings(table: pa.Table, column: str) -> np.ndarray:
    return pc.cast(table[column], pa.string()).to_numpy(zero_copy_only=False)

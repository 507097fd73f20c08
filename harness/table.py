"""The result as a terminal table."""

from __future__ import annotations

from tabulate import tabulate

from harness.results import Estimate, Evaluation, MetricSummary
from harness.summary import ALL

SHORT = ("centroid_shift", "iou_top20", "pearson", "gini_change")
_STABLE = {"low": "low", "high": "high", "zero": "near 0"}


def drift_table(result: Evaluation, wide: bool = False) -> str:
    """What was compared, how well both checkpoints classify, and one row per method, layer and metric."""
    rows = [_row(item) for item in result.metrics if item.scope == ALL and (wide or item.metric in SHORT)]
    headers = ["layer", "method", "metric", "stable is", "mean", "95 % interval", "median", "images", "undefined"]
    return "\n".join([_heading(result), "", tabulate(rows, headers, tablefmt="simple", disable_numparse=True)])


def _heading(result: Evaluation) -> str:
    before, after = result.before, result.after
    unreadable = f", {len(result.unreadable)} unreadable" if result.unreadable else ""
    return "\n".join(
        [
            f"{before.metadata.architecture}: {before.metadata.phase} -> {after.metadata.phase}",
            f"accuracy   {_with_interval(before.accuracy)} -> {_with_interval(after.accuracy)}",
            f"agreement  {_with_interval(result.agreement)}",
            f"images     {result.images} of {result.patients} patients{unreadable}; "
            f"{result.selected} compared ({result.selection})",
        ]
    )


def _row(item: MetricSummary) -> list[str]:
    estimate = item.estimate
    interval = f"{_digits(estimate.low)} .. {_digits(estimate.high)}"
    reasons = ", ".join(f"{count} {reason}" for reason, count in item.undefined.items())
    if item.vanished:
        reasons = ", ".join(filter(None, [reasons, f"({item.vanished} vanished)"]))
    return [
        item.layer,
        item.method,
        item.metric,
        _STABLE[item.stable_is],
        _digits(estimate.mean),
        estimate.interval_reason or interval,
        _digits(item.median),
        str(item.n),
        reasons or "0",
    ]


def _with_interval(estimate: Estimate) -> str:
    if estimate.low is None:
        return f"{_digits(estimate.mean)} (no interval: {estimate.interval_reason})"
    return f"{_digits(estimate.mean)} ({_digits(estimate.low)} .. {_digits(estimate.high)})"


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

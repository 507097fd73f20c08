"""The numbers of a result as tidy rows, as CSV, and as the paper's table in LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from tabulate import tabulate

from harness.common.formatting import digits, one_line
from harness.results.schema import ALL, Estimate, Evaluation, MetricSummary, PairResult

PAPER = {"centroid_shift": "displacement", "iou_top20": "IoU", "pearson": "correlation", "gini_change": "Gini change"}


def summary_rows(result: Evaluation) -> list[dict[str, Any]]:
    """One row per pair, layer, method, metric and scope; None where a number is undefined."""
    return [_row(pair, item) for pair in result.pairs for item in pair.metrics]


def as_csv(result: Evaluation) -> str:
    """`summary_rows` with a header line."""
    rows = summary_rows(result)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def as_latex(result: Evaluation) -> str:
    """The columns of the paper (arXiv 2604.08513): means over all images with 95 % intervals."""
    headers = ["pair", "layer", "method", *PAPER.values()]
    return tabulate(list(_paper_rows(result)), headers, tablefmt="latex_booktabs", disable_numparse=True)


def _row(pair: PairResult, item: MetricSummary) -> dict[str, Any]:
    index = item.index
    return {
        "pair": pair.name,
        "architecture": pair.architecture,
        "replicate": pair.replicate,
        "layer": item.layer,
        "method": item.method,
        "metric": item.metric,
        "scope": item.scope,
        "n": item.n,
        "undefined": sum(item.undefined.values()),
        "mean": item.estimate.mean,
        "low": item.estimate.low,
        "high": item.estimate.high,
        "chance": item.chance.mean if item.chance else None,
        "floor": item.floor.mean if item.floor else None,
        "floor_kind": pair.floor if item.floor else None,
        "index": index.value if index else None,
        "index_low": index.low if index else None,
        "index_high": index.high if index else None,
    }


def _paper_rows(result: Evaluation) -> Iterator[list[str]]:
    for pair in result.pairs:
        cells = {(item.layer, item.method, item.metric): item for item in pair.metrics if item.scope == ALL}
        for layer in result.layers:
            for method in result.methods:
                found = [cells.get((layer, method, metric)) for metric in PAPER]
                yield [
                    *map(one_line, (pair.name, layer, method)),
                    *("--" if item is None else _cell(item.estimate) for item in found),
                ]


def _cell(estimate: Estimate) -> str:
    if estimate.low is None:
        return digits(estimate.mean)
    return f"{digits(estimate.mean)} ({digits(estimate.low)}--{digits(estimate.high)})"

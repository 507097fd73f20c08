"""The metric summaries of a result by pair, layer, method, metric and scope, and how a report writes a number."""

from __future__ import annotations

from harness.common.formatting import number, span
from harness.results.schema import ALL, Estimate, Evaluation, IndexResult, MetricSummary, PairResult


class Summaries:
    """The summaries of a result by pair, layer, method, metric and scope."""

    def __init__(self, result: Evaluation) -> None:
        self._by_path = {
            (pair.name, item.layer, item.method, item.metric, item.scope): item
            for pair in result.pairs
            for item in pair.metrics
        }

    def get(self, pair: PairResult, layer: str, method: str, metric: str, scope: str = ALL) -> MetricSummary | None:
        """The summary of a metric; None where nothing was compared."""
        return self._by_path.get((pair.name, layer, method, metric, scope))


def with_span(value: Estimate | IndexResult, places: int = 3) -> str:
    """A mean or an index with its interval in brackets."""
    middle = value.mean if isinstance(value, Estimate) else value.value
    ends = span(value.low, value.high, places)
    return f"{number(middle, places)} ({ends})" if ends else number(middle, places)

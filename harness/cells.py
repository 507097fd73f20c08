"""Numbers of a result by their place, and how a report writes a number."""

from __future__ import annotations

from harness.results import ALL, Estimate, Evaluation, IndexResult, MetricSummary, PairResult

DASH = "\N{EN DASH}"  # where there is no number
MINUS = "\N{MINUS SIGN}"


class Cells:
    """The summaries of a result by pair, layer, method, metric and scope."""

    def __init__(self, result: Evaluation) -> None:
        self._by_place = {
            (pair.name, item.layer, item.method, item.metric, item.scope): item
            for pair in result.pairs
            for item in pair.metrics
        }

    def get(self, pair: PairResult, layer: str, method: str, metric: str, scope: str = ALL) -> MetricSummary | None:
        """The summary at a place; None where nothing was compared there."""
        return self._by_place.get((pair.name, layer, method, metric, scope))


def number(value: float | None, places: int = 3) -> str:
    """A number with a true minus sign, or a dash."""
    return DASH if value is None else f"{_no_negative_zero(value, places):.{places}f}".replace("-", MINUS)


def signed(value: float | None, places: int = 3) -> str:
    """A change, with its sign."""
    return DASH if value is None else f"{_no_negative_zero(value, places):+.{places}f}".replace("-", MINUS)


def span(low: float | None, high: float | None, places: int = 3) -> str:
    """Both ends of an interval in words, since a dash between them could be read as a minus; empty without one."""
    return "" if low is None or high is None else f"{number(low, places)} to {number(high, places)}"


def with_span(value: Estimate | IndexResult, places: int = 3) -> str:
    """A mean or an index with its interval in brackets."""
    middle = value.mean if isinstance(value, Estimate) else value.value
    ends = span(value.low, value.high, places)
    return f"{number(middle, places)} ({ends})" if ends else number(middle, places)


def percent(share: float | None, places: int = 0) -> str:
    """A share in per cent; what would round to 0 or 100 without being it says so."""
    if share is None:
        return DASH
    shown = f"{100 * share:.{places}f}"
    if share > 0 and float(shown) == 0:
        return f"< {10**-places:.{places}f} %"
    if share < 1 and float(shown) == 100:
        return f"> {100 - 10**-places:.{places}f} %"
    return f"{shown} %".replace("-", MINUS)


def points(value: float | None) -> str:
    """A difference of shares in percentage points, without its sign."""
    return DASH if value is None else f"{abs(100 * value):.1f} points"


def count(number_of: int, what: str, many: str | None = None) -> str:
    """`1 image`, `2 images`."""
    return f"{number_of:,} {what if number_of == 1 else many or what + 's'}"


def _no_negative_zero(value: float, places: int) -> float:
    return round(value, places) + 0.0

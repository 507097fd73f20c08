"""`trend.html`: every statistic night by night beside the reference, and the evidence against it; one file, offline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from harness.monitoring.history import History, Spread, StatisticNight
from harness.report.html import TEMPLATES, environment

WIDTH, HEIGHT, MARGIN = 560, 120, 6  # of a plot, in pixels
_LEAST_SPAN = 0.02  # of the axis of values
KINDS = {
    "prediction": "Predictions",
    "concentration": "Concentration of the map",
    "zone": "Share of the map in six zones",
    "region": "Share of the map in regions",
    "map": "Maps",
}


@dataclass(frozen=True)
class Plot:
    """One statistic over the nights, in pixels: the night's quartiles and median; the evidence as a line.

    band: (top, height) of the reference's quartiles; middle: its median; bars: (x, top, bottom, median) of each night
    that has the statistic; line: points of log10 evidence; limit: height of the threshold
    """

    item: StatisticNight
    low: float
    high: float
    band: tuple[float, float]
    middle: float
    bars: list[tuple[float, float, float, float]]
    line: str
    limit: float
    top: float  # log10 evidence at the upper end


def page(found: History) -> str:
    """The page as text."""
    plots = [_plot(found, number) for number in range(len(found.nights[-1].statistics))] if found.nights else []
    groups = [(title, [plot for plot in plots if plot.item.kind == kind]) for kind, title in KINDS.items()]
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    template = environment(Path(__file__).parent / "templates").get_template("trend.html")
    return template.render(
        found=found,
        groups=[group for group in groups if group[1]],
        width=WIDTH,
        height=HEIGHT,
        style=Markup(style),
    )


def _plot(found: History, number: int) -> Plot:
    nights = [night.statistics[number] for night in found.nights]
    last, reference = nights[-1], nights[-1].reference
    low, high = _span([reference, *(night.tonight for night in nights)])

    def at(value: float | None) -> float:
        share = 0.5 if value is None else (value - low) / (high - low)
        return round(HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN), 1)

    bars = [
        (_x(n, len(nights)), at(night.tonight.q75), at(night.tonight.q25), at(night.tonight.median))
        for n, night in enumerate(nights)
        if night.tonight.n
    ]
    threshold = found.nights[-1].log10_threshold
    evidence = [night.log10_e for night in nights]
    top, bottom = max(threshold * 1.25, *evidence), min(-1.0, *evidence)

    def level(value: float) -> float:
        return round(HEIGHT - MARGIN - (value - bottom) / (top - bottom) * (HEIGHT - 2 * MARGIN), 1)

    line = " ".join(f"{_x(n, len(nights))},{level(value)}" for n, value in enumerate(evidence))
    band = (at(reference.q75), round(max(at(reference.q25) - at(reference.q75), 1.0), 1))
    return Plot(last, low, high, band, at(reference.median), bars, line, level(threshold), top)


def _x(night: int, nights: int) -> float:
    return round(MARGIN + (night + 0.5) * (WIDTH - 2 * MARGIN) / nights, 1)


def _span(spreads: Sequence[Spread]) -> tuple[float, float]:
    """The ends of all quartiles, apart by something."""
    ends = [end for spread in spreads for end in (spread.q25, spread.q75) if end is not None]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    low = max(0.0, low - max(0.0, _LEAST_SPAN - (high - low)) / 2)
    return low, max(high, low + _LEAST_SPAN)

"""Line plots as inline SVG: small, in the colours and letters of the page, readable without the picture.

A plot is drawn at the width at which it is shown, so that its letters keep their size on a telephone. Colours are
placeholders that become CSS variables: one picture serves light, dark and paper.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from harness.common.formatting import one_line
from harness.results.schema import Ranking

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, DPI = 330, 72  # pixels, and points: at 72 to the inch they are the same
_INK, _MUTED, _GRID = "#010101", "#020202", "#030303"
_SERIES = tuple(f"#0000{number:02x}" for number in range(0xA1, 0xA9))  # eight; a ninth takes the first colour again
_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _GRID: "var(--line)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, 1)},
}
_MARKERS = "osD^vPX*"
_numbers = count(1)


@dataclass(frozen=True)
class Series:
    """A line: (checkpoint, value, low, high), the ends None without an interval; `dashed` for a second kind of line."""

    name: str
    points: Sequence[tuple[float, float | None, float | None, float | None]]
    dashed: bool = False


def slopes(rankings: Sequence[Ranking], upwards: bool) -> str:
    """Architectures over methods: lines that cross are orders that depend on the method.

    :param upwards: high is stable; else the axis is turned, so that up is more stable in every plot
    """
    methods = [ranking.method for ranking in rankings]
    names = sorted({name for ranking in rankings for name in ranking.architectures})
    figure, axes = _figure(230)
    ends = []
    for number, name in enumerate(names):
        values = [_mean_of(ranking, name) for ranking in rankings]
        axes.plot(
            range(len(methods)), values, color=_colour(number), marker=_marker(number), markersize=5, linewidth=1.8
        )
        ends.append((values[-1], name, _colour(number)))
    axes.set_xticks(range(len(methods)), methods, rotation=25 if len(methods) > 3 else 0, parse_math=False)
    axes.set_xlim(-0.25, len(methods) - 1 + 0.15)
    if not upwards:
        axes.invert_yaxis()
    _name_ends(axes, ends, len(methods) - 1)
    return _svg(figure)


def along(keys: Sequence[str], panels: Mapping[str, Sequence[Series]]) -> str:
    """Panels one above the other over the checkpoints of a training."""
    figure = _empty(185 * len(panels) + 40)
    for axes, (title, series) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels.items(), strict=True):
        _style(axes)
        axes.set_title(title, fontsize=11, color=_INK, loc="left", parse_math=False, pad=22)
        for number, line in enumerate(series):
            _draw(axes, line, number)
        axes.set_xticks(range(len(keys)), [str(number + 1) for number in range(len(keys))])
        axes.set_xlim(-0.3, len(keys) - 0.7)
        axes.legend(
            fontsize=10, frameon=False, labelcolor=_INK, handlelength=2.2, ncols=2, loc="lower left", borderaxespad=0.2,
            bbox_to_anchor=(0, 1), columnspacing=1.2, borderpad=0,
        )  # fmt: skip
    axes.set_xlabel("checkpoint", fontsize=11, color=_MUTED)
    return _svg(figure)


def _draw(axes: Axes, line: Series, number: int) -> None:
    known = [(x, y, low, high) for x, y, low, high in line.points if y is not None]
    colour = _colour(number)
    axes.plot(
        [point[0] for point in known],
        [point[1] for point in known],
        color=colour,
        marker=_marker(number),
        markersize=5,
        linewidth=1.6,
        linestyle="--" if line.dashed else "-",
        label=line.name,
    )
    for x, _, low, high in known:
        if low is not None and high is not None:
            axes.plot([x, x], [low, high], color=colour, linewidth=1)


def _figure(height: int) -> tuple[Figure, Axes]:
    figure = _empty(height)
    axes = figure.subplots()
    _style(axes)
    return figure, axes


def _empty(height: int) -> Figure:
    from matplotlib.figure import Figure  # a fifth of a second, and most reports have no plot

    return Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, layout="constrained")


def _style(axes: Axes) -> None:
    axes.patch.set_visible(False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_MUTED)
    axes.grid(axis="y", color=_GRID, linewidth=1)
    axes.tick_params(labelsize=11, labelcolor=_MUTED, color=_MUTED, length=0)


def _name_ends(axes: Axes, ends: Sequence[tuple[float, str, str]], last: float) -> None:
    """Write the names beside the last points, moved apart where they would overlap."""
    low, high = sorted(axes.get_ylim())
    known = sorted(end for end in ends if end[0] == end[0])
    for level, (_, name, colour) in zip(apart([end[0] for end in known], 0.085 * (high - low)), known, strict=True):
        axes.annotate(
            name, (last, level), (8, 0), textcoords="offset points", fontsize=11, color=colour, va="center",
            annotation_clip=False, parse_math=False,
        )  # fmt: skip


def apart(values: Sequence[float], step: float) -> list[float]:
    """Ascending values moved as little as needed so that neighbours are `step` apart: clusters keep their centre."""
    clusters: list[list[float]] = []
    for value in values:
        clusters.append([value])
        while len(clusters) > 1 and _lowest(clusters[-1], step) < _lowest(clusters[-2], step) + step * len(
            clusters[-2]
        ):
            last = clusters.pop()
            clusters[-1] += last
    return [_lowest(cluster, step) + step * rank for cluster in clusters for rank in range(len(cluster))]


def _lowest(cluster: Sequence[float], step: float) -> float:
    return sum(cluster) / len(cluster) - step * (len(cluster) - 1) / 2


def _mean_of(ranking: Ranking, name: str) -> float:
    means = dict(zip(ranking.architectures, ranking.means, strict=True))
    value = means.get(name)
    return float("nan") if value is None else value


def _colour(number: int) -> str:
    return _SERIES[number % len(_SERIES)]


def _marker(number: int) -> str:
    return _MARKERS[number % len(_MARKERS)]


def _svg(figure: Figure) -> str:
    """The figure as an <svg> element without fixed colours, without metadata and with ids of its own."""
    import matplotlib

    figure.patch.set_visible(False)
    target = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "evidence-drift", "font.family": "sans-serif"}):
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    text = target.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return _own_ids(one_line(text))


def _own_ids(text: str) -> str:
    """Keep only the ids that something refers to, under names that no other plot of the page has."""
    prefix = f"plot{next(_numbers)}-"
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: f' id="{prefix}{found[1]}"' if found[1] in used else "", text)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", text)

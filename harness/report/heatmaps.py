"""Heat maps on radiographs, and the contact sheet of the images whose evidence moved most.

A map is shown relative to its own maximum, on one colour scale for before and after (`inferno`); the radiograph shines
through where a map is low. A difference is shown by `harness.report.change`. Display scaling happens here only: no
number depends on it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.common.formatting import one_line
from harness.report import change
from kernels.resize import upsample

STRONGEST = 0.65  # opacity of a heat map at its maximum
PICTURE = 2.0  # inches: side of a picture on a sheet,
LARGE = 3.6  # of a picture that is one of few, and
LINE = 0.2  # height of a line of text
BAR = 1.2  # length of a colour scale
Panel = tuple[str, np.ndarray]  # caption and RGB picture (H, W, 3)
Scale = tuple[str, np.ndarray, str]  # words for its two ends, and colours (n, 3) between them
_SCALES: tuple[Scale, ...] = (
    ("map: 0", matplotlib.colormaps["inferno"](np.linspace(0, 1, 256))[:, :3], "its largest value"),
    (
        f"after - before: \N{GREATER-THAN OR EQUAL TO} {change.FULL:g} lost",
        change.scale(),
        f"\N{GREATER-THAN OR EQUAL TO} {change.FULL:g} gained.   "
        f"Lines: top {change.TOP} % before (dashed) and after (solid)",
    ),
)


@dataclass(frozen=True)
class Case:
    """One image with its maps: grey (H, W) 0..255, raw maps (h, w), and the caption above it."""

    caption: str
    grey: np.ndarray
    before: np.ndarray
    after: np.ndarray


def relative(raw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A raw map (h, w) at `size`, divided by its maximum; zero where the map is empty or undefined."""
    large = np.nan_to_num(upsample(raw[None], size)[0])
    peak = large.max()
    return large / peak if peak > 0 else np.zeros(size, np.float32)


def overlay(grey: np.ndarray, share: np.ndarray) -> np.ndarray:
    """RGB (H, W, 3) in 0..1: `share` (H, W) in 0..1 coloured over a radiograph, as opaque as it is high."""
    opacity = (STRONGEST * share)[..., None]
    return (1 - opacity) * as_rgb(grey) + opacity * matplotlib.colormaps["inferno"](share)[..., :3]


def panels(case: Case) -> list[Panel]:
    """Title and RGB picture of radiograph, before, after and difference."""
    size = (case.grey.shape[0], case.grey.shape[1])
    before, after = relative(case.before, size), relative(case.after, size)
    return [
        ("radiograph", as_rgb(case.grey)),
        ("before", overlay(case.grey, before)),
        ("after", overlay(case.grey, after)),
        ("after - before", change.paint(as_rgb(case.grey), before, after)),
    ]


def grid(title: str, rows: Sequence[Sequence[Panel]], path: Path) -> None:
    """Write captioned pictures as a PNG."""
    _compose(title, [("", row) for row in rows], 1, path, side=LARGE)


def contact_sheet(cases: Sequence[Case], title: str, path: Path) -> None:
    """Write the cases as a PNG, two to a row, four panels each, with the scales of their colours."""
    _compose(title, [(case.caption, panels(case)) for case in cases], 2, path, _SCALES)


def _compose(
    title: str, strips: Sequence[tuple[str, Sequence[Panel]]], across: int, path: Path, scales: Sequence[Scale] = (),
    side: float = PICTURE,
) -> None:  # fmt: skip
    """Strips (caption, pictures), `across` to a row, on one axes in inches: an axes per picture takes far longer."""
    wide = side * max(len(row) for _, row in strips)
    tall = side + LINE * (2.5 if any(caption for caption, _ in strips) else 1.5)
    head = LINE * (3.5 if scales else 1.5)
    width, height = across * wide + (across - 1) * LINE, head + tall * -(-len(strips) // across)
    figure = Figure(figsize=(width, height), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    _write(axes, width / 2, 1.5 * LINE, title, 12)
    for number, scale in enumerate(scales):
        _draw_scale(axes, 0.6 + 5.4 * number, 2.7 * LINE, scale)
    for number, (caption, row) in enumerate(strips):
        left, top = number % across * (wide + LINE), head + tall * (number // across + 1) - side
        _write(axes, left + wide / 2, top - LINE, caption, 9)
        for start, (name, picture) in zip(left + side * np.arange(len(row)), row, strict=True):
            _write(axes, start + side / 2, top, name, min(11, round(4 * side)))
            _paint(axes, picture, start + side / 2, top + side / 2, side)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    _save(figure, path)


def _write(axes: Axes, across: float, down: float, text: str, size: int) -> None:
    axes.text(across, down, one_line(text), fontsize=size, ha="center", va="bottom", parse_math=False)


def _draw_scale(axes: Axes, left: float, down: float, scale: Scale) -> None:
    """Words, colour bar, words; the bar begins at `left`, and `down` is the lower edge of all."""
    low, colours, high = scale
    right, middle = left + BAR, down - 0.3 * LINE
    axes.imshow(colours[None], extent=(left, right, down, down - 0.6 * LINE), aspect="auto", interpolation="nearest")
    axes.text(left - 0.06, middle, low, fontsize=8, ha="right", va="center")
    axes.text(right + 0.06, middle, high, fontsize=8, ha="left", va="center")


def _paint(axes: Axes, picture: np.ndarray, across: float, down: float, side: float) -> None:
    """A picture (H, W, 3) around its middle, in its own proportions."""
    height, width = 0.48 * side * np.array(picture.shape[:2]) / max(picture.shape[:2])
    corners = (across - width, across + width, down + height, down - height)
    axes.imshow(picture, extent=corners, aspect="auto", interpolation="nearest", vmin=0, vmax=1)


def _save(figure: Figure, path: Path) -> None:
    """Write the figure; letters that its font lacks are drawn as boxes, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(path, format="png", pil_kwargs={"compress_level": 3})  # less than half the time of 6


def as_rgb(grey: np.ndarray) -> np.ndarray:
    """Grey levels (H, W) 0..255 to RGB (H, W, 3) in 0..1."""
    return np.repeat((grey / 255.0)[..., None], 3, axis=-1)

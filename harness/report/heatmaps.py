"""Heat maps on pictures, and the contact sheet of the images whose evidence moved most.

A map belongs to what the network saw: it is drawn on the picture as it was before it was cropped, padded or squashed,
and what the network did not see of that is striped. A map is shown relative to its own maximum, on one colour scale for
before and after (`inferno`); the picture shines through where a map is low. A difference is shown by
`harness.report.change`. Display scaling happens here only: no number depends on it.
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
from harness.images.view import Geometry, squash
from harness.report import change
from kernels.resize import upsample

SIDE = 320  # pixels: longest side of a picture
STRONGEST = 0.65  # opacity of a heat map at its maximum
PICTURE = 2.0  # inches: side of a picture on a sheet,
LARGE = 3.6  # of a picture that is one of few, and
LINE = 0.2  # height of a line of text
BAR = 1.2  # length of a colour scale
_STRIPES = 12  # pixels from one stripe to the next, over what a network does not see,
_STRIPE_LEVELS = 0.35, 0.55  # their levels,
_VEIL = 0.7  # and opacity
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
    """One image with its maps: the picture (h, w) or (h, w, 3) 0..255, raw maps, and the caption above it.

    geometry: how the picture lies in what the networks saw, which the maps belong to
    """

    caption: str
    picture: np.ndarray
    geometry: Geometry
    before: np.ndarray
    after: np.ndarray


def relative(raw: np.ndarray, geometry: Geometry, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A raw map on the picture at `shape`, divided by its maximum, and the mask of what the network sees.

    The maximum is that of the whole map at that scale, padding included; the map is zero where it is empty, undefined,
    or outside of what the network sees.
    """
    large, seen = geometry.on_picture(np.nan_to_num(raw), shape)
    _, _, height, width = geometry.window
    view = (max(1, round(shape[0] * height)), max(1, round(shape[1] * width)))
    peak = max(large.max(), np.nan_to_num(upsample(raw[None], view)[0]).max())
    return (large / peak if peak > 0 else np.zeros(shape, np.float32)), seen


def shown(picture: np.ndarray, side: int = SIDE) -> np.ndarray:
    """A picture 0..255 as RGB (h, w, 3) in 0..1, shrunk until no side is longer than `side` pixels."""
    return as_rgb(shrunk(picture, side))


def shrunk(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture (h, w) or (h, w, 3) 0..255 in its proportions, no side longer than `side` pixels; float32."""
    factor = min(1.0, side / max(picture.shape[:2]))
    size = (max(1, round(picture.shape[0] * factor)), max(1, round(picture.shape[1] * factor)))
    return squash(picture.astype(np.float32, copy=False), size)


def overlay(picture: np.ndarray, share: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """RGB (h, w, 3) in 0..1: `share` (h, w) in 0..1 coloured over a picture in 0..1, as opaque as it is high."""
    opacity = (STRONGEST * share)[..., None]
    return veiled((1 - opacity) * picture + opacity * matplotlib.colormaps["inferno"](share)[..., :3], seen)


def veiled(picture: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """RGB (h, w, 3) in 0..1 with what the network does not see under stripes of grey."""
    if seen.all():
        return picture
    rows, columns = np.indices(seen.shape)
    stripe = np.where((rows + columns) % _STRIPES < _STRIPES // 2, *_STRIPE_LEVELS)[..., None]
    return np.where(seen[..., None], picture, (1 - _VEIL) * picture + _VEIL * stripe)


def panels(case: Case) -> list[Panel]:
    """Title and RGB picture of the image, before, after and difference."""
    picture = shown(case.picture)
    shape = (picture.shape[0], picture.shape[1])
    (before, seen), (after, _) = (relative(raw, case.geometry, shape) for raw in (case.before, case.after))
    return [
        (name_of(case.picture), picture),
        ("before", overlay(picture, before, seen)),
        ("after", overlay(picture, after, seen)),
        ("after - before", veiled(change.paint(picture, before, after, seen), seen)),
    ]


def unseen_rule() -> dict[str, object]:
    """What a page needs to draw stripes by the same rule; JSON."""
    return {"period": _STRIPES, "levels": [round(255 * level) for level in _STRIPE_LEVELS], "opacity": _VEIL}


def name_of(picture: np.ndarray) -> str:
    """What a panel without a map is called."""
    return "radiograph" if picture.ndim == 2 else "picture"


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


def as_rgb(picture: np.ndarray) -> np.ndarray:
    """Grey levels (h, w) or colours (h, w, 3) 0..255 to RGB (h, w, 3) in 0..1."""
    share = picture / 255.0
    return share if share.ndim == 3 else np.repeat(share[..., None], 3, axis=-1)

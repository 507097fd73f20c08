"""Captioned pictures in rows, written as a PNG.

Lengths are inches, at DPI pixels each; letters are DejaVu Sans, which matplotlib brings along and which knows more
alphabets than Pillow's own font. Pillow draws them: matplotlib takes half a second for the same sheet, its import
included.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from harness.common.formatting import one_line

DPI = 100
PICTURE = 2.0  # side of a picture on a sheet,
LARGE = 3.6  # of a picture that is one of few, and
LINE = 0.2  # height of a line of text
BAR = 1.2  # length of a colour scale
_FILLED = 0.96  # share of its place that a picture fills
Panel = tuple[str, np.ndarray]  # caption and RGB picture (H, W, 3) in 0..1
Scale = tuple[str, np.ndarray, str]  # words for its two ends, and colours (n, 3) in 0..1 between them


def compose(
    title: str, strips: Sequence[tuple[str, Sequence[Panel]]], across: int, path: Path, scales: Sequence[Scale] = (),
    side: float = PICTURE,
) -> None:  # fmt: skip
    """Write strips (caption, pictures), `across` to a row, under a title and the scales of their colours."""
    wide = side * max(len(row) for _, row in strips)
    tall = side + LINE * (2.5 if any(caption for caption, _ in strips) else 1.5)
    head = LINE * (3.5 if scales else 1.5)
    width = across * wide + (across - 1) * LINE
    sheet = _Sheet(width, head + tall * -(-len(strips) // across))
    sheet.write(width / 2, 1.5 * LINE, title, 12)
    for number, scale in enumerate(scales):
        sheet.draw_scale(0.6 + 5.4 * number, 2.7 * LINE, scale)
    for number, (caption, row) in enumerate(strips):
        left, top = number % across * (wide + LINE), head + tall * (number // across + 1) - side
        sheet.write(left + wide / 2, top - LINE, caption, 9)
        for start, (name, picture) in zip(left + side * np.arange(len(row)), row, strict=True):
            sheet.write(start + side / 2, top, name, min(11, round(4 * side)))
            sheet.paint(picture, start + side / 2, top + side / 2, side)
    sheet.image.save(path, "PNG", compress_level=1)  # a quarter of the time of 6, and a tenth larger


class _Sheet:
    """A white picture that is drawn on."""

    def __init__(self, width: float, height: float) -> None:
        self.image = Image.new("RGB", (_pixels(width), _pixels(height)), "white")
        self._draw = ImageDraw.Draw(self.image)

    def write(self, across: float, down: float, text: str, size: int, anchor: str = "md") -> None:
        """Write a line of `size` points; `anchor` is Pillow's: middle and descender line, for example."""
        at = DPI * across, DPI * down
        self._draw.text(at, one_line(text), fill="black", font=_font(size), anchor=anchor)

    def draw_scale(self, left: float, down: float, scale: Scale) -> None:
        """Words, colour bar, words; the bar begins at `left`, and `down` is the lower edge of all."""
        low, colours, high = scale
        right, middle = left + BAR, down - 0.3 * LINE
        self._place(colours[None], left, down - 0.6 * LINE, right, down)
        self.write(left - 0.06, middle, low, 8, "rm")
        self.write(right + 0.06, middle, high, 8, "lm")

    def paint(self, picture: np.ndarray, across: float, down: float, side: float) -> None:
        """A picture (H, W, 3) around its middle, in its own proportions."""
        height, width = _FILLED / 2 * side * np.array(picture.shape[:2]) / max(picture.shape[:2])
        self._place(picture, across - width, down - height, across + width, down + height)

    def _place(self, picture: np.ndarray, left: float, top: float, right: float, bottom: float) -> None:
        """A picture between four edges, without smoothing."""
        image = Image.fromarray(np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8))
        size = max(1, _pixels(right - left)), max(1, _pixels(bottom - top))
        self.image.paste(image.resize(size, Image.Resampling.NEAREST), (_pixels(left), _pixels(top)))


def _pixels(inches: float) -> int:
    return round(DPI * float(inches))


@cache
def _font(points: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans, or Pillow's own where distributors left it out; matplotlib is looked up, not imported."""
    found, size = find_spec("matplotlib"), points * DPI / 72
    places = (found.submodule_search_locations if found else None) or ()
    for file in (Path(place) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf" for place in places):
        if file.is_file():
            return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)
    return ImageFont.load_default(size)

"""Heat maps on pictures, and the contact sheet of the images whose evidence moved most.

A map belongs to what the network saw: it is drawn on the picture as it was before it was cropped, padded or squashed,
and what the network did not see of that is striped. A map is shown relative to its own maximum, on one colour scale for
before and after (`inferno`); the picture shines through where a map is low. A difference is shown by
`harness.report.change`. Display scaling happens here only: no number depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from harness.images.view import Geometry, squash
from harness.report import change
from harness.report.sheet import LARGE, Panel, Scale, compose
from kernels.resize import upsample

SIDE = 320  # pixels: longest side of a picture
STRONGEST = 0.65  # opacity of a heat map at its maximum
_STRIPES = 12  # pixels from one stripe to the next, over what a network does not see,
_STRIPE_LEVELS = 0.35, 0.55  # their levels,
_VEIL = 0.7  # and opacity


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


@cache
def colours() -> np.ndarray:
    """uint8 (256, 3): the colours of a map from 0 to its maximum (`inferno`)."""
    levels = np.arange(256, dtype=np.uint8)[None]
    return cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[0, :, ::-1]


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
    colour = colours()[np.minimum((256 * share).astype(np.intp), 255)] / 255
    return veiled((1 - opacity) * picture + opacity * colour, seen)


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
    compose(title, [("", row) for row in rows], 1, path, side=LARGE)


def contact_sheet(cases: Sequence[Case], title: str, path: Path) -> None:
    """Write the cases as a PNG, two to a row, four panels each, with the scales of their colours."""
    compose(title, [(case.caption, panels(case)) for case in cases], 2, path, _scales())


def _scales() -> list[Scale]:
    """What the colours of maps and of differences stand for."""
    at_least = f"\N{GREATER-THAN OR EQUAL TO} {change.FULL:g}"
    lines = f"Lines: top {change.TOP} % before (dashed) and after (solid)"
    return [
        ("map: 0", colours() / 255, "its largest value"),
        (f"after - before: {at_least} lost", change.scale(), f"{at_least} gained.   {lines}"),
    ]


def as_rgb(picture: np.ndarray) -> np.ndarray:
    """Grey levels (h, w) or colours (h, w, 3) 0..255 to RGB (h, w, 3) in 0..1."""
    share = picture / 255.0
    return share if share.ndim == 3 else np.repeat(share[..., None], 3, axis=-1)

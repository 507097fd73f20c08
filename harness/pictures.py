"""Heat maps on radiographs, and the contact sheet of the images whose evidence moved most.

A map is shown relative to its own maximum, on one colour scale for before and after; the radiograph shines
through where a map is low. Colours are perceptually even and safe for colour-blind readers: `inferno` for maps,
`PuOr` for differences. Display scaling happens here only: no number depends on it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from kernels.resize import upsample

STRONGEST = 0.65  # opacity of a heat map at its maximum


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


def overlay(grey: np.ndarray, share: np.ndarray, colours: str = "inferno") -> np.ndarray:
    """RGB (H, W, 3) in 0..1: `share` (H, W) in 0..1 coloured over a radiograph, as opaque as it is high."""
    opacity = (STRONGEST * share)[..., None]
    return (1 - opacity) * as_rgb(grey) + opacity * matplotlib.colormaps[colours](share)[..., :3]


def difference(grey: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """RGB (H, W, 3): orange where evidence left, purple where it came, over the radiograph."""
    change = after - before  # -1..1
    opacity = (STRONGEST * np.abs(change))[..., None]
    return (1 - opacity) * as_rgb(grey) + opacity * matplotlib.colormaps["PuOr"](0.5 + 0.5 * change)[..., :3]


def panels(case: Case) -> list[tuple[str, np.ndarray]]:
    """Title and RGB picture of radiograph, before, after and difference."""
    size = (case.grey.shape[0], case.grey.shape[1])
    before, after = relative(case.before, size), relative(case.after, size)
    return [
        ("radiograph", as_rgb(case.grey)),
        ("before", overlay(case.grey, before)),
        ("after", overlay(case.grey, after)),
        ("after - before", difference(case.grey, before, after)),
    ]


def grid(title: str, rows: Sequence[Sequence[tuple[str, np.ndarray]]], path: Path) -> None:
    """Write captioned pictures as a PNG."""
    columns = max(len(row) for row in rows)
    figure = Figure(figsize=(2.2 * columns, 2.4 * len(rows) + 0.5), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=11, parse_math=False)
    for axes, row in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        for axis, (caption, picture) in zip(axes, row, strict=False):
            axis.imshow(picture, interpolation="nearest", vmin=0, vmax=1)
            axis.set_title(caption, fontsize=8, parse_math=False)
        for axis in axes:
            axis.axis("off")
    _save(figure, path)


def contact_sheet(cases: Sequence[Case], title: str, path: Path) -> None:
    """Write the cases as a PNG, two to a row, four panels each."""
    rows = -(-len(cases) // 2)
    figure = Figure(figsize=(16, 2.25 * rows + 0.9), dpi=100, layout="constrained")
    figure.suptitle(title, fontsize=12, parse_math=False)
    cells = figure.subfigures(rows, 2, squeeze=False).ravel()
    for cell, case in zip(cells, cases, strict=False):
        cell.suptitle(case.caption, fontsize=9, parse_math=False)
        for axes, (name, picture) in zip(cell.subplots(1, 4), panels(case), strict=True):
            axes.imshow(picture, interpolation="nearest")
            axes.set_title(name, fontsize=8)
            axes.axis("off")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """Write the figure; letters that its font lacks are drawn as boxes, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(path)


def as_rgb(grey: np.ndarray) -> np.ndarray:
    """Grey levels (H, W) 0..255 to RGB (H, W, 3) in 0..1."""
    return np.repeat((grey / 255.0)[..., None], 3, axis=-1)

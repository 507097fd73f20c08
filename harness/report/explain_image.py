"""One explained image for people: the probabilities, a row of numbers per map, and the maps over the picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tabulate import tabulate

from harness.common.formatting import digits, one_line
from harness.models.attribution import ExplainedImage, Map
from harness.report import heatmaps
from harness.results.vocabulary import BUILT_IN
from kernels.catalogue import METRICS
from kernels.reasons import BY_CODE, Reason
from kernels.resize import upsample

NUMBERS = BUILT_IN.concentration


def explanation_table(found: ExplainedImage, size: tuple[int, int]) -> str:
    """The probabilities, and of each map its concentration at `size` and where on the picture its maximum lies."""
    classes = [[one_line(name), digits(float(p))] for name, p in zip(found.classes, found.probabilities, strict=True)]
    headers = ["layer", "method", *NUMBERS, "peak (down, right)", "undefined"]
    rows = [[one_line(a_map.layer), one_line(a_map.method), *_numbers(a_map, found, size)] for a_map in found.maps]
    return "\n\n".join(
        [
            tabulate(classes, ["class", "probability"], disable_numparse=True),
            f"explained: {one_line(found.classes[found.target])}",
            tabulate(rows, headers, disable_numparse=True),
        ]
    )


def summary_table(explained: Iterable[tuple[str, ExplainedImage]], size: tuple[int, int]) -> str:
    """A line per image and map: the explained class, its probability, and where on the picture the maximum is."""
    headers = ["image", "explained", "probability", "layer", "method", *NUMBERS, "peak (down, right)", "undefined"]
    rows = [
        [*_heading(name, found), one_line(a_map.layer), one_line(a_map.method), *_numbers(a_map, found, size)]
        for name, found in explained
        for a_map in found.maps
    ]
    return tabulate(rows, headers, disable_numparse=True)


def _heading(name: str, found: ExplainedImage) -> list[str]:
    return [one_line(name), one_line(found.classes[found.target]), digits(float(found.probabilities[found.target]))]


def draw(found: ExplainedImage, title: str, out: Path) -> None:
    """Write the picture and every map over it as a PNG, a row per layer."""
    layers = list(dict.fromkeys(a_map.layer for a_map in found.maps))
    rows = [[a_map for a_map in found.maps if a_map.layer == layer] for layer in layers]
    picture, name = heatmaps.shown(found.picture), heatmaps.name_of(found.picture)
    heatmaps.grid(
        title,
        [[(name, picture), *((_caption(a_map), _overlay(a_map, found, picture)) for a_map in row)] for row in rows],
        out,
    )


def _numbers(a_map: Map, found: ExplainedImage, size: tuple[int, int]) -> list[str]:
    large = upsample(a_map.raw[None], size)
    if a_map.reason != Reason.DEFINED:
        return ["-"] * (len(NUMBERS) + 1) + [a_map.reason.label]
    scores = [METRICS[name](large) for name in NUMBERS]
    reason = BY_CODE[int(scores[0][1][0])]
    place = np.array(np.unravel_index(large[0].argmax(), size)) / size
    down, right = found.geometry.to_picture(place)
    peak = f"{down:.0%}, {right:.0%}" if large[0].max() > 0 else "-"
    values = [digits(float(value[0]) if np.isfinite(value[0]) else None) for value, _ in scores]
    return [*values, peak, "" if reason == Reason.DEFINED else reason.label]


def _caption(a_map: Map) -> str:
    return f"{a_map.method}, {a_map.layer}"


def _overlay(a_map: Map, found: ExplainedImage, picture: np.ndarray) -> np.ndarray:
    share, seen = heatmaps.relative(a_map.raw, found.geometry, (picture.shape[0], picture.shape[1]))
    return heatmaps.overlay(picture, share, seen)

"""One image through one exported graph: what it says, and where every CAM method finds the evidence for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tabulate import tabulate

from harness.common.errors import InputError
from harness.common.formatting import digits, one_line
from harness.common.validation import user_functions
from harness.images.loading import channels_first, load_grey
from harness.models.session import Model
from harness.report import heatmaps
from harness.results.vocabulary import BUILT_IN, current
from kernels.cam import cams
from kernels.catalogue import METRICS
from kernels.reasons import BY_CODE, Reason
from kernels.resize import upsample

NUMBERS = BUILT_IN.concentration


@dataclass(frozen=True)
class Map:
    """The raw map (h, w) of one method at one layer, and why it is undefined, if it is."""

    layer: str
    method: str
    raw: np.ndarray
    reason: Reason


@dataclass(frozen=True)
class ExplainedImage:
    """What a graph says of an image. `target` is the index of the class whose maps these are."""

    grey: np.ndarray
    classes: Sequence[str]
    probabilities: np.ndarray
    target: int
    maps: Sequence[Map]


def explain(model: Model, image: Path, target: str | None, layers: Sequence[str]) -> ExplainedImage:
    """All methods at some layers (all, if none is named) for class `target` (the predicted one, if None).

    :raises InputError: an image that cannot be read, a class or a layer that the graph has not.
    """
    metadata = model.metadata
    wanted = [model.graph.layer(name).label for name in layers] or list(model.graph.layers)
    if target is not None and target not in metadata.classes:
        raise InputError(f"{model.graph.path}: no class {target!r}; it has: {', '.join(metadata.classes)}")
    grey = load_grey(image, metadata.input_size)
    number = -1 if target is None else metadata.classes.index(target)
    found = model.explain(channels_first(grey[None]), np.array([number]), wanted)
    probabilities = metadata.probabilities(found.logits)[0]
    methods = [record.name for record in current().methods]
    with user_functions(lambda _: str(image)):
        maps = [
            Map(layer, method, raw[0], BY_CODE[int(codes[0])])
            for layer in wanted
            for method, (raw, codes) in cams(methods, *found.layers[layer]).items()
        ]
    return ExplainedImage(
        grey, metadata.classes, probabilities, int(probabilities.argmax()) if target is None else number, maps
    )


def explanation_table(found: ExplainedImage, size: tuple[int, int]) -> str:
    """The probabilities, and of each map its concentration and where its maximum lies, at `size`."""
    said = [[one_line(name), digits(float(p))] for name, p in zip(found.classes, found.probabilities, strict=True)]
    headers = ["layer", "method", *NUMBERS, "peak (down, right)", "undefined"]
    rows = [[a_map.layer, a_map.method, *_numbers(a_map, size)] for a_map in found.maps]
    return "\n\n".join(
        [
            tabulate(said, ["class", "probability"], disable_numparse=True),
            f"explained: {one_line(found.classes[found.target])}",
            tabulate(rows, headers, disable_numparse=True),
        ]
    )


def draw(found: ExplainedImage, title: str, out: Path) -> None:
    """Write the radiograph and every map over it as a PNG, a row per layer."""
    layers = list(dict.fromkeys(a_map.layer for a_map in found.maps))
    rows = [[a_map for a_map in found.maps if a_map.layer == layer] for layer in layers]
    heatmaps.grid(
        title,
        [
            [
                ("radiograph", heatmaps.as_rgb(found.grey)),
                *((_caption(a_map), _overlay(a_map, found.grey)) for a_map in row),
            ]
            for row in rows
        ],
        out,
    )


def _numbers(a_map: Map, size: tuple[int, int]) -> list[str]:
    large = upsample(a_map.raw[None], size)
    if a_map.reason != Reason.DEFINED:
        return ["-"] * (len(NUMBERS) + 1) + [a_map.reason.label]
    scores = [METRICS[name](large) for name in NUMBERS]
    reason = BY_CODE[int(scores[0][1][0])]
    down, right = np.unravel_index(large[0].argmax(), size)
    peak = f"{down / size[0]:.0%}, {right / size[1]:.0%}" if large[0].max() > 0 else "-"
    values = [digits(float(value[0]) if np.isfinite(value[0]) else None) for value, _ in scores]
    return [*values, peak, "" if reason == Reason.DEFINED else reason.label]


def _caption(a_map: Map) -> str:
    return f"{a_map.method}, {a_map.layer}"


def _overlay(a_map: Map, grey: np.ndarray) -> np.ndarray:
    return heatmaps.overlay(grey, heatmaps.relative(a_map.raw, (grey.shape[0], grey.shape[1])))

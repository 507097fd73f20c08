"""Running a model on golden cases, and how far the outcome is from what is expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.bundle.format import Deviation, Expected, ExpectedMap
from harness.images.view import channels_first
from harness.models.attribution import all_maps
from harness.models.session import Model
from kernels.metrics import pair_metrics
from kernels.reasons import BY_CODE, Reason


@dataclass(frozen=True)
class Explained:
    """Logits (K,), and raw map (h, w) with its reason by (layer, method), of one case."""

    logits: np.ndarray
    maps: Mapping[tuple[str, str], tuple[np.ndarray, Reason]]


def run_case(model: Model, pixels: np.ndarray, target: int, layers: Sequence[str], methods: Sequence[str]) -> Explained:
    """One view (H, W) or (H, W, 3) through the model."""
    named = str(model.graph.path)
    view = channels_first(pixels[None])
    found, maps_made = all_maps(model, view, np.array([target]), layers, methods, lambda _: named)
    maps = {key: (made.raw[0], BY_CODE[int(made.codes[0])]) for key, made in maps_made.items()}
    return Explained(found.logits[0], maps)


def as_expected(found: Explained) -> Expected:
    """For the file: float32 values are exact as decimal numbers."""
    return Expected(
        logits=[float(value) for value in found.logits],
        maps=[
            ExpectedMap(
                layer=layer,
                method=method,
                shape=(raw.shape[0], raw.shape[1]),
                values=[float(value) for value in raw.ravel()] if reason == Reason.DEFINED else [],
                reason=reason.label,
            )
            for (layer, method), (raw, reason) in found.maps.items()
        ],
    )


def deviation(found: Explained, expected: Expected, size: tuple[int, int]) -> Deviation:
    """The worst over layers and methods. What is undefined on one side only is as far away as can be."""
    worst = Deviation(logits=_distance(found.logits, expected.logits), map_l2=0, iou_top20=1, pearson=1)
    for item in expected.maps:
        raw, reason = found.maps[item.layer, item.method]
        worst = worse(worst, _map_deviation(raw, reason, item, size))
    return worst


def worse(one: Deviation, other: Deviation) -> Deviation:
    """Field by field the farther away."""
    return Deviation(
        logits=max(one.logits, other.logits),
        map_l2=max(one.map_l2, other.map_l2),
        iou_top20=min(one.iou_top20, other.iou_top20),
        pearson=min(one.pearson, other.pearson),
    )


def exceeded(found: Deviation, tolerance: Deviation) -> list[str]:
    """The fields in which `found` is beyond `tolerance`; NaN is beyond everything."""
    within = {
        "logits": found.logits <= tolerance.logits,
        "map_l2": found.map_l2 <= tolerance.map_l2,
        "iou_top20": found.iou_top20 >= tolerance.iou_top20,
        "pearson": found.pearson >= tolerance.pearson,
    }
    return [name for name, holds in within.items() if not holds]


_FAR = float(np.finfo(np.float32).max)


def _distance(found: np.ndarray, expected: Sequence[float]) -> float:
    if found.shape != (len(expected),) or not np.isfinite(found).all():
        return _FAR
    return float(np.abs(found - np.array(expected)).max())


def _map_deviation(raw: np.ndarray, reason: Reason, expected: ExpectedMap, size: tuple[int, int]) -> Deviation:
    if reason.label != expected.reason or (reason == Reason.DEFINED and raw.shape != expected.shape):
        return Deviation(logits=0, map_l2=_FAR, iou_top20=0, pearson=-1)
    if reason != Reason.DEFINED:
        return Deviation(logits=0, map_l2=0, iou_top20=1, pearson=1)
    before = np.array(expected.values, np.float32).reshape(expected.shape)
    length = float(np.linalg.norm(before.astype(np.float64)))
    distance = float(np.linalg.norm(raw.astype(np.float64) - before))
    relative = min(distance / length, _FAR) if length else (_FAR if distance else 0.0)
    scores = pair_metrics(before[None], raw[None], size=size)
    agreed = np.array_equal(raw, before)  # two equal maps agree, also where a metric of them is undefined
    iou, pearson = (_score(scores.column(name), agreed) for name in ("iou_top20", "pearson"))
    return Deviation(logits=0, map_l2=relative, iou_top20=max(iou, 0.0), pearson=max(pearson, -1.0))


def _score(column: tuple[np.ndarray, np.ndarray], agreed: bool) -> float:
    value = float(column[0][0])
    return value if np.isfinite(value) else (1.0 if agreed else -1.0)

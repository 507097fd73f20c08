"""What `evaluate` computes, as an able user would write it with other tools: the rival of the end-to-end comparison.

Both models stay loaded; files are decoded by OpenCV, a batch at a time; predictions and maps come from an explainer of
`benchmarks.explainers`; the metrics of every pair of maps from `benchmarks.kernel_rivals` (numpy, SciPy, scikit-image),
on both cores. `evaluate` does more: it hashes the files, looks for undefined maps and says why they are, keeps
everything in Parquet files so that it can be resumed, computes intervals by bootstrap over patients, and writes a
report.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks import explainers
from benchmarks import kernel_rivals as rivals
from benchmarks.explainers import Explained, Explainer
from benchmarks.timing import THREADS

BATCH = 16
MAP_SIZE = (224, 224)
METRICS = 23  # numbers that a pair of maps has
PARTNERS = 10  # unrelated images that each is compared with


@dataclass(frozen=True)
class Compared:
    """accuracies of the two checkpoints; per method maps before and after (N, h, w) and metrics (N, M).

    The columns are those of `kernels.metrics.pair_metrics`, in its order; a pair with an empty map has NaN.
    """

    accuracies: list[float]
    maps: dict[str, tuple[np.ndarray, np.ndarray]]
    metrics: dict[str, np.ndarray]


def compare(
    files: Sequence[Path], classes: np.ndarray, size: tuple[int, int], before: Explainer, after: Explainer
) -> Compared:
    """Decode, explain under both checkpoints, and compare, every image by its true class (N,)."""
    found: list[tuple[Explained, Explained]] = []
    for start in range(0, len(files), BATCH):
        greys = np.stack([decoded(path, size) for path in files[start : start + BATCH]])
        batch = classes[start : start + BATCH]
        found.append((before(greys, batch), after(greys, batch)))
    sides = [_joined(side) for side in zip(*found, strict=True)]
    accuracies = [float((side.logits.argmax(axis=1) == classes).mean()) for side in sides]
    maps = {method: (sides[0].maps[method], sides[1].maps[method]) for method in sides[0].maps}
    return Compared(accuracies, maps, {method: scores(*pair) for method, pair in maps.items()})


@dataclass(frozen=True)
class Referenced:
    """Per method the metrics (N, M) of a noisy copy with its image, and their means over unrelated images."""

    compared: Compared
    floor: dict[str, np.ndarray]
    chance: dict[str, np.ndarray]


def with_references(
    files: Sequence[Path], classes: np.ndarray, size: tuple[int, int], before: Explainer, after: Explainer
) -> Referenced:
    """`compare`, a noisy copy of each image, which the checkpoints see in turns, and PARTNERS other images of each."""
    compared = compare(files, classes, size, before, after)
    noisy = []
    for start in range(0, len(files), BATCH):
        batch = slice(start, start + BATCH)
        noisy.append((before, after)[start // BATCH % 2](jittered(files[batch], size), classes[batch]))
    turn = np.arange(len(files)) // BATCH % 2 == 0
    floor, chance = {}, {}
    for method, maps in compared.maps.items():
        sides = [explainers.enlarged(side, MAP_SIZE) for side in maps]
        moved = explainers.enlarged(np.concatenate([batch.maps[method] for batch in noisy]), MAP_SIZE)
        floor[method] = _scores(np.where(turn[:, None, None], *sides), np.roll(moved, -1, axis=2))
        others = (np.roll(sides[1], n, axis=0) for n in range(1, 1 + PARTNERS))
        chance[method] = np.mean([_scores(sides[0], other) for other in others], axis=0)
    return Referenced(compared, floor, chance)


def jittered(files: Sequence[Path], size: tuple[int, int]) -> np.ndarray:
    """Decoded pictures with noise of one grey level, moved to the right by a pixel."""
    greys = np.stack([decoded(path, size) for path in files])
    noise = np.random.default_rng(0).standard_normal(greys.shape, np.float32)
    return np.roll(np.clip(greys + noise, 0, 255), 1, axis=2)


def decoded(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Grey levels, float32 (H, W)."""
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.float32)
    shrinks = size[0] < grey.shape[0]
    return cv2.resize(grey, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def scores(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Every metric of every pair of maps (N, h, w), at the size in which they are compared: (N, M)."""
    return _scores(explainers.enlarged(before, MAP_SIZE), explainers.enlarged(after, MAP_SIZE))


def _scores(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Of maps that have that size."""
    with ThreadPoolExecutor(THREADS) as pool:
        return np.array(list(pool.map(_full_set, before, after)))


def _full_set(a: np.ndarray, b: np.ndarray) -> list[float]:
    return rivals.full_set(a, b) if a.any() and b.any() else [np.nan] * METRICS


def _joined(batches: Sequence[Explained]) -> Explained:
    maps = {name: np.concatenate([batch.maps[name] for batch in batches]) for name in batches[0].maps}
    return Explained(np.concatenate([batch.logits for batch in batches]), maps)

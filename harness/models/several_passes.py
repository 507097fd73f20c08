"""Attribution by several passes: the points that a method asks about, in full batches through a model or its tail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from harness.models.session import Model
from kernels.catalogue import cam_method
from kernels.record_types import MethodRecord
from kernels.several_passes import Attribution


def maps_of(
    model: Model,
    layer: str,
    method: str,
    activations: np.ndarray,
    pictures: np.ndarray,
    targets: np.ndarray,
    batch: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Raw maps float32 (N, h, w), NaN where undefined, and residuals (N,) of completeness, NaN where there is none.

    :param activations: (N, C, h, w) of the layer.
    :param pictures: (N, 3, H, W).
    :param targets: (N,) the class to explain, never -1.
    :param batch: points per call, of whichever images; by default `model.batch`. It changes no number on the CPU.
    """
    record = cam_method(method)
    images = [record.attribution(*pair) for pair in zip(activations, pictures, strict=True)]
    for pieces in _batches([image.passes for image in images], batch or model.batch):
        _ask(model, layer, record, images, pieces, activations, pictures, targets)
    maps = np.empty((len(images), *activations.shape[2:]), np.float32)
    for n, image in enumerate(images):
        total = image.total()
        maps[n] = np.maximum(total, 0) if np.isfinite(total.astype(np.float32)).all() else np.nan
    return maps, np.array([image.residual() for image in images])


Piece = tuple[int, int, int]  # image, its first point, number of points


def _ask(
    model: Model,
    layer: str,
    record: MethodRecord,
    images: Sequence[Attribution],
    pieces: Sequence[Piece],
    activations: np.ndarray,
    pictures: np.ndarray,
    targets: np.ndarray,
) -> None:
    """One call of the model, or of its tail, for some points."""
    rows = np.repeat([row for row, _, _ in pieces], [count for _, _, count in pieces])
    likes = activations if record.asks == "tail" else pictures
    points = np.empty((len(rows), *likes.shape[1:]), np.float32)
    ends = np.cumsum([count for _, _, count in pieces])
    for (row, first, count), end in zip(pieces, ends, strict=True):
        images[row].fill(first, points[end - count : end])
    gradients = None
    if record.asks == "network":
        logits = model.logits(points)
    else:
        logits, gradients = model.behind(layer, points, targets[rows], pictures[rows], images[0].wants_gradients)
    scores = model.metadata.explained_scores(logits, targets[rows])
    for (row, first, count), end in zip(pieces, ends, strict=True):
        piece = slice(end - count, end)
        images[row].take(first, scores[piece], None if gradients is None else gradients[piece])


def _batches(counts: Sequence[int], size: int) -> Iterator[list[Piece]]:
    """The points 0 .. counts[n] - 1 of images n in order, cut into batches of `size`; the last may be smaller."""
    batch: list[Piece] = []
    room = size
    for row, count in enumerate(counts):
        first = 0
        while first < count:
            taken = min(room, count - first)
            batch.append((row, first, taken))
            first, room = first + taken, room - taken
            if not room:
                yield batch
                batch, room = [], size
    if batch:
        yield batch

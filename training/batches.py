"""Batches whose content is a function of (seed, phase, epoch) alone.

That is what makes an interrupted run continue bit by bit: nothing about shuffling, augmentation or dropout has to be
remembered, it is computed again from the epoch's number.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from harness.images.view import channels_last
from training.augment import augment, moved_along
from training.config import Augment
from training.framework import keras
from training.pixels import Pixels


def epoch_key(seed: int, phase: str, epoch: int) -> list[int]:
    """Entropy for everything random in one epoch."""
    return [seed, zlib.crc32(phase.encode()), epoch]


def divided(indices: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Batches of `batch_size`, the last two sharing what is left evenly.

    A small rest alone would give BatchNorm statistics of a few images, and leave a second device without any.
    """
    whole = max(len(indices) // batch_size - 1, 0)
    left = indices[whole * batch_size :]  # fewer than two batches
    tail = np.array_split(left, -(-len(left) // batch_size))
    return [*indices[: whole * batch_size].reshape(whole, batch_size), *tail]


class ImageBatches(keras.utils.PyDataset):
    """Images in the order of `indices`: (n, H, W, 3) levels 0..255, with targets and weights where given."""

    def __init__(
        self,
        pixels: Pixels,
        indices: np.ndarray,
        batch_size: int,
        labels: tuple[np.ndarray, np.ndarray] | None = None,
        how: Augment | None = None,
        key: list[int] | None = None,
    ) -> None:
        super().__init__()
        self._pixels, self._batches = pixels, divided(indices, batch_size)
        self._labels, self._how, self._key = labels, how, key or []

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        indices = self._batches[number]
        images = channels_last(self._changed(self._pixels.views(indices), indices))  # (n, H, W, 3)
        return (images, *_take(self._labels, indices))

    def _random(self, index: int) -> np.random.Generator:
        """What decides how an image of this epoch is augmented."""
        return np.random.default_rng([*self._key, int(index)])

    def _changed(self, views: np.ndarray, indices: np.ndarray) -> np.ndarray:
        if self._how is None:
            return views
        for row, index in enumerate(indices):
            views[row] = augment(views[row], self._how, self._random(index))
        return views


class PreservedBatches(ImageBatches):
    """`ImageBatches` with references: (images, (targets, R (n, h, w), k (n,)), weights).

    `references` holds R and k by sample number; R is moved along with its picture. k = 1 where an image takes part.
    """

    def __init__(self, references: tuple[np.ndarray, np.ndarray], *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._references = references

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        images, targets, weights = super().__getitem__(number)
        indices = self._batches[number]
        maps, kept = (column[indices] for column in self._references)
        return images, (targets, self._moved(maps, indices), kept), weights

    def _moved(self, maps: np.ndarray, indices: np.ndarray) -> np.ndarray:
        if self._how is None or not maps.size:
            return maps
        moved = [moved_along(plane, self._how, self._random(k)) for plane, k in zip(maps, indices, strict=True)]
        return np.stack(moved)


class FeatureBatches(keras.utils.PyDataset):
    """Pooled features (n, C) in the order of `indices`, with targets and weights where given."""

    def __init__(
        self,
        features: np.ndarray,
        indices: np.ndarray,
        batch_size: int,
        labels: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        super().__init__()
        self._features, self._batches = features, divided(indices, batch_size)
        self._labels = labels

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> tuple[np.ndarray, ...]:
        indices = self._batches[number]
        return (self._features[indices], *_take(self._labels, indices))


def _take(labels: tuple[np.ndarray, np.ndarray] | None, indices: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(column[indices] for column in labels) if labels else ()

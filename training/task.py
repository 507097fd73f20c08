"""A data set with its split, and the task ready to train on: the same with its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.images.rule import GREY, ImageRule
from training.config import Data
from training.phantoms import write_phantoms
from training.pixels import Pixels
from training.samples import (
    Sample,
    at_most,
    class_names,
    content_digests,
    data_digest,
    one_hot,
    read_folders,
    read_manifest,
)
from training.split import SPLITS, read_split, require_all_classes, split_by_group, write_split


@dataclass(frozen=True)
class Dataset:
    """N images of K classes, before any is decoded: `targets` is (N, K), `chosen` (N,) indexes SPLITS.

    `contents` holds the sha256 of every file.
    """

    samples: list[Sample]
    classes: tuple[str, ...]
    multi: bool
    targets: np.ndarray
    chosen: np.ndarray
    contents: list[str]

    @property
    def groups(self) -> np.ndarray:
        """The patient of each image, (N,)."""
        return np.array([sample.group for sample in self.samples])

    @property
    def digest(self) -> str:
        """Identity of the images with their labels and patients."""
        return data_digest(self.samples, self.contents)

    def indices(self, split: str) -> np.ndarray:
        """Sample numbers of a split, ascending."""
        return np.flatnonzero(self.chosen == SPLITS.index(split))

    def class_weights(self) -> np.ndarray:
        """N / (K n_c) over the training images, (N,) per image; with multi-label the mean over its classes."""
        train = self.targets[self.indices("train")]
        per_class = len(train) / (len(self.classes) * train.sum(axis=0))
        labels = self.targets.sum(axis=1)
        weighted = np.divide(self.targets @ per_class, labels, out=np.ones(len(labels)), where=labels > 0)
        return weighted.astype(np.float32)

    def write_split(self, path: Path) -> None:
        """Write split.csv. Refuses a split of which a part lacks a class."""
        require_all_classes(self.chosen, self.targets, self.classes)
        write_split(path, self.samples, self.chosen, self.contents)

    def facts(self) -> dict[str, Any]:
        """What `run.json` says about the data."""
        return {
            "digest": self.digest,
            "images": len(self.samples),
            "groups": len(np.unique(self.groups)),
            "split": {split: len(self.indices(split)) for split in SPLITS},
        }


@dataclass(frozen=True)
class Task(Dataset):
    """A data set to train on: with its pixels."""

    pixels: Pixels


def read_dataset(data: Data, base: Path, folder: Path, name: str, seed: int) -> Dataset:
    """Read or draw the images of [data] and split them. Nothing but drawn images is written."""
    multi = data.labels == "multi"
    samples = at_most(_samples(data, base, folder, name, multi), data.per_class, seed)
    classes = class_names(samples, data.classes)
    targets = one_hot(samples, classes)
    if data.split is not None:
        chosen = read_split(base / data.split, samples)
    else:
        chosen = split_by_group(samples, targets, data.validation, data.test, seed)
    return Dataset(samples, classes, multi, targets, chosen, content_digests(samples))


def prepare(
    dataset: Dataset, size: tuple[int, int], cache_gb: float, quiet: bool = False, rule: ImageRule = GREY
) -> Task:
    """Decode every image once, by an image rule."""
    return Task(**vars(dataset), pixels=Pixels(dataset.samples, size, cache_gb, quiet, rule))


def _samples(data: Data, base: Path, folder: Path, name: str, multi: bool) -> list[Sample]:
    if data.manifest is not None:
        return read_manifest(base / data.manifest, multi=multi, columns=data.columns)
    if data.folders is not None:
        return read_folders(base / data.folders, data.group_pattern)
    assert data.phantoms is not None
    drawn = data.phantoms
    target = folder / f"phantoms-{name}"
    if not (target / "manifest.csv").exists():  # it is written last, and its digests are checked
        write_phantoms(target, drawn.images, drawn.patients, seed=drawn.seed, size=drawn.size)
    return read_manifest(target / "manifest.csv")

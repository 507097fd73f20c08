"""A classification task ready to train on: samples, targets, split and pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.config import Data
from training.phantoms import write_phantoms
from training.pixels import Pixels
from training.samples import Sample, at_most, class_names, data_digest, one_hot, read_folders, read_manifest
from training.split import SPLITS, read_split, require_all_classes, split_by_group, write_split


@dataclass(frozen=True)
class Task:
    """N images of K classes. `targets` is (N, K), `chosen` indexes SPLITS, `groups` holds the patients."""

    samples: list[Sample]
    classes: tuple[str, ...]
    multi: bool
    targets: np.ndarray
    groups: np.ndarray
    chosen: np.ndarray
    pixels: Pixels
    digest: str

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

    def facts(self) -> dict[str, Any]:
        """What `run.json` says about the data."""
        return {
            "digest": self.digest,
            "images": len(self.samples),
            "groups": len(np.unique(self.groups)),
            "split": {split: len(self.indices(split)) for split in SPLITS},
        }


def prepare(data: Data, base: Path, folder: Path, name: str, seed: int, size: tuple[int, int]) -> Task:
    """Read or draw the data of [data], split it, write `folder/<name>.csv` and decode every image once."""
    multi = data.labels == "multi"
    samples = at_most(_samples(data, base, folder, name, multi), data.per_class, seed)
    classes = class_names(samples, data.classes)
    targets = one_hot(samples, classes)
    if data.split is not None:
        chosen = read_split(base / data.split, samples)
    else:
        chosen = split_by_group(samples, targets, data.validation, data.test, seed)
    require_all_classes(chosen, targets, classes)
    write_split(folder / f"{name}.csv", samples, chosen)
    groups = np.array([sample.group for sample in samples])
    pixels = Pixels(samples, size, data.cache_gb)
    return Task(samples, classes, multi, targets, groups, chosen, pixels, data_digest(samples))


def _samples(data: Data, base: Path, folder: Path, name: str, multi: bool) -> list[Sample]:
    if data.manifest is not None:
        return read_manifest(base / data.manifest, multi=multi)
    if data.folders is not None:
        return read_folders(base / data.folders, data.group_pattern)
    assert data.phantoms is not None
    drawn = data.phantoms
    target = folder / f"phantoms-{name}"
    if not (target / "manifest.csv").exists():  # it is written last, and its digests are checked
        write_phantoms(target, drawn.images, drawn.patients, seed=drawn.seed, size=drawn.size)
    return read_manifest(target / "manifest.csv")

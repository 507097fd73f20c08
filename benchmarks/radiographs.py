"""The real radiographs on which evaluations are timed: a seeded choice of `cxr5`."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.networks import CLASSES, ROOT
from harness.common.errors import InputError


@dataclass(frozen=True)
class Radiographs:
    """Files, true classes (N,) as numbers and patients."""

    files: list[Path]
    classes: np.ndarray
    groups: list[str]

    def first(self, count: int) -> Radiographs:
        return Radiographs(self.files[:count], self.classes[:count], self.groups[:count])

    def write_manifest(self, path: Path, names: tuple[str, ...] = CLASSES) -> Path:
        """What `evaluate --data` reads."""
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["file", "class", "group"])
            for file, number, group in zip(self.files, self.classes, self.groups, strict=True):
                writer.writerow([file, names[number], group])
        return path


def radiographs(count: int) -> Radiographs:
    """`count` of them, drawn with a fixed seed, from `../shared` or `$EVIDENCE_DRIFT_SHARED`.

    :raises InputError: they are not there.
    """
    folder = Path(os.environ.get("EVIDENCE_DRIFT_SHARED", ROOT.parent / "shared")) / "cxr5"
    manifest = folder / "manifest.csv"
    if not manifest.is_file():
        raise InputError(f"{manifest}: no such manifest; set EVIDENCE_DRIFT_SHARED to the folder that holds cxr5")
    with manifest.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    chosen = [rows[n] for n in np.random.default_rng(0).permutation(len(rows))[:count]]
    classes = np.array([CLASSES.index(row["class"]) for row in chosen], np.int64)
    return Radiographs([folder / row["file"] for row in chosen], classes, [row["group"] for row in chosen])

"""Slips in a data set that training would not notice, looked for before it begins.

A run that has begun is not asked again: it goes on with the data that it has (training/resume_checks.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from harness.common.errors import InputError, warn
from harness.images import labels
from harness.images.manifest import require_distinct
from training.config import Data
from training.samples import Sample
from training.split import SPLITS
from training.task import Dataset

# What spreadsheets and pandas write into an empty cell.
MISSING = {*labels.MISSING, "-"}


def require_sound(dataset: Dataset, data: Data) -> None:
    """Refuse labels and patients that are none, files in disguise, and patients or labels that spoil the split."""
    for sample in dataset.samples:
        _require_cells(sample, data)
    source = Path(data.manifest or data.folders or "phantoms")
    require_distinct(source, ((sample.file, sample.path) for sample in dataset.samples))
    _require_patients_apart(dataset)
    if dataset.multi:
        _require_negatives(dataset)
    _warn_of_copies(dataset)
    _warn_of_spellings("patients", [sample.group for sample in dataset.samples])
    _warn_of_spellings("classes", dataset.classes)


def _require_cells(sample: Sample, data: Data) -> None:
    for what, cells in (("file", (sample.file,)), ("group", (sample.group,)), ("class", sample.labels)):
        for cell in cells:
            if cell != cell.strip() or "\n" in cell:
                raise InputError(
                    f"{sample.path.name}: the {what} {cell[:40]!r} has blanks or line breaks; write it plainly"
                )
    if sample.group.lower() in MISSING:
        raise InputError(
            f"{sample.file}: the group is {sample.group!r}, which means none; fill in the patient, or a name of its own"
        )
    missing = [label for label in sample.labels if label.lower() in MISSING and label not in (data.classes or ())]
    if missing:
        raise InputError(
            f"{sample.file}: the class is {missing[0]!r}, which means none; fill it in, or list it in data.classes"
        )
    if data.labels == "single" and "|" in sample.labels[0]:
        raise InputError(f'{sample.file}: has several classes ({sample.labels[0]}); set data.labels = "multi"')


def _require_patients_apart(dataset: Dataset) -> None:
    parts: dict[str, int] = {}
    for sample, part in zip(dataset.samples, dataset.chosen.tolist(), strict=True):
        other = parts.setdefault(sample.group, part)
        if other != part:
            raise InputError(
                f"patient {sample.group} has images in the {SPLITS[other]} and in the {SPLITS[part]} part; "
                "use a data.split that was made with the same patients"
            )


def _require_negatives(dataset: Dataset) -> None:
    """A class that every image of a part has makes its AUC undefined, and with it early stopping."""
    for index, split in enumerate(SPLITS):
        part = dataset.targets[dataset.chosen == index]
        if part.size and part.all(axis=0).any():
            name = dataset.classes[int(np.argmax(part.all(axis=0)))]
            raise InputError(f"all images of the {split} part are {name}; add some that are not")


def _warn_of_copies(dataset: Dataset) -> None:
    """Equal files in two parts of the split: what is tested has been trained on."""
    found = [copies for copies in _copies(dataset) if len({dataset.chosen[k] for k in copies}) > 1]
    if found:
        first = ", ".join(f"{dataset.samples[k].file} ({SPLITS[dataset.chosen[k]]})" for k in found[0])
        warn(f"{len(found)} images lie in several parts of the split as equal files, for example {first}; group them")


def _warn_of_spellings(what: str, names: Iterable[str]) -> None:
    """Names that differ by case, or by the `.0` that spreadsheets and pandas append to numbers."""
    spelled: dict[str, set[str]] = defaultdict(set)
    for name in names:
        spelled[name.casefold().removesuffix(".0")].add(name)
    found = [sorted(alike) for alike in spelled.values() if len(alike) > 1]
    if found:
        first = " and ".join(map(repr, found[0]))
        warn(f"{first} count as {len(found[0])} {what} ({len(found)} such cases); write them alike if they are one")


def _copies(dataset: Dataset) -> Iterable[list[int]]:
    by_content: dict[str, list[int]] = defaultdict(list)
    for index, content in enumerate(dataset.contents):
        by_content[content].append(index)
    return by_content.values()

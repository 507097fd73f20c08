"""Stratified split by patient: train, validation and test, with no group in two of them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from harness.common.errors import InputError, warn
from harness.common.storage import relative_path
from harness.images.columns import FILE, SPLIT
from harness.images.manifest import read_manifest
from training.files import write_text
from training.samples import Sample, same_file

SPLITS = ("train", "validation", "test")


def split_by_group(samples: list[Sample], targets: np.ndarray, validation: float, test: float, seed: int) -> np.ndarray:
    """Index into SPLITS for each sample, int (N,).

    Whole groups are dealt out greedily (after Sechidis 2011, doi:10.1007/978-3-642-23808-6_10, with groups for
    examples): the largest first, equal ones in seeded order, each to the split that lacks most of its classes,
    relative to what that split should hold. `targets` is (N, K), one-hot or multi-label.
    """
    names, member = np.unique([sample.group for sample in samples], return_inverse=True)
    counted = np.column_stack([targets, np.ones(len(samples))])  # a column of ones balances the sizes too
    per_group = np.zeros((len(names), counted.shape[1]))
    np.add.at(per_group, member, counted)
    shares = np.array([1 - validation - test, validation, test])
    chosen = _deal(per_group, shares[:, None] * per_group.sum(axis=0), seed)
    return chosen[member]


def _deal(per_group: np.ndarray, wanted: np.ndarray, seed: int) -> np.ndarray:
    shuffled = np.random.default_rng([seed, 2]).permutation(len(per_group))
    order = shuffled[np.argsort(-per_group[shuffled, -1], kind="stable")]
    lacking, chosen = wanted.copy(), np.empty(len(per_group), int)
    for group in order:
        need = (lacking / np.maximum(wanted, 1e-9)) @ per_group[group]
        chosen[group] = np.argmax(need)
        lacking[chosen[group]] -= per_group[group]
    return chosen


def require_all_classes(chosen: np.ndarray, targets: np.ndarray, classes: tuple[str, ...]) -> None:
    """Refuse a split in which a class has no image: its metrics would be undefined."""
    for index, split in enumerate(SPLITS):
        missing = [name for name, n in zip(classes, targets[chosen == index].sum(axis=0), strict=True) if n == 0]
        if missing:
            raise InputError(
                f"the {split} part has no image of {', '.join(missing)}; "
                "give more patients of it, or change data.validation and data.test"
            )


def write_split(path: Path, samples: list[Sample], chosen: np.ndarray, contents: list[str]) -> None:
    """CSV with file, class, group, split and sha256. Files are relative to the CSV, which makes it a manifest too."""
    ways = {parent: relative_path(path.parent, parent) for parent in {sample.path.parent for sample in samples}}
    rows = [
        (
            ways[sample.path.parent] / sample.path.name,
            "|".join(sample.labels),
            sample.group,
            SPLITS[split],
            content,
        )
        for sample, split, content in zip(samples, chosen, contents, strict=True)
    ]
    with write_text(path) as stream:
        csv.writer(stream).writerows([("file", "class", "group", "split", "sha256"), *rows])


def read_split(path: Path, samples: list[Sample]) -> np.ndarray:
    """The split of another run for the same images; refuses images that it does not name."""
    rows = read_manifest(path, needed=(FILE, SPLIT), wanted=(FILE, SPLIT), warn=warn).rows
    places = find_rows([Path(str(row.path)) for row in rows], samples)
    splits = [None if place is None else rows[place].split for place in places]
    for sample, split in zip(samples, splits, strict=True):
        if split not in SPLITS:
            raise InputError(f"{path}: no split for {sample.path}; use a split.csv made from the same images")
    return np.array([SPLITS.index(str(split)) for split in splits])


def find_rows(files: list[Path], samples: list[Sample]) -> list[int | None]:
    """For each sample the index of its file; None for one that is not there.

    A split.csv of an earlier version names the target of a link in the link's place.
    """
    known = {same_file(path): index for index, path in enumerate(files)}
    return [known.get(same_file(sample.path), known.get(sample.path.resolve())) for sample in samples]

"""Which images are evaluated: a manifest (CSV) or a folder with one sub-folder per class."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError
from harness.images import SUFFIXES


@dataclass(frozen=True)
class Sample:
    """One image: its name in results, its file, its true class (an index) and its patient."""

    name: str
    path: Path
    label: int
    group: str


def read_dataset(
    data: Path, classes: Sequence[str], root: Path | None = None, split: str | None = None
) -> list[Sample]:
    """The images of a manifest or folder, in its order.

    A manifest has the columns `file` (relative to `root`, by default the manifest's folder), `class`, and, wanted
    for intervals, `group` (the patient; without it every image counts as a patient of its own). With `split`, only
    rows whose column `split` has that value.

    :raises InputError: nothing there, a column or class that is missing, no image left.
    """
    if data.is_dir():
        samples = _from_folder(data, classes)
    else:
        samples = _from_manifest(data, classes, root or data.parent, split)
    twice = [name for name, count in Counter(sample.name for sample in samples).items() if count > 1]
    if twice:
        raise InputError(f"{data}: {twice[0]!r} is listed more than once; keep one row per image")
    if not samples:
        raise InputError(f"{data}: no image to evaluate{f' in split {split!r}' if split else ''}")
    return samples


def data_digest(samples: Iterable[Sample]) -> str:
    """sha256 over names, classes, patients and file contents, in order of names."""
    digest = hashlib.sha256()
    for sample in sorted(samples, key=lambda sample: sample.name):
        digest.update(f"{sample.name}\0{sample.label}\0{sample.group}\0".encode())
        if sample.path.is_file():
            digest.update(hashlib.sha256(sample.path.read_bytes()).digest())
    return digest.hexdigest()


def _from_folder(folder: Path, classes: Sequence[str]) -> list[Sample]:
    samples = []
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        label = _label(inner.name, classes, str(folder))
        for path in sorted(inner.iterdir()):
            if path.suffix.lower() in SUFFIXES:
                name = f"{inner.name}/{path.name}"
                samples.append(Sample(name, path, label, group=name))
    if not samples:
        wanted = ", ".join(classes)
        raise InputError(
            f"{folder}: no images in class folders; expected sub-folders named {wanted}, or give a manifest"
        )
    return samples


def _from_manifest(manifest: Path, classes: Sequence[str], root: Path, split: str | None) -> list[Sample]:
    rows = _rows(manifest, ["file", "class"] + (["split"] if split else []))
    samples = []
    for line, row in rows:
        if split is None or row["split"] == split:
            label = _label(row["class"], classes, f"{manifest}, line {line}")
            samples.append(Sample(row["file"], root / row["file"], label, row.get("group") or row["file"]))
    return samples


def _rows(manifest: Path, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in needed if name not in (reader.fieldnames or [])]
            if missing:
                found = ", ".join(reader.fieldnames or []) or "none"
                raise InputError(f"{manifest}: no column {missing[0]!r}; it has: {found}")
            return [(reader.line_num, row) for row in reader]
    except FileNotFoundError:
        raise InputError(f"{manifest}: no such manifest or folder") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{manifest}: not a CSV file in UTF-8 ({error}); save it as such") from error


def _label(name: str, classes: Sequence[str], where: str) -> int:
    if name not in classes:
        raise InputError(f"{where}: the models have no class {name!r}; they have: {', '.join(classes)}")
    return list(classes).index(name)

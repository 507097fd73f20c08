"""Which images are evaluated: a manifest (CSV), or a folder with one sub-folder per class (or with images only)."""

from __future__ import annotations

import csv
import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePath

import numpy as np

from harness.common.errors import InputError
from harness.common.storage import LASTING, Place, patiently
from harness.images.loading import SUFFIXES

COLUMNS = ("file", "class", "group", "split")  # that mean something
SEPARATOR = "|"  # between the classes of an image that has several
UNLABELLED = -1
_HASHING_THREADS = 4


@dataclass(frozen=True)
class Sample:
    """One image: its name in results, its file, its patient, and its true classes (indices; None: not labelled)."""

    name: str
    path: Place
    labels: tuple[int, ...] | None
    group: str


@dataclass(frozen=True)
class Records:
    """What is explained: one record per image and true class; an image without labels has one, UNLABELLED.

    images (R,): index of the image; classes (R,): index of the class, UNLABELLED where a model has to choose it.
    A multi-label image without any positive class has no record: nothing is to be explained.
    """

    images: np.ndarray
    classes: np.ndarray

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Records:
        """The records of all images, in their order."""
        pairs = [
            (index, label)
            for index, sample in enumerate(samples)
            for label in ((UNLABELLED,) if sample.labels is None else sample.labels)
        ]
        images, classes = np.array(pairs, np.int64).reshape(-1, 2).T
        return cls(images, classes)

    def within(self, start: int, stop: int) -> slice:
        """The records of the images start..stop-1."""
        return slice(*np.searchsorted(self.images, [start, stop]))

    def __len__(self) -> int:
        return len(self.images)


def read_dataset(
    data: Place,
    classes: Sequence[str],
    root: Place | None = None,
    split: str | None = None,
    multilabel: bool = False,
) -> list[Sample]:
    """The images of a manifest or folder, in its order.

    A manifest has the columns `file` (relative to `root`, by default the manifest's folder) and, wanted for the
    default selection, `class` (with `multilabel` any number of classes, separated by `|`) and, wanted for intervals,
    `group` (the patient; without it every image counts as a patient of its own). With `split`, only rows whose
    column `split` has that value.

    :raises InputError: nothing there, a column or class that is missing, no image left.
    """
    if data.is_dir():
        if split is not None or root is not None:
            raise InputError(f"{data}: is a folder, and split and root belong to a manifest; leave them out")
        samples = _from_folder(data, classes)
    else:
        samples = _from_manifest(data, classes, root or data.parent, split, multilabel)
    twice = [name for name, count in Counter(str(PurePath(sample.name)) for sample in samples).items() if count > 1]
    if twice:
        raise InputError(f"{data}: {twice[0]!r} is listed more than once; keep one row per image")
    if not samples:
        raise InputError(f"{data}: no image to evaluate{'' if split is None else f' in split {split!r}'}")
    return samples


def data_digest(samples: Sequence[Sample], contents: Iterable[bytes] | None = None) -> str:
    """sha256 over names, classes, patients and file contents, in order of names.

    :param contents: `content_digests` of the samples, where they have been computed already.
    """
    found = zip(samples, content_digests(samples) if contents is None else contents, strict=True)
    digest = hashlib.sha256()
    for sample, content in sorted(found, key=lambda pair: pair[0].name):
        digest.update(f"{sample.name}\0{sample.labels}\0{sample.group}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def content_digests(samples: Sequence[Sample]) -> list[bytes]:
    """sha256 of each file; empty where it is missing or forbidden: the image will be reported as unreadable.

    :raises CannotEvaluateError: the storage fails.
    """
    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        return list(pool.map(_content_digest, samples))


def _content_digest(sample: Sample) -> bytes:
    def digest() -> bytes:
        with sample.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()

    try:
        return patiently(sample.path, digest)
    except LASTING:
        return b""


def _from_folder(folder: Place, classes: Sequence[str]) -> list[Sample]:
    top: list[Place] = sorted(folder.iterdir())
    folders = [path for path in top if path.suffix.lower() not in SUFFIXES and path.is_dir()]
    inside: dict[Place, list[Place]] = {path: sorted(path.iterdir()) for path in folders}
    samples = [
        Sample(
            f"{inner.name}/{path.name}", path, (_label(inner.name, classes, str(folder)),), f"{inner.name}/{path.name}"
        )
        for inner, entries in inside.items()
        for path in _images(entries)
    ]
    samples = samples or [Sample(path.name, path, None, path.name) for path in _images(top)]
    if not samples:
        wanted = ", ".join(classes)
        raise InputError(
            f"{folder}: no images; expected sub-folders named {wanted}, images without labels, or a manifest"
        )
    _warn_of_others(folder, {*top, *chain(*inside.values())} - inside.keys() - {sample.path for sample in samples})
    return samples


def _warn_of_others(folder: Place, left: set[Place]) -> None:
    """Say what lies in a folder and is not evaluated; hidden files go without saying."""
    others = sorted(path for path in left if path.name[:1] != ".")
    if others:
        print(
            f"warning: {folder}: {len(others)} entries are not evaluated, {others[0]} for example: neither an image by "
            f"its suffix ({', '.join(SUFFIXES)}) nor where images are looked for; a manifest can name any file",
            file=sys.stderr,
        )


def _images(entries: Iterable[Place]) -> list[Place]:
    return [path for path in entries if path.suffix.lower() in SUFFIXES]


def _from_manifest(
    manifest: Place, classes: Sequence[str], root: Place, split: str | None, multilabel: bool
) -> list[Sample]:
    return [
        Sample(
            row["file"],
            root / row["file"],
            _labels(row.get("class"), classes, multilabel, f"{manifest}, line {line}"),
            row.get("group") or row["file"],
        )
        for line, row in _rows(manifest, ["file"] if split is None else ["file", "split"])
        if split is None or row["split"] == split
    ]


def _rows(manifest: Place, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            _require_plain(reader.fieldnames or [], manifest)
            missing = [name for name in needed if name not in (reader.fieldnames or [])]
            if missing:
                found = ", ".join(reader.fieldnames or []) or "none"
                raise InputError(f"{manifest}: no column {missing[0]!r}; it has: {found}")
            return [(reader.line_num, _complete(row, manifest, reader.line_num)) for row in reader]
    except FileNotFoundError:
        raise InputError(f"{manifest}: no such manifest or folder") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{manifest}: not a CSV file in UTF-8 ({error}); save it as such") from error


def _require_plain(header: Sequence[str], manifest: Place) -> None:
    """Refuse a header of which a column would be lost without a word."""
    twice = [name for name, count in Counter(header).items() if count > 1]
    spaced = [name for name in header if name not in COLUMNS and name.strip() in COLUMNS]
    if twice:
        raise InputError(f"{manifest}: has the column {twice[0]!r} more than once; keep one")
    if spaced:
        raise InputError(f"{manifest}: has a column {spaced[0]!r}; write {spaced[0].strip()!r}, without spaces")


def _complete(row: dict[str, str], manifest: Place, line: int) -> dict[str, str]:
    """The row, or a refusal where it has fewer or more cells than the header."""
    missing = [name for name, value in row.items() if value is None]
    if missing:
        raise InputError(f"{manifest}, line {line}: the row ends before column {missing[0]!r}; fill it in")
    if None in row:
        raise InputError(f"{manifest}, line {line}: more cells than columns; put quotes around names with commas")
    if "\0" in row["file"]:
        raise InputError(f"{manifest}, line {line}: the file name holds a NUL character; save it as plain text")
    return row


def _labels(text: str | None, classes: Sequence[str], multilabel: bool, where: str) -> tuple[int, ...] | None:
    if text is None:
        return None
    if not multilabel:
        return (_label(text, classes, where),)
    names = [name.strip() for name in text.split(SEPARATOR) if name.strip()]
    return tuple(sorted({_label(name, classes, where) for name in names}))


def _label(name: str, classes: Sequence[str], where: str) -> int:
    if name not in classes:
        raise InputError(f"{where}: the models have no class {name!r}; they have: {', '.join(classes)}")
    return list(classes).index(name)

"""Manifests and class folders: which images there are, what they show and whose they are."""

from __future__ import annotations

import csv
import hashlib
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np

from harness.common.errors import InputError
from harness.images.loading import SUFFIXES

COLUMNS = ("file", "class", "group")


@dataclass(frozen=True)
class Sample:
    """One image: `file` as the manifest names it, its classes (one, or several with multi-label), its patient."""

    file: str
    path: Path
    labels: tuple[str, ...]
    group: str
    extras: dict[str, str] = field(default_factory=dict)


def read_manifest(path: Path, *, multi: bool = False) -> list[Sample]:
    """Rows of a CSV file with the columns file, class and group; files are relative to the CSV file.

    With `multi` the column class holds several names with `|` between them, or none.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            samples = [_sample(path, row, multi) for row in _rows(path, stream)]
    except FileNotFoundError:
        raise InputError(f"{path}: no such manifest") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a CSV text in UTF-8 ({error}); save it as such") from error
    return _non_empty(samples, path)


def read_folders(folder: Path, pattern: str | None) -> list[Sample]:
    """One class per subfolder, hidden files and folders apart. Without `pattern` every image is its own patient."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    files = sorted(path.relative_to(folder) for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES)
    files = [path for path in files if not _hidden(path)]
    if not files:
        raise InputError(f"{folder}: no images found; expected a folder per class with images ({', '.join(SUFFIXES)})")
    others = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()} - set(files)
    others = {path for path in others if not _hidden(path)}
    if others:
        warn(
            f"{folder}: {len(others)} files are not used, {min(others)} for example: expected CLASS/IMAGE{SUFFIXES[0]}"
        )
    return [Sample(str(path), folder / path, (path.parts[0],), _group(folder / path, pattern)) for path in files]


def warn(sentence: str) -> None:
    """Tell the user what is done all the same."""
    print(f"warning: {sentence}", file=sys.stderr)


def class_names(samples: Iterable[Sample], wanted: list[str] | None) -> tuple[str, ...]:
    """The order of the outputs: `wanted`, or the sorted names found. Refuses labels that `wanted` lacks."""
    found = sorted({label for sample in samples for label in sample.labels})
    if len(found) < 2:
        raise InputError(f"a classifier needs at least two classes; the data has {', '.join(found) or 'none'}")
    surplus = sorted(set(found) - set(wanted or found))
    if surplus:
        raise InputError(f"data.classes lacks {', '.join(surplus)}, which the data has; add or filter them")
    return tuple(wanted or found)


def at_most(samples: list[Sample], per_class: int | None, seed: int) -> list[Sample]:
    """A seeded subset with at most `per_class` images whose first label is the same, in the given order."""
    if per_class is None:
        return samples
    seen: dict[str, int] = {}
    kept = set()
    for index in np.random.default_rng([seed, 1]).permutation(len(samples)):
        label = samples[index].labels[0] if samples[index].labels else ""
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= per_class:
            kept.add(index)
    return [sample for index, sample in enumerate(samples) if index in kept]


def one_hot(samples: list[Sample], classes: tuple[str, ...]) -> np.ndarray:
    """Targets, float32 (N, K): 1 where the sample carries the class."""
    return np.array([[float(name in sample.labels) for name in classes] for sample in samples], np.float32)


def content_digests(samples: list[Sample]) -> list[str]:
    """sha256 of each file, hexadecimal. Refuses files that are missing, or not what the manifest states."""
    missing = [sample for sample in samples if not sample.path.is_file()]
    if missing:
        raise InputError(
            f"{missing[0].path}: no such file, or not a plain one ({len(missing)} of {len(samples)} images); "
            "the manifest names it"
        )
    return [_content_digest(sample) for sample in samples]


def data_digest(samples: list[Sample], contents: list[str]) -> str:
    """sha256 over file, classes, group and content digest of every image, sorted by file: order plays no part."""
    total = hashlib.sha256()
    for sample, content in sorted(zip(samples, contents, strict=True), key=lambda pair: pair[0].file):
        line = (sample.file, "|".join(sample.labels), sample.group, content)
        total.update("\t".join(line).encode() + b"\n")
    return total.hexdigest()


def same_file(path: Path) -> Path:
    """One spelling for all that lead to a file: links among its folders are followed, the file's own is not.

    The last link is part of an image's name: stores of data sets lay two images of the same content behind one file.
    """
    return path.parent.resolve() / path.name


def _content_digest(sample: Sample) -> str:
    with sample.path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    stated = sample.extras.get("sha256", "")
    if stated and stated != found:
        raise InputError(f"{sample.path}: its sha256 is not the manifest's; copy the file again or mend the manifest")
    return found


def _rows(path: Path, stream: TextIO) -> Iterator[dict[str, str]]:
    """The rows of a manifest; refuses one that has fewer or more cells than the header."""
    reader = csv.DictReader(stream, strict=True)
    line = 0
    try:
        _require_columns(path, reader.fieldnames or [])
        line = reader.line_num
        for row in reader:
            line = reader.line_num
            if None in row or None in row.values():
                raise InputError(
                    f"{path}, line {line}: {'more' if None in row else 'fewer'} cells than columns; "
                    "put quotes around cells with commas, and fill in the others"
                )
            yield row
    except csv.Error as error:
        what = "a quote is opened and not closed" if "unexpected end" in str(error) else f"not CSV ({error})"
        raise InputError(f"{path}, line {line + 1}: {what}; mend the row") from error


def _require_columns(path: Path, names: Sequence[str]) -> None:
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        raise InputError(
            f"{path}: the manifest lacks the column {', '.join(missing)}; it needs file, class and group (the patient) "
            f"with commas between, and has: {' '.join(map(repr, names)) or 'none'}"
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{path}: has the column {twice[0]!r} more than once; keep one")


def _sample(manifest: Path, row: dict[str, str], multi: bool) -> Sample:
    if not row["file"] or not row["group"] or not (row["class"] or multi):
        raise InputError(f"{manifest}: a row lacks file, class or group: {row['file'] or row}")
    labels = tuple(name for name in row["class"].split("|") if name) if multi else (row["class"],)
    extras = {key: value for key, value in row.items() if key not in COLUMNS}
    return Sample(row["file"], manifest.parent / row["file"], labels, row["group"], extras)


def _hidden(path: Path) -> bool:
    """Whether it lies in what file managers and notebooks put beside images (`._1.png`, `.ipynb_checkpoints`)."""
    return any(part.startswith(".") for part in path.parts)


def _group(path: Path, pattern: str | None) -> str:
    if pattern is None:
        return f"{path.parent.name}/{path.name}"
    found = re.search(pattern, path.name)
    if not found:
        raise InputError(f"{path}: data.group_pattern {pattern!r} does not match the file name")
    if not found.group(found.lastindex or 0):
        raise InputError(f"{path}: data.group_pattern {pattern!r} finds an empty patient in the file name")
    return found.group(found.lastindex or 0)


def _non_empty(samples: list[Sample], where: Path) -> list[Sample]:
    if not samples:
        raise InputError(f"{where}: no images found")
    files = [sample.file for sample in samples]
    if len(set(files)) < len(files):
        twice = next(file for file in files if files.count(file) > 1)
        raise InputError(f"{where}: {twice} is listed twice")
    return samples

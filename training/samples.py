"""Manifests and class folders: which images there are, what they show and whose they are."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness.common.errors import InputError, warn
from harness.images import manifest as manifests
from harness.images.columns import CLASS, FILE, GROUP, normalised
from harness.images.dataset import images_by_folder, warn_of_others
from harness.images.labels import Labelling
from harness.images.loading import SUFFIXES

USED = (FILE, CLASS, GROUP)


@dataclass(frozen=True)
class Sample:
    """One image: `file` as the manifest names it, its classes (one, or several with multi-label), its patient."""

    file: str
    path: Path
    labels: tuple[str, ...]
    group: str
    extras: dict[str, str] = field(default_factory=dict)


def read_manifest(path: Path, *, multi: bool = False, columns: Mapping[str, str] | None = None) -> list[Sample]:
    """The rows of a manifest (`harness.images.manifest`) with the columns file, class and group.

    Files are relative to the manifest. With `multi` the column class holds several names with `|` between them, or
    none. All other columns, `split` among them, are the extras of a sample.

    :param columns: what the manifest calls its columns, where otherwise.
    :raises InputError: what the reader refuses, a row without class or patient, no row at all.
    """
    labelling = Labelling(None, multilabel=multi)
    found = manifests.read_manifest(path, labelling, needed=USED, wanted=USED, columns=columns, warn=warn)
    if not found.rows:
        raise InputError(f"{path}: no images found")
    return [
        Sample(row.name, Path(str(row.path)), row.labels or (), row.group, found.extras_of(row)) for row in found.rows
    ]


def read_folders(folder: Path, pattern: str | None) -> list[Sample]:
    """One class per subfolder, hidden files and folders apart. Without `pattern` every image is its own patient."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    found, left = images_by_folder(folder)
    files = [Path(str(path)) for images in found.values() for path in images]
    if not files:
        raise InputError(f"{folder}: no images found; expected a folder per class with images ({', '.join(SUFFIXES)})")
    warn_of_others(folder, left, warn)
    return [
        Sample(f"{path.parent.name}/{path.name}", path, (normalised(path.parent.name),), _group(path, pattern))
        for path in files
    ]


def class_names(samples: Iterable[Sample], wanted: list[str] | None) -> tuple[str, ...]:
    """The order of the outputs: `wanted`, or the sorted names found. Refuses labels that `wanted` lacks."""
    wanted = wanted and [normalised(name) for name in wanted]
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


def _group(path: Path, pattern: str | None) -> str:
    if pattern is None:
        return f"{path.parent.name}/{path.name}"
    found = re.search(pattern, path.name)
    if not found:
        raise InputError(f"{path}: data.group_pattern {pattern!r} does not match the file name")
    if not found.group(found.lastindex or 0):
        raise InputError(f"{path}: data.group_pattern {pattern!r} finds an empty patient in the file name")
    return found.group(found.lastindex or 0)

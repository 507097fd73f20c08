"""Which images are evaluated: a manifest (CSV), or a folder with one sub-folder per class (or with images only)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from harness.common.errors import InputError
from harness.common.storage import LASTING, Location, require_plain_file, with_retries
from harness.images.columns import Warn, normalised
from harness.images.dicom_headers import HeaderColumns, Pseudonyms, read_header
from harness.images.folders import FolderImage, folder_images, is_dicomdir, is_visible
from harness.images.label_table import read_labels
from harness.images.labels import Labelling, warn_in_python
from harness.images.loading import MOST_BYTES, PICTURE_SUFFIXES, SUFFIXES, is_dicom_file
from harness.images.manifest import Row, read_manifest

UNLABELLED = -1
_HASHING_THREADS = 4


@dataclass(frozen=True)
class Sample:
    """One image: its name in results, its file, its patient, and its true classes (indices; None: not labelled).

    header: of a DICOM file of a folder, its study, side and view
    """

    name: str
    path: Location
    labels: tuple[int, ...] | None
    group: str
    header: HeaderColumns | None = None


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

    def described(self, samples: Sequence[Sample], rows: np.ndarray) -> tuple[list[str], np.ndarray, list[str]]:
        """Name, class and patient of some records."""
        images = [samples[image] for image in self.images[rows]]
        return [image.name for image in images], self.classes[rows], [image.group for image in images]

    def __len__(self) -> int:
        return len(self.images)


def read_dataset(
    data: Location,
    classes: Sequence[str],
    root: Location | None = None,
    split: str | None = None,
    multilabel: bool = False,
    columns: Mapping[str, str] | None = None,
    warn: Warn = warn_in_python,
    labels: Location | None = None,
) -> list[Sample]:
    """The images of a manifest, a folder or a DICOMDIR, in its order.

    A manifest has the columns `file` (relative to `root`, by default the manifest's folder) and, wanted for the
    default selection, `class` (with `multilabel` any number of classes, separated by `|`) and, wanted for intervals,
    `group` (the patient; without it every image counts as a patient of its own). With `split`, only rows whose
    column `split` has that value. `harness.images.manifest` says what else is read.

    A folder is read as `harness.images.folders` says. Patients, studies, sides and views come from the headers of
    its DICOM files; every other image counts as a patient of its own.

    :param columns: what the manifest, or the table of labels, calls these columns, where otherwise.
    :param warn: is given each sentence about what is unusual.
    :param labels: a table that names the classes of a folder's images (`harness.images.label_table`).
    :raises InputError: nothing there, a column or class that is missing, no image left.
    """
    labelling = Labelling(classes, multilabel)
    if data.is_dir() or is_dicomdir(data):
        if split is not None or root is not None or (columns and labels is None):
            raise InputError(f"{data}: is a folder, and split, root and columns belong to a manifest; leave them out")
        samples = _from_folder(data, labelling, labels, columns or {}, warn)
    else:
        _require_manifest(data, labels)
        manifest = read_manifest(data, labelling, root=root, split=split, columns=columns, warn=warn)
        numbers = {normalised(name): number for number, name in enumerate(classes)}
        samples = [_sample(row, numbers) for row in manifest.rows]
    if not samples:
        raise InputError(f"{data}: no image to evaluate{'' if split is None else f' in split {split!r}'}")
    return samples


def _sample(row: Row, numbers: Mapping[str, int]) -> Sample:
    labels = None if row.labels is None else tuple(sorted(numbers[name] for name in row.labels))
    return Sample(row.name, row.path, labels, row.group or row.name)


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
    """sha256 of each file; empty where it cannot be opened or is no plain file: it will be reported as unreadable.

    :raises CannotEvaluateError: the storage fails.
    """
    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        return list(pool.map(_content_digest, samples))


def _content_digest(sample: Sample) -> bytes:
    def digest() -> bytes:
        require_plain_file(sample.path, MOST_BYTES)
        with sample.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()

    try:
        return with_retries(sample.path, digest)
    except (*LASTING, InputError):
        return b""


def _require_manifest(data: Location, labels: Location | None) -> None:
    """Refuse a picture in place of a manifest, and labels beside one."""
    if labels is not None:
        raise InputError(f"{labels}: labels belong to a folder, and {data} is none; a manifest has a column `class`")
    if is_dicom_file(data):
        raise InputError(f"{data}: is a DICOM file, not a manifest; give its folder, or a DICOMDIR")


def _from_folder(
    data: Location, labelling: Labelling, table: Location | None, columns: Mapping[str, str], warn: Warn
) -> list[Sample]:
    classes = labelling.classes or ()
    folder, listed = (data, None) if data.is_dir() else (data.parent, data)
    images, by_class = folder_images(folder, classes, warn, warn_of_others, listed, table is not None)
    if not images:
        raise InputError(
            f"{data}: no images; expected sub-folders named {', '.join(classes)}, images without labels, DICOM files, "
            "or a manifest"
        )
    numbers = {normalised(name): number for number, name in enumerate(classes)}
    labelled: list[tuple[FolderImage, tuple[int, ...] | None]] = [
        (image, (_label(image.parts[0], classes, folder),) if by_class else None) for image in images
    ]
    if table is not None:
        found = read_labels(table, labelling, columns, warn).of(images, warn)
        labelled = [(image, tuple(sorted(numbers[name] for name in named))) for image, named in found]
    return _samples_of(labelled)


def _samples_of(labelled: Sequence[tuple[FolderImage, tuple[int, ...] | None]]) -> list[Sample]:
    """The images as samples, with hashes of the patients and studies of these images."""
    hashes = Pseudonyms.of(image.header for image, _ in labelled if image.header is not None)
    return [
        Sample(image.name, image.path, labels, image.name)
        if image.header is None
        else Sample(
            image.name, image.path, labels, hashes.group(image.header) or image.name, hashes.columns(image.header)
        )
        for image, labels in labelled
    ]


def images_by_folder(folder: Location) -> tuple[dict[Location, list[Location]], set[Location]]:
    """The images in each sub-folder, both sorted by name, and everything else that lies there or beside them.

    The reader of class folders for `training`; hidden folders are not looked into.
    """
    top: list[Location] = sorted(folder.iterdir())
    folders = [path for path in visible(top) if path.suffix.lower() not in SUFFIXES and path.is_dir()]
    inside: dict[Location, list[Location]] = {path: sorted(path.iterdir()) for path in folders}
    images = {path: image_files(entries) for path, entries in inside.items()}
    return images, {*top, *chain(*inside.values())} - inside.keys() - {*chain(*images.values())}


def visible(entries: Iterable[Location]) -> list[Location]:
    """What is not hidden: a name that begins with a dot (`._a.png`, `.ipynb_checkpoints`) or is `__MACOSX`."""
    return [path for path in entries if is_visible(path.name)]


def image_files(entries: Iterable[Location]) -> list[Location]:
    """The images among the entries of a folder: what is not hidden and has the suffix of an image."""
    return [path for path in visible(entries) if path.suffix.lower() in SUFFIXES]


def images_below(folder: Path) -> list[Path]:
    """The images in a folder and its sub-folders, by suffix or as DICOM files by content, sorted; hidden ones apart."""
    shown = (path for path in folder.rglob("*") if all(map(is_visible, path.relative_to(folder).parts)))
    return sorted(path for path in shown if _is_image_file(path))


def _is_image_file(path: Path) -> bool:
    """By its suffix, or by its header a DICOM image: no DICOMDIR, no report, no map."""
    header = None if path.suffix.lower() in PICTURE_SUFFIXES else read_header(path)
    return path.suffix.lower() in SUFFIXES if header is None else not header.is_no_image


def warn_of_others(folder: Location, left: set[Location], warn: Warn) -> None:
    """Say what lies in a folder and is not used; hidden files that do not look like images go without saying."""
    others = sorted(visible(left))
    if others:
        warn(
            f"{folder}: {len(others)} entries are not used, {others[0]} for example: neither an image by its "
            f"suffix ({', '.join(SUFFIXES)}) nor where images are looked for; a manifest can name any file"
        )
    hidden = sorted(path for path in left - set(others) if path.suffix.lower() in SUFFIXES)
    if hidden:
        warn(f"{folder}: {len(hidden)} hidden files are left out, {hidden[0]} for example")


def _label(name: str, classes: Sequence[str], folder: Location) -> int:
    """Index of the class that a folder is named after."""
    numbers = {normalised(name): number for number, name in enumerate(classes)}
    if normalised(name) not in numbers:
        raise InputError(f"{folder}: the models have no class {name!r}; they have: {', '.join(classes)}")
    return numbers[normalised(name)]

"""A table that names the classes of the images of a folder (`--labels`), by file or by what stands in DICOM headers.

The classes are read as those of a manifest (`harness.images.labels`). The key of a row is the first of KEYS that the
table has a column for, or the column that `--columns file=NAME` names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.common.errors import InputError
from harness.common.storage import Location
from harness.images.columns import CLASS, FILE, Warn, locate, normalised
from harness.images.folders import FolderImage
from harness.images.labels import Labelling, Named, Reading, labels_of
from harness.images.tables import read_table

# Column -> what it is compared with, the narrowest first. `sop_instance_uid` and `SOP Instance UID` are read as well.
KEYS: Mapping[str, Callable[[FolderImage], str]] = {
    "SOPInstanceUID": lambda image: image.header.instance if image.header else "",
    "file": lambda image: image.name,
    "SeriesInstanceUID": lambda image: image.header.series if image.header else "",
    "StudyInstanceUID": lambda image: image.header.study if image.header else "",
    "AccessionNumber": lambda image: image.header.accession if image.header else "",
    "PatientID": lambda image: image.header.patient.partition("\\")[0] if image.header else "",
}


@dataclass(frozen=True)
class LabelTable:
    """Key of a row -> the classes that it names."""

    path: Location
    key: str
    labels: Mapping[str, Named]

    def of(self, images: Sequence[FolderImage], warn: Warn) -> list[tuple[FolderImage, Named]]:
        """The images that the table names, with their classes; warns of rows and images without a counterpart.

        :raises InputError: it names none of them, or images of several patients by one key.
        """
        self._require_one_patient(images)
        found = [(image, self.labels[key]) for image, key in self._keyed(images) if key in self.labels]
        if images and not found:
            raise InputError(
                f"{self.path}: names none of the {len(images)} images by its column {self.key}; compare a value of it "
                "with what the files say (a path below the folder, or the header)"
            )
        if len(found) < len(images):
            warn(f"{self.path}: does not name {len(images) - len(found)} of {len(images)} images; they are left out")
        unknown = self.labels.keys() - {key for _, key in self._keyed(images)}
        if unknown:
            warn(f"{self.path}: {len(unknown)} of its {len(self.labels)} rows name nothing that is there by {self.key}")
        return found

    def _require_one_patient(self, images: Sequence[FolderImage]) -> None:
        """Two hospitals number patients and requests alike: such a number does not tell whose class it is."""
        patients: dict[str, set[str]] = {}
        for image, key in self._keyed(images):
            if image.header is not None and key in self.labels:
                patients.setdefault(key, set()).add(image.header.patient)
        several = sum(len(found) > 1 for found in patients.values())
        if several:
            raise InputError(
                f"{self.path}: {several} of its rows name images of several patients by one {self.key}, which two "
                "hospitals may have given; name the images by SOPInstanceUID or StudyInstanceUID"
            )

    def _keyed(self, images: Iterable[FolderImage]) -> list[tuple[FolderImage, str]]:
        return [(image, normalised(KEYS[self.key](image))) for image in images]


def read_labels(path: Location, labelling: Labelling, columns: Mapping[str, str], warn: Warn) -> LabelTable:
    """The label table in a file (CSV or Parquet).

    :param columns: role (`file`, `class`) -> what the table calls its column, where otherwise.
    :raises InputError: no table, no column of a key, a row without class, or two rows that name one key differently.
    """
    table = read_table(path)
    classes = None if labelling.classes is None else [normalised(name) for name in labelling.classes]
    located = locate(path, table.header, [CLASS], [CLASS, FILE], columns, classes)
    reading = Reading(path, table, located, warn)
    key, index = _key(path, table.header, FILE in columns)
    read = (lambda cells: located.read(FILE, cells)) if key == FILE else (lambda cells: cells[index])
    known = Labelling(classes, labelling.multilabel)
    labels: dict[str, Named] = {}
    for (number, cells), named in zip(table.rows, labels_of(reading, table.rows, known), strict=True):
        value = normalised(read(cells))
        if not value:
            raise InputError(f"{reading.where(number)}: its {key} is empty; fill it in, or remove the row")
        if labels.setdefault(value, named or ()) != (named or ()):
            raise InputError(f"{reading.where(number)}: names other classes for a {key} of an earlier row; keep one")
    return LabelTable(path, key, labels)


def _key(path: Location, header: Sequence[str], is_named: bool) -> tuple[str, int]:
    """The key of the rows and the index of its column."""
    plain = [re.sub(r"[\W_]", "", normalised(name)).lower() for name in header]
    for key in [FILE] if is_named else KEYS:
        if is_named or key.lower() in plain:
            return key, -1 if is_named else plain.index(key.lower())
    raise InputError(f"{path}: no column tells which image a row is about; it needs one of {', '.join(KEYS)}")

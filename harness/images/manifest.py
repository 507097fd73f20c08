"""The one reader of manifests, for `evaluate`, `pack`, `compress` and `training`: rows of files, classes and patients.

What a row says is taken as a person reading the table would take it, or refused with its line:

- cells are compared without blanks at their ends and without invisible characters;
- a patient that is empty or one of MISSING (`nan`, `NA`, ...) is no patient, and a warning counts these rows;
- classes stand by name, by index (0, 1, ... in the order of the known classes, with a warning), or in one column per
  class: 1 yes, 0 or nothing no. -1, CheXpert's "uncertain", counts as no, and a warning counts these cells;
- the same file under two spellings (`a.png`, `./a.png`, `x/../a.png`) is listed twice. `A.png` is another file.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from harness.common.errors import InputError
from harness.common.storage import Location
from harness.images.columns import CLASS, FILE, GROUP, ROLES, SPLIT, Warn, locate, missing_column, normalised
from harness.images.labels import ANY_CLASS, MISSING, Labelling, Named, Reading, labels_of, warn_in_python
from harness.images.tables import read_table

_LINE_BREAK = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Row:
    """One image.

    where: file and line, for messages; name: its file as the manifest writes it; labels: names of its classes, None
    where the manifest tells none; group: its patient, "" where the manifest tells none; cells: the whole row
    """

    where: str
    name: str
    path: Location
    labels: Named | None
    group: str
    split: str
    cells: Sequence[str]


@dataclass(frozen=True)
class Manifest:
    """The rows of a manifest in their order, and its further columns: name -> index of the cell."""

    rows: list[Row]
    extras: Mapping[str, int]

    def extras_of(self, row: Row) -> dict[str, str]:
        """The cells that have no meaning here, by their header."""
        return {name: row.cells[index] for name, index in self.extras.items()}


def read_manifest(
    path: Location,
    labelling: Labelling = ANY_CLASS,
    *,
    root: Location | None = None,
    split: str | None = None,
    needed: Sequence[str] = (FILE,),
    wanted: Sequence[str] = ROLES,
    columns: Mapping[str, str] | None = None,
    warn: Warn = warn_in_python,
) -> Manifest:
    """The rows of a manifest, with `split` those of which the column `split` has that value.

    :param root: what files are relative to, by default the manifest's folder.
    :param needed: roles of which a column has to be there, and of `group` a patient in every row.
    :param wanted: roles that are read and warned of; others are further columns.
    :param columns: role -> header, where it is called otherwise (`harness.images.columns`).
    :param warn: is given each sentence about what is unusual.
    :raises InputError: the file cannot be read, a column or class is missing, a file is listed twice.
    """
    table = read_table(path)
    classes = None if labelling.classes is None else [normalised(name) for name in labelling.classes]
    required = [*needed, *([SPLIT] if split is not None else [])]
    located = locate(path, table.header, required, wanted, columns or {}, classes)
    reading = Reading(path, table, located, warn)
    _require_one_line_cells(reading)
    numbered = table.rows if split is None else _of_split(reading, split)
    known = Labelling(classes, labelling.multilabel)
    labels = labels_of(reading, numbered, known) if CLASS in wanted else [None] * len(numbered)
    rows = [
        _row(reading, number, cells, root or path.parent, found)
        for (number, cells), found in zip(numbered, labels, strict=True)
    ]
    require_distinct(path, ((row.name, row.path) for row in rows))
    if GROUP in wanted:
        _check_patients(reading, rows, required=GROUP in needed)
    extras = {name: index for index, name in enumerate(table.header) if name and index not in located.used}
    return Manifest(rows, extras)


def require_distinct(source: Location, files: Iterable[tuple[str, Location]]) -> None:
    """Refuse a list of (name, path) in which a file stands twice, however its path is spelled.

    Links to folders are followed. A link to a file is an image of its own: stores of data sets lay two images of the
    same content behind one file.
    """
    seen: dict[str, str] = {}
    folders: dict[Path, str] = {}
    for name, path in files:
        key = _identity(path, folders)
        if key in seen:
            also = "" if seen[key] == name else f" (as {name!r}, too)"
            first = str(PurePath(seen[key]))
            raise InputError(f"{source}: {first!r} is listed more than once{also}; keep one row per image")
        seen[key] = name


def _identity(path: Location, folders: dict[Path, str]) -> str:
    """What two spellings of a path have in common; `folders` holds those that were followed already."""
    if not isinstance(path, Path):
        return str(path)
    if path.name in ("", ".."):
        return os.path.realpath(path)
    if path.parent not in folders:
        folders[path.parent] = os.path.realpath(path.parent)
    return f"{folders[path.parent]}/{path.name}"


def _row(reading: Reading, number: int, cells: list[str], root: Location, labels: Named | None) -> Row:
    where, columns = reading.where(number), reading.columns
    name = columns.read(FILE, cells)
    if not name:
        raise InputError(f"{where}: names no file; fill it in, or remove the row")
    patient = normalised(columns.read(GROUP, cells))
    group = "" if patient.lower() in MISSING else patient
    return Row(where, name, root / name, labels, group, normalised(columns.read(SPLIT, cells)), cells)


def _require_one_line_cells(reading: Reading) -> None:
    """Refuse line breaks in cells that are read, and in other cells where rows seem to be swallowed by a quote."""
    rows, used = reading.table.rows, reading.columns.used
    several = [(number, cells) for number, cells in rows if any("\n" in cell or "\r" in cell for cell in cells)]
    for number, cells in several:
        for header, index, cell in zip(reading.table.header, range(len(cells)), cells, strict=True):
            lines = _LINE_BREAK.split(cell)
            if len(lines) > 1 and (index in used or _holds_rows(reading, lines[1:], cells)):
                raise InputError(
                    f"{reading.where(number)}: a cell of column {header!r} holds {len(lines)} lines; a quote is opened "
                    "there and closed in a later row, so remove it, or the line breaks"
                )
    if several:
        reading.tell(
            f"{len(several)} rows have line breaks in a cell, {reading.table.unit} {several[0][0]} for example; if "
            "images are missing, a quote is closed in the wrong row"
        )


def _holds_rows(reading: Reading, lines: Sequence[str], cells: Sequence[str]) -> bool:
    """Whether lines inside of a cell, cut at the separator, name a file with the suffix that this row's file has."""
    table, columns = reading.table, reading.columns
    suffix = PurePath(columns.read(FILE, cells)).suffix
    inner = ([cell.strip() for cell in line.split(table.separator)] for line in lines if table.separator)
    whole = (found for found in inner if len(found) == len(table.header))
    return bool(suffix) and any(PurePath(columns.read(FILE, found)).suffix == suffix for found in whole)


def _of_split(reading: Reading, split: str) -> list[tuple[int, list[str]]]:
    """The rows of a split; warns of rows whose split differs in case only."""
    wanted, rows = normalised(split), reading.table.rows
    found = [normalised(reading.columns.read(SPLIT, cells)) for _, cells in rows]
    others = Counter(name for name in found if name != wanted and name.lower() == wanted.lower())
    for name, count in others.items():
        reading.tell(f"{count} rows have the split {name!r}, which is not {split!r}: they are left out; spell it alike")
    return [row for row, name in zip(rows, found, strict=True) if name == wanted]


def _check_patients(reading: Reading, rows: Sequence[Row], required: bool) -> None:
    """Refuse a row without a patient where all are `required`, else warn of how many there are."""
    if GROUP not in reading.columns.sources:
        consequence = "every image counts as a patient of its own, and intervals may be too narrow"
        reading.tell(missing_column(reading.table.header, GROUP, consequence))
        return
    unknown = [row for row in rows if not row.group]
    if unknown and required:
        raise InputError(f"{unknown[0].where}: names no patient; fill the column group in, or remove the row")
    if unknown:
        written = sorted({normalised(reading.columns.read(GROUP, row.cells)) for row in unknown})
        reading.tell(
            f"{len(unknown)} of {len(rows)} rows name no patient ({', '.join(map(repr, written))}): each of these "
            "images counts as a patient of its own; fill the column group in"
        )

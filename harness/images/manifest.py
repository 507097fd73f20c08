"""The one reader of manifests, for `evaluate`, `pack`, `compress` and `training`: rows of files, classes and patients.

What a row says is taken as a person reading the table would take it, or refused with its line:

- cells are compared without blanks at their ends and without invisible characters;
- a patient that is empty or one of MISSING (`nan`, `NA`, ...) is no patient, and a warning counts these rows;
- classes stand by name, by index (0, 1, ... in the order of the known classes, with a warning), or in one column per
  class: 1 yes, 0 or nothing no. -1, CheXpert's "uncertain", counts as no, and a warning counts these cells;
- the same file under two spellings (`a.png`, `./a.png`, `x/../a.png`) is listed twice. `A.png` is another file.
"""

from __future__ import annotations

import functools
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from harness.common.errors import EvidenceDriftWarning, InputError
from harness.common.storage import Place
from harness.images.columns import (
    CLASS,
    FILE,
    GROUP,
    ROLES,
    SEPARATOR,
    SPLIT,
    Columns,
    Warn,
    locate,
    missing_column,
    normalised,
    suggestion,
)
from harness.images.tables import Table, read_table

MISSING = ("", "nan", "na", "n/a", "#n/a", "<na>", "null", "none", "nat")  # in lower case
_MARKS = {"1": True, "true": True, "0": False, "false": False, "-1": False} | dict.fromkeys(MISSING, False)
UNCERTAIN = "-1"
_LINE_BREAK = re.compile(r"\r\n|\r|\n")


class DataWarning(EvidenceDriftWarning):
    """Something about images or their manifest that makes numbers less sure, or other than they look."""


def warn_in_python(sentence: str) -> None:
    """The default of every `warn`: a `DataWarning`."""
    warnings.warn(sentence, DataWarning, stacklevel=3)


@dataclass(frozen=True)
class Row:
    """One image.

    where: file and line, for messages; name: its file as the manifest writes it; labels: names of its classes, None
    where the manifest tells none; group: its patient, "" where the manifest tells none; cells: the whole row
    """

    where: str
    name: str
    path: Place
    labels: tuple[str, ...] | None
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


@dataclass(frozen=True)
class Labelling:
    """How classes are written.

    classes: the known names in their order, None where any name is one; multilabel: an image has any number of them
    """

    classes: Sequence[str] | None = None
    multilabel: bool = False


def read_manifest(
    path: Place,
    labelling: Labelling = Labelling(),
    *,
    root: Place | None = None,
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
    labelling = Labelling(classes, labelling.multilabel)
    needed = [*needed, *([SPLIT] if split is not None else [])]
    located = locate(path, table.header, needed, wanted, columns or {}, classes)
    _require_one_line_cells(path, table, located, warn)
    numbered = _of_split(path, table, located, split, warn)
    unlabelled: list[tuple[str, ...] | None] = [None] * len(numbered)
    labels = _labels(path, table, numbered, located, labelling, warn) if CLASS in wanted else unlabelled
    root = root or path.parent
    rows = [
        _row(f"{path}, {table.unit} {number}", root, cells, located, found)
        for (number, cells), found in zip(numbered, labels, strict=True)
    ]
    require_distinct(path, ((row.name, row.path) for row in rows))
    if GROUP in needed:
        _require_patients(rows)
    elif GROUP in wanted:
        _warn_of_patients(path, table, located, rows, warn)
    extras = {name: index for index, name in enumerate(table.header) if name and index not in located.used}
    return Manifest(rows, extras)


def require_distinct(source: Place, files: Iterable[tuple[str, Place]]) -> None:
    """Refuse a list of (name, path) in which a file stands twice, however its path is spelled."""
    seen: dict[str, str] = {}
    for name, path in files:
        first = seen.setdefault(_identity(path), name)
        if first is not name:
            also = "" if first == name else f" (as {name!r}, too)"
            raise InputError(
                f"{source}: {str(PurePath(first))!r} is listed more than once{also}; keep one row per image"
            )


def _identity(path: Place) -> str:
    """What two spellings of a path have in common. Links to files are files of their own, links to folders are not."""
    if not isinstance(path, Path):
        return str(path)
    return f"{_folder(path.parent)}/{path.name}" if path.name not in ("", "..") else os.path.realpath(path)


@functools.lru_cache(maxsize=4096)
def _folder(path: Path) -> str:
    return os.path.realpath(path)


def _row(where: str, root: Place, cells: list[str], located: Columns, labels: tuple[str, ...] | None) -> Row:
    name = located.read(FILE, cells)
    if not name:
        raise InputError(f"{where}: names no file; fill it in, or remove the row")
    patient = normalised(located.read(GROUP, cells))
    group = "" if patient.lower() in MISSING else patient
    return Row(where, name, root / name, labels, group, normalised(located.read(SPLIT, cells)), cells)


def _require_one_line_cells(path: Place, table: Table, located: Columns, warn: Warn) -> None:
    """Refuse line breaks in cells that are read, and in other cells where rows seem to be swallowed by a quote."""
    several = [(number, cells) for number, cells in table.rows if any("\n" in cell or "\r" in cell for cell in cells)]
    for number, cells in several:
        for index, cell in enumerate(cells):
            lines = _LINE_BREAK.split(cell)
            if len(lines) > 1 and (index in located.used or _holds_rows(lines[1:], cells, table, located)):
                where = f"{path}, {table.unit} {number}: a cell of column {table.header[index]!r}"
                raise InputError(
                    f"{where} holds {len(lines)} lines; a quote is opened there and closed in a later row, so remove "
                    "it, or the line breaks"
                )
    if several:
        warn(
            f"{path}: {len(several)} rows have line breaks in a cell, {table.unit} {several[0][0]} for example; "
            "if images are missing, a quote is closed in the wrong row"
        )


def _holds_rows(lines: Sequence[str], cells: Sequence[str], table: Table, located: Columns) -> bool:
    """Whether lines inside of a cell, cut at the separator, name a file with the suffix that this row's file has."""
    suffix = PurePath(located.read(FILE, cells)).suffix
    inner = ([cell.strip() for cell in line.split(table.separator)] for line in lines if table.separator)
    whole = (found for found in inner if len(found) == len(table.header))
    return bool(suffix) and any(PurePath(located.read(FILE, found)).suffix == suffix for found in whole)


def _of_split(
    path: Place, table: Table, located: Columns, split: str | None, warn: Warn
) -> list[tuple[int, list[str]]]:
    """The rows of a split; warns of rows whose split differs in case only."""
    if split is None:
        return table.rows
    wanted = normalised(split)
    found = [normalised(located.read(SPLIT, cells)) for _, cells in table.rows]
    others = Counter(name for name in found if name != wanted and name.lower() == wanted.lower())
    for name, count in others.items():
        warn(f"{path}: {count} rows have the split {name!r}, which is not {split!r}: they are left out; spell it alike")
    return [row for row, name in zip(table.rows, found, strict=True) if name == wanted]


def _require_patients(rows: Sequence[Row]) -> None:
    unknown = next((row for row in rows if not row.group), None)
    if unknown is not None:
        raise InputError(f"{unknown.where}: names no patient; fill the column group in, or remove the row")


def _warn_of_patients(path: Place, table: Table, located: Columns, rows: Sequence[Row], warn: Warn) -> None:
    if GROUP not in located.sources:
        consequence = "every image counts as a patient of its own, and intervals may be too narrow"
        warn(f"{path}: {missing_column(table.header, GROUP, consequence)}")
        return
    unknown = Counter(normalised(located.read(GROUP, row.cells)) for row in rows if not row.group)
    if unknown:
        written = ", ".join(repr(name) for name in sorted(unknown))
        warn(
            f"{path}: {unknown.total()} of {len(rows)} rows name no patient ({written}): each of these images counts "
            "as a patient of its own; fill the column group in"
        )


# Classes


def _labels(
    path: Place,
    table: Table,
    rows: Sequence[tuple[int, list[str]]],
    located: Columns,
    labelling: Labelling,
    warn: Warn,
) -> list[tuple[str, ...] | None]:
    """The classes of each row, by name."""
    wheres = [f"{path}, {table.unit} {number}" for number, _ in rows]
    if CLASS in located.sources:
        texts = [located.read(CLASS, cells) for _, cells in rows]
        named = [_named(text, labelling.multilabel, where) for text, where in zip(texts, wheres, strict=True)]
        return [*_known(path, named, wheres, labelling.classes, warn)]
    if located.of_classes:
        marked = [_marked(cells, located, where) for (_, cells), where in zip(rows, wheres, strict=True)]
        _warn_of_uncertain(path, [cells for _, cells in rows], located, warn)
        return [*_known(path, _counted(marked, labelling.multilabel, wheres), wheres, labelling.classes, warn)]
    _warn_of_no_class(path, table, labelling.classes or (), warn)
    return [None] * len(rows)


def _named(text: str, multilabel: bool, where: str) -> tuple[str, ...]:
    parts = text.split(SEPARATOR) if multilabel else [text]
    names = tuple(dict.fromkeys(filter(None, map(normalised, parts))))
    if not multilabel and not names:
        raise InputError(f"{where}: names no class; fill it in, or remove the row")
    return names


def _marked(cells: Sequence[str], located: Columns, where: str) -> tuple[str, ...]:
    """The classes whose columns hold a 1."""
    found = []
    for name, index in located.of_classes.items():
        mark = cells[index].lower().replace(",", ".").removesuffix(".0")
        if mark not in _MARKS:
            raise InputError(
                f"{where}: column {name!r} holds {cells[index]!r}; expected 1, 0, -1 (uncertain) or nothing"
            )
        found += [name] if _MARKS[mark] else []
    return tuple(found)


def _counted(marked: Sequence[tuple[str, ...]], multilabel: bool, wheres: Sequence[str]) -> Sequence[tuple[str, ...]]:
    """The classes as they are; a model with one label needs exactly one."""
    for names, where in zip(marked, wheres, strict=True):
        if not multilabel and len(names) != 1:
            raise InputError(f"{where}: {len(names)} columns of classes hold 1; one label per image is expected")
    return marked


def _known(
    path: Place,
    named: Sequence[tuple[str, ...]],
    wheres: Sequence[str],
    classes: Sequence[str] | None,
    warn: Warn,
) -> Sequence[tuple[str, ...]]:
    """The names, all of them among `classes`; indices become names."""
    found = Counter(name for names in named for name in names)
    if classes is not None and found and not any(name in classes for name in found):
        named = _from_indices(path, named, found, classes, warn)
        found = Counter(name for names in named for name in names)
    for name in found:
        if classes is not None and name not in classes:
            where = next(where for names, where in zip(named, wheres, strict=True) if name in names)
            raise InputError(f"{where}: the models have no class {name!r}; they have: {', '.join(classes)}")
        if name.lower() in MISSING:
            warn(f"{path}: {found[name]} rows have the class {name!r}, which often stands for a missing value")
    return named


def _from_indices(
    path: Place, named: Sequence[tuple[str, ...]], found: Iterable[str], classes: Sequence[str], warn: Warn
) -> Sequence[tuple[str, ...]]:
    """Indices (0, 1, ...) as names, where all classes of the manifest are such; else the names as they are."""
    names = {str(number): name for number, name in enumerate(classes)}
    names |= {f"{number}.0": name for number, name in enumerate(classes)}
    if not all(name in names for name in found):
        return named
    shown = ", ".join(f"{number} = {name}" for number, name in enumerate(classes))
    warn(f"{path}: classes are given by index, and read as {shown}")
    return [tuple(names[name] for name in row) for row in named]


def _warn_of_uncertain(path: Place, rows: Sequence[Sequence[str]], located: Columns, warn: Warn) -> None:
    uncertain = sum(
        cells[index].replace(",", ".").removesuffix(".0") == UNCERTAIN
        for cells in rows
        for index in located.of_classes.values()
    )
    if uncertain:
        warn(f"{path}: {uncertain} cells of classes are -1 (uncertain); they count as 0")


def _warn_of_no_class(path: Place, table: Table, classes: Sequence[str], warn: Warn) -> None:
    """Say so where classes were probably meant: under another header, or as columns of which one is missing."""
    columns = [normalised(name) for name in table.header]
    lacking = [name for name in classes if name not in columns]
    if classes and len(lacking) < len(classes):
        warn(f"{path}: has no column {lacking[0]!r} beside those of other classes, so its images have no classes")
        return
    if suggestion(table.header, CLASS):
        warn(f"{path}: {missing_column(table.header, CLASS, 'its images have no classes')}")

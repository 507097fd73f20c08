"""The classes of a manifest's rows: by name, by index, or in one column per class."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.common.errors import EvaluationWarning, InputError
from harness.common.storage import Location
from harness.images.columns import CLASS, SEPARATOR, Columns, Warn, missing_column, normalised, suggestion
from harness.images.tables import Table

MISSING = ("", "nan", "na", "n/a", "#n/a", "<na>", "null", "none", "nat")  # in lower case
UNCERTAIN = "-1"
_MARKS = {"1": True, "true": True, "0": False, "false": False, UNCERTAIN: False} | dict.fromkeys(MISSING, False)
Named = tuple[str, ...]  # the classes of an image


class DataWarning(EvaluationWarning):
    """Something about images or their manifest that makes numbers less sure, or other than they look."""


def warn_in_python(sentence: str) -> None:
    """The default of every `warn`: a `DataWarning`."""
    warnings.warn(sentence, DataWarning, stacklevel=3)


@dataclass(frozen=True)
class Labelling:
    """How classes are written.

    classes: the known names in their order, None where any name is one; multilabel: an image has any number of them
    """

    classes: Sequence[str] | None = None
    multilabel: bool = False


ANY_CLASS = Labelling()  # one of any name


@dataclass(frozen=True)
class Reading:
    """A manifest that is being read: its table, its columns, and who is told what is unusual."""

    path: Location
    table: Table
    columns: Columns
    warn: Warn

    def where(self, number: int) -> str:
        """File and line, for messages."""
        return f"{self.path}, {self.table.unit} {number}"

    def tell(self, sentence: str) -> None:
        """Warn of something about the manifest."""
        self.warn(f"{self.path}: {sentence}")


def labels_of(
    reading: Reading, rows: Sequence[tuple[int, list[str]]], labelling: Labelling
) -> Sequence[Named] | Sequence[None]:
    """The classes of each row (number, cells) by name; None where the manifest tells none.

    :raises InputError: a row without a class, or with one that is not known.
    """
    wheres = [reading.where(number) for number, _ in rows]
    if CLASS in reading.columns.sources:
        texts = [reading.columns.read(CLASS, cells) for _, cells in rows]
        named = [_named(text, labelling.multilabel, where) for text, where in zip(texts, wheres, strict=True)]
    elif reading.columns.of_classes:
        named = [_marked(reading, number, cells, labelling.multilabel) for number, cells in rows]
        _warn_of_uncertain(reading, [cells for _, cells in rows])
    else:
        _warn_of_no_class(reading, labelling.classes or ())
        return [None] * len(rows)
    return _known(reading, named, wheres, labelling.classes)


def _named(text: str, multilabel: bool, where: str) -> Named:
    parts = text.split(SEPARATOR) if multilabel else [text]
    names = tuple(dict.fromkeys(filter(None, map(normalised, parts))))
    if not multilabel and not names:
        raise InputError(f"{where}: names no class; fill it in, or remove the row")
    return names


def _marked(reading: Reading, number: int, cells: Sequence[str], multilabel: bool) -> Named:
    """The classes whose columns hold a 1; a model with one label needs exactly one."""
    found = []
    for name, index in reading.columns.of_classes.items():
        mark = _mark(cells[index])
        if mark not in _MARKS:
            raise InputError(
                f"{reading.where(number)}: column {name!r} holds {cells[index]!r}; expected 1, 0, -1 (uncertain) or "
                "nothing"
            )
        found += [name] if _MARKS[mark] else []
    if not multilabel and len(found) != 1:
        raise InputError(
            f"{reading.where(number)}: {len(found)} columns of classes hold 1; one label per image is expected"
        )
    return tuple(found)


def _mark(cell: str) -> str:
    """A number as a spreadsheet or pandas may write it: 1, 1.0 or 1,0."""
    return cell.lower().replace(",", ".").removesuffix(".0")


def _known(
    reading: Reading, named: Sequence[Named], wheres: Sequence[str], classes: Sequence[str] | None
) -> Sequence[Named]:
    """The names, all of them among `classes`; indices become names."""
    found = Counter(name for names in named for name in names)
    if classes is not None and found and not any(name in classes for name in found):
        named = _from_indices(reading, named, found, classes)
        found = Counter(name for names in named for name in names)
    for name, count in found.items():
        if classes is not None and name not in classes:
            where = next(where for names, where in zip(named, wheres, strict=True) if name in names)
            raise InputError(f"{where}: the models have no class {name!r}; they have: {', '.join(classes)}")
        if name.lower() in MISSING:
            reading.tell(f"{count} rows have the class {name!r}, which often stands for a missing value")
    return named


def _from_indices(
    reading: Reading, named: Sequence[Named], found: Iterable[str], classes: Sequence[str]
) -> Sequence[Named]:
    """Indices (0, 1, ...) as names, where all classes of the manifest are such; else the names as they are."""
    names = {str(number): name for number, name in enumerate(classes)}
    names |= {f"{number}.0": name for number, name in enumerate(classes)}
    if not all(name in names for name in found):
        return named
    shown = ", ".join(f"{number} = {name}" for number, name in enumerate(classes))
    reading.tell(f"classes are given by index, and read as {shown}")
    return [tuple(names[name] for name in row) for row in named]


def _warn_of_uncertain(reading: Reading, rows: Sequence[Sequence[str]]) -> None:
    indices = reading.columns.of_classes.values()
    uncertain = sum(_mark(cells[index]) == UNCERTAIN for cells in rows for index in indices)
    if uncertain:
        reading.tell(f"{uncertain} cells of classes are -1 (uncertain); they count as 0")


def _warn_of_no_class(reading: Reading, classes: Sequence[str]) -> None:
    """Say so where classes were probably meant: under another header, or as columns of which one is missing."""
    header = reading.table.header
    lacking = [name for name in classes if name not in map(normalised, header)]
    if classes and len(lacking) < len(classes):
        reading.tell(f"has no column {lacking[0]!r} beside those of other classes, so its images have no classes")
    elif suggestion(header, CLASS):
        reading.tell(missing_column(header, CLASS, "its images have no classes"))

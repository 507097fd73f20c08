"""Which column of a manifest holds what: the headers `file`, `class`, `group`, `split`, or those that a user names.

Headers are compared without blanks and invisible characters at any place, and without case. A user's word for a column,
`--columns file=path,group=patient_id` on the command line and a table in TOML, comes first:

- `file=images_{view}/{id}.png` puts the cells of columns into a text, for names without suffix or folder;
- `class=Edema|Effusion` names one column per class, each 1 or 0.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

from harness.common.errors import InputError
from harness.common.storage import Location

FILE, CLASS, GROUP, SPLIT = ROLES = ("file", "class", "group", "split")
SEPARATOR = "|"  # between the classes of an image that has several, and between the columns of classes
Warn = Callable[[str], None]

# What others call the columns, letters and digits only. A header that is one of these is named, never taken.
_SYNONYMS = {
    FILE: "path filename filepath fullpath image images img imagepath imagefile imageid imageindex imagename dicom id "
    "dicompath png uri",
    CLASS: "classes label labels target category diagnosis finding findings findinglabels classname y",
    GROUP: "groups patient patients patientid patientnumber subject subjectid case caseid person personid pid mrn",
    SPLIT: "splits fold set subset partition dataset phase",
}


@dataclass(frozen=True)
class Source:
    """Where the value of a role stands: text, into which cells are put by the index of their column."""

    parts: tuple[str | int, ...]

    def read(self, cells: Sequence[str]) -> str:
        """The value in a row; empty where one of its cells is."""
        values = [part if isinstance(part, str) else cells[part] for part in self.parts]
        return "".join(values) if all(values) else ""


@dataclass(frozen=True)
class Columns:
    """The sources of a manifest: of each role that it has, and of the columns with one class each."""

    sources: Mapping[str, Source]
    of_classes: Mapping[str, int]

    def read(self, role: str, cells: Sequence[str]) -> str:
        """The value of a role in a row, empty where there is no such column."""
        return self.sources[role].read(cells) if role in self.sources else ""

    @property
    def used(self) -> set[int]:
        """Indices of the columns that are read."""
        parts = [part for source in self.sources.values() for part in source.parts]
        return {part for part in parts if isinstance(part, int)} | set(self.of_classes.values())


def parse_columns(text: str | None) -> dict[str, str]:
    """`file=path,class=label` as {"file": "path", "class": "label"}.

    :raises InputError: not of that form, or a role that does not exist.
    """
    found: dict[str, str] = {}
    for part in (text or "").split(",") if text else ():
        role, equals, name = (word.strip() for word in part.partition("="))
        if not equals or not name or role in found:
            raise InputError(f"--columns: {part.strip()!r} is not ROLE=COLUMN; write file=path,class=label for example")
        found[role] = name
    return require_roles(found)


def require_roles(asked: Mapping[str, str]) -> dict[str, str]:
    """`asked` as it is; InputError where a key is no role of a column."""
    for role in asked:
        if role not in ROLES:
            raise InputError(f"columns: {role!r} is not known; a manifest has {', '.join(ROLES)}")
    return dict(asked)


def normalised(text: str) -> str:
    """The text without blanks at its ends and invisible characters, in Unicode's composed form (NFC)."""
    if text.isascii():
        return text.strip()
    visible = "".join(sign for sign in text if unicodedata.category(sign) != "Cf")
    return unicodedata.normalize("NFC", visible).strip()


def locate(
    path: Location,
    header: Sequence[str],
    needed: Sequence[str],
    wanted: Sequence[str],
    asked: Mapping[str, str],
    classes: Sequence[str] | None,
) -> Columns:
    """Find the columns of a manifest.

    :param needed: roles that have to be there.
    :param wanted: roles that are looked for.
    :param asked: role -> what the user calls it.
    :param classes: normalised names, each of which may have a column of its own where there is no column `class`.
    :raises InputError: a column that is missing, stands twice, or cannot be told from another.
    """
    names = [normalised(name) for name in header]
    _require_unique(path, names)
    of_classes = _class_columns(path, names, asked, classes)
    sources = {role: _asked(path, names, role, text) for role, text in asked.items() if role != CLASS or not of_classes}
    for role in wanted:
        index = None if role in asked else _own(path, names, role)
        if index is not None:
            sources[role] = Source((index,))
    for role in needed:
        if role not in sources and not (role == CLASS and of_classes):
            raise InputError(f"{path}: no column {role!r}; {_found(names)}{suggestion(names, role)}")
    return Columns(sources, {} if CLASS in sources else of_classes)


def missing_column(header: Sequence[str], role: str, consequence: str) -> str:
    """A sentence on a column that is not there: what follows, which columns there are, and which may be meant."""
    names = [normalised(name) for name in header]
    return f"no column {role!r}: {consequence}; {_found(names)}{suggestion(header, role)}"


def _found(names: Sequence[str]) -> str:
    return f"it has: {', '.join(name for name in names if name) or 'none'}"


def suggestion(header: Sequence[str], role: str) -> str:
    """The header that may be meant, by its spelling or because others call it so; else nothing."""
    plain = {re.sub(r"[\W_]", "", name).lower(): normalised(name) for name in header}
    near = [word for word in plain if word in _SYNONYMS[role].split()]
    near = near or difflib.get_close_matches(role, plain, n=1, cutoff=0.75)
    if not near:
        return ""
    meant = plain[near[0]]
    return f"; if {meant!r} is meant, add --columns {role}={meant} (in TOML: columns.{role})"


def _require_unique(path: Location, names: Sequence[str]) -> None:
    twice = next((name for number, name in enumerate(names) if name and name in names[:number]), None)
    if twice is not None:
        raise InputError(f"{path}: has the column {twice!r} more than once; keep one")


def _own(path: Location, names: Sequence[str], role: str) -> int | None:
    """Index of the column that is called like the role."""
    found = [number for number, name in enumerate(names) if name.lower() == role]
    if len(found) > 1:
        both = " and ".join(repr(names[number]) for number in found)
        raise InputError(f"{path}: has the columns {both}; say which one counts with --columns {role}=NAME")
    return found[0] if found else None


def _asked(path: Location, names: Sequence[str], role: str, text: str) -> Source:
    """The source that a user names: a column, or a text with columns in braces."""
    if text in names:
        return Source((names.index(text),))
    if "{" not in text:
        raise InputError(f"{path}: no column {text!r}, which --columns names as {role}; {_found(names)}")
    parts: list[str | int] = []
    try:
        for literal, name, *_ in Formatter().parse(text):
            parts += [literal] if literal else []
            parts += [] if name is None else [names.index(name)]
    except ValueError:
        raise InputError(f"{path}: {text!r} names a column in braces that is not there; {_found(names)}") from None
    return Source(tuple(parts))


def _class_columns(
    path: Location, names: Sequence[str], asked: Mapping[str, str], classes: Sequence[str] | None
) -> dict[str, int]:
    """class -> index of the column with its ones and zeros."""
    if SEPARATOR in asked.get(CLASS, "") and asked[CLASS] not in names:
        wanted = [name.strip() for name in asked[CLASS].split(SEPARATOR)]
        missing = [name for name in wanted if name not in names]
        if missing:
            raise InputError(f"{path}: no column {missing[0]!r}, which --columns names as a class; {_found(names)}")
        return {name: names.index(name) for name in wanted}
    if CLASS in asked or not classes or not all(name in names for name in classes):
        return {}
    return {name: names.index(name) for name in classes}

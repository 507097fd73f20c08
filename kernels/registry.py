"""Records by name: a second one of the same name is an error, an unknown name is answered with the nearest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Protocol, TypeVar


class Named(Protocol):
    """What has a name."""

    @property
    def name(self) -> str: ...


Record = TypeVar("Record", bound=Named)


def by_name(records: Iterable[Record]) -> Mapping[str, Record]:
    """Read-only mapping from name to record, in the order given; raises ValueError for a name given twice."""
    result: dict[str, Record] = {}
    for record in records:
        if record.name in result:
            raise ValueError(f"{record.name!r} is registered twice")
        result[record.name] = record
    return MappingProxyType(result)


def look_up(records: Mapping[str, Record], name: str, kind: str) -> Record:
    """The record of `name`; raises ValueError that names the `kind` and the nearest known names."""
    if name in records:
        return records[name]
    raise ValueError(f"unknown {kind} {name!r}; did you mean {' or '.join(nearest(name, records))}?")


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The two known names most like `name`, or all of them where none is."""
    names = list(known)
    return get_close_matches(str(name), names, n=2) or names

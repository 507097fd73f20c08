"""Records by name: a second one of the same name is an error, an unknown name is answered with the nearest.

A `Registry` holds our own records, those that this process has registered, and those that installed packages offer as
entry points of a group. Entry points are looked for when a name is asked for that is none of the others', or when all
names are listed; until then nothing of other packages is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar


class Named(Protocol):
    """What has a name."""

    @property
    def name(self) -> str: ...


Record = TypeVar("Record", bound=Named)


class RegistrationError(ValueError):
    """A record cannot be registered, or an installed package offers one that cannot."""


class Registry(Mapping[str, Record], Generic[Record]):
    """Records by name, in this order: ours as they are listed, then all others by name.

    check: raises ValueError where a record cannot be added to those that are there
    """

    def __init__(
        self, kind: str, group: str, records: Iterable[Record], check: Callable[[Record, Mapping[str, Record]], None]
    ) -> None:
        self.kind = kind
        self.group = group
        self.built_in = by_name(records)
        self._check = check
        self._added: dict[str, Record] = {}
        self._has_looked = False

    def register(self, record: Record) -> Record:
        """Add a record; returns it.

        :raises RegistrationError: its name is taken, or the record is not as its kind must be.
        """
        if record.name in self.built_in or record.name in self._added:
            raise RegistrationError(f"{self.kind} {record.name!r} is registered already; choose another name")
        try:
            self._check(record, {**self.built_in, **self._added})
        except ValueError as error:
            raise RegistrationError(f"{self.kind} {record.name!r}: {error}") from error
        self._added[record.name] = record
        return record

    def unregister(self, name: str) -> None:
        """Remove what was registered, to register it anew.

        :raises RegistrationError: it is one of ours, or there is none of that name.
        """
        if name not in self._added:
            problem = "is built in and cannot be removed" if name in self.built_in else "is not registered"
            raise RegistrationError(f"{self.kind} {name!r} {problem}")
        del self._added[name]

    def __getitem__(self, name: str) -> Record:
        if name in self.built_in:
            return self.built_in[name]
        if name not in self._added:
            self._look()
        return self._added[name]

    def __iter__(self) -> Iterator[str]:
        self._look()
        return iter([*self.built_in, *sorted(self._added)])

    def __len__(self) -> int:
        self._look()
        return len(self.built_in) + len(self._added)

    def _look(self) -> None:
        """Register what installed packages offer, once."""
        if self._has_looked:
            return
        from importlib.metadata import entry_points  # 20 ms, and most names are ours

        for entry in sorted(entry_points(group=self.group), key=lambda entry: entry.name):
            self._add(entry)
        self._has_looked = True

    def _add(self, entry: Any) -> None:
        where = f"entry point {entry.name!r} of {self.group} ({entry.value})"
        try:
            record = entry.load()
        except Exception as error:
            raise RegistrationError(f"{where} cannot be loaded ({type(error).__name__}: {error})") from error
        if getattr(record, "name", None) != entry.name:
            raise RegistrationError(
                f"{where} must be a record of the name {entry.name!r}, as `kernels.catalogue` makes it, not {record!r}"
            )
        if self._added.get(record.name) is not record:  # its module may have registered it by itself
            self.register(record)


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

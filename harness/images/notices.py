"""What should be said about a picture that is read all the same: once per run, with how many pictures it is about."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.common.errors import EvaluationWarning
from harness.common.storage import Location


@dataclass(frozen=True)
class Notice:
    """kind: one of SENTENCES; about: what follows the name of the picture in a sentence of its own."""

    kind: str
    about: str


Noticed = Callable[[Notice], None]

# kind: what follows "N of M pictures"
SENTENCES = {
    "alpha": "have transparent parts; their alpha channel is dropped",
    "colour": "have colour; they were turned to grey",
    "few-bits": "use less than a quarter of the range of their 16 bits and are shown nearly black; scale them",
    "grey": "are grey; the image rule takes colour, and they were repeated to three equal channels",
    "orientation": "are turned by an EXIF orientation in other programs; here they are read as they are stored",
    "presentation": "are MONOCHROME2 with Presentation LUT Shape INVERSE, read as MONOCHROME2",
}


class PictureWarning(EvaluationWarning):
    """A `Notice`, for callers of the library that do not collect them."""


def warn_of(path: Location) -> Noticed:
    """Notices about `path` as warnings of Python."""
    return lambda notice: warnings.warn(f"{path}: {notice.about}", PictureWarning, stacklevel=4)


def ignore(notice: Notice) -> None:
    """For pictures that are read once more, about which everything has been said."""


class Notices:
    """What is said about the pictures of a run, from any number of threads."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {kind: [] for kind in SENTENCES}

    def of(self, name: str) -> Noticed:
        """What takes the notices about one picture."""
        return lambda notice: self._found[notice.kind].append(name)

    def warn(self, total: int, tell: Callable[[str], None]) -> None:
        """Tell one sentence per kind.

        :param total: how many pictures were read.
        """
        for sentence in summary({kind: sorted(set(names)) for kind, names in self._found.items() if names}, total):
            tell(sentence)


def summary(found: Mapping[str, Sequence[str]], total: int) -> list[str]:
    """A sentence per kind.

    :param found: kind -> names of the pictures.
    :param total: how many pictures were read.
    """
    return [
        f"{len(names)} of {total} pictures {SENTENCES[kind]} ({names[0]} for example)"
        for kind, names in sorted(found.items())
    ]

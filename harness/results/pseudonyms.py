"""What images, patients and files are called in a report that may be passed on.

A name becomes the first ten hexadecimal digits of HMAC-SHA256(key, kind, name). The key is random, lies beside the
result in `names.key`, readable by its owner only (in an object store: by whoever may read there), and is never written
anywhere else: with it the owner finds a case again, without it a name can neither be read nor, as with a plain hash,
be guessed and confirmed.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.common.errors import InputError
from harness.common.storage import PARTIAL, Address, Location, home_folder, write_bytes
from harness.results.file_names import KEY

_HOME = re.compile(r"(/home/[^/]+|/Users/[^/]+|/root|[A-Za-z]:[\\/]Users[\\/][^\\/]+)(?=[\\/]|$)")
_ABSOLUTE = re.compile(r"[A-Za-z]:[\\/]|\\\\|/.")
_PART = r"[^\s:'\"`,;()<>|\\/]+"
_START = "|".join(  # of a path in a text
    [
        r"(?<=://)/(?=\w)|(?<=:///)/(?=\w)",  # file:///home, sqlite:////home
        r"(?<![\w.~/\\<-])(?:[A-Za-z]:[\\/]|\\\\|/)(?=[\w.~])",
        r"(?<![\w.~/\\-])\.\.[\\/]",
        rf"(?<![\w.~/\\-])(?:{_PART}[\\/])+\.\.(?=[\\/])",
    ]
)
_REST = rf"(?:{_PART}|[\\/])*"
BYTES = 32
DIGITS = 10  # 40 bits: two of a million names share one with a probability of a third


@dataclass(frozen=True)
class Names:
    """Turns names into what a report shows; without a key it shows them as they are."""

    key: bytes | None

    def image(self, name: str) -> str:
        """The image's name, or its hash."""
        return self._shown("image", name)

    def patient(self, name: str) -> str:
        """The patient's name, or its hash; it differs from that of an image of the same name."""
        return self._shown("patient", name)

    def _shown(self, kind: str, name: str) -> str:
        if self.key is None:
            return name
        return hmac.new(self.key, f"{kind}\0{name}".encode("utf-8", "surrogateescape"), "sha256").hexdigest()[:DIGITS]


def without_home(text: str) -> str:
    """A text whose paths tell neither a user's name nor how the folders of a machine are laid out.

    Each absolute path, and each relative one that leaves the working folder by `..`, becomes

    - relative, where it lies in the working folder;
    - `~` and what follows, where it lies in a home folder, mine or another's (`/home/X`, `/Users/X`, `C:\\Users\\X`,
      `/root`);
    - `.../` and its last part, anywhere else.

    Other relative paths and addresses (`s3://...`) stay. A path ends at a blank or at punctuation, except that the
    working folder and my home are known; `portable_path` is for a text that is one path.
    """
    known = "".join(rf"(?<![\w.~-]){re.escape(folder)}(?![\w.-])|" for folder in _known_folders())
    return re.sub(rf"(?:{known}{_START}){_REST}", lambda found: portable_path(found[0]), text)


def portable_path(path: str) -> str:
    """`without_home` for a text that is one path, with blanks or without."""
    here = _working_folder()
    if not _is_revealing(path):
        return path
    if ".." in _parts(path) and here:
        path = os.path.normpath(os.path.join(here, path))  # noqa: PTH118 (Path keeps `..`)
    home = _home_of(path)
    inside = here and here != "/" and (path + "/").startswith(here + "/")
    if inside and (home is None or here.startswith(home)):
        return os.path.relpath(path, here)
    if home is not None:
        return "~" + path[len(home) :]
    return ".../" + _parts(path.rstrip("\\/"))[-1]


def portable_command(words: Iterable[str]) -> list[str]:
    """A command line whose arguments, and values behind `--option=`, are portable paths."""
    return [_portable_word(word) for word in words]


def _portable_word(word: str) -> str:
    option, sign, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + sign + (portable_path(value) if _is_revealing(value) else without_home(value))


def _is_revealing(path: str) -> bool:
    """True for an absolute path, and for a relative one with `..`; addresses are neither."""
    return "://" not in path and bool(_ABSOLUTE.match(path) or ".." in _parts(path))


def _parts(path: str) -> list[str]:
    return re.split(r"[\\/]", path)


def _home_of(path: str) -> str | None:
    """The home folder that a path lies in, mine or another's."""
    mine = home_folder()
    if mine is not None and (path + "/").startswith(f"{mine}/"):
        return str(mine)
    found = _HOME.match(path)
    return found[0] if found else None


def _working_folder() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:  # it was removed
        return ""


def _known_folders() -> list[str]:
    """The folders whose names may hold blanks, the longest first."""
    return sorted(
        (name for name in {_working_folder(), str(home_folder() or "")} if len(name) > 1), key=len, reverse=True
    )


def names_of(folder: Location, show: bool) -> Names:
    """The names of a result folder; makes its key where there is none.

    :raises InputError: `names.key` is not a key.
    """
    return Names(None) if show else Names(_key(folder / KEY))


def _key(path: Location) -> bytes:
    if not path.exists():
        _write_key(path)
    key = path.read_bytes()
    if len(key) != BYTES:
        raise InputError(f"{path}: not a key of {BYTES} bytes; remove it, and images and patients get new hashes")
    return key


def _write_key(path: Location) -> None:
    """Whole or not at all, and locally never readable by others, not even for a moment."""
    key = secrets.token_bytes(BYTES)
    if isinstance(path, Address):
        write_bytes(path, key)
        return
    partial = path.with_name(f"{path.name}{PARTIAL}")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(key)
    partial.replace(path)

"""What images and patients are called in a report that may be passed on.

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
from dataclasses import dataclass
from pathlib import Path

from harness.common.errors import InputError
from harness.common.storage import PARTIAL, Address, Place, write_bytes
from harness.results.layout import KEY

_HOMES = r"(?:/home/[^/\s]+|/Users/[^/\s]+|[A-Za-z]:\\Users\\[^\\\s]+)"
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
    """Paths in a text with `~` for the home folder, mine or that of whoever made the result."""
    mine = str(Path.home())
    pattern = _HOMES if len(mine) < 2 else rf"(?:{re.escape(mine)}|{_HOMES})"
    return re.sub(rf"(?<![\w.~-]){pattern}(?=[/\\\s:'\"]|$)", "~", text)


def names_of(folder: Place, show: bool) -> Names:
    """The names of a result folder; makes its key where there is none.

    :raises InputError: `names.key` is not a key.
    """
    return Names(None) if show else Names(_key(folder / KEY))


def _key(path: Place) -> bytes:
    if not path.exists():
        _write_key(path)
    key = path.read_bytes()
    if len(key) != BYTES:
        raise InputError(f"{path}: not a key of {BYTES} bytes; remove it, and images and patients get new hashes")
    return key


def _write_key(path: Place) -> None:
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

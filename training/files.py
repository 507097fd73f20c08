"""Files that are either whole or absent: written beside their place, then moved into it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from harness.common import storage
from harness.common.errors import CannotEvaluateError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """`harness.common.storage.replacing`, with the content on the disk before it takes the place of `path`.

    A full disk becomes a sentence, and the old file stays.
    """
    try:
        with storage.replacing(path) as partial:
            yield partial
            _to_disk(partial)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CannotEvaluateError(
                f"{path}: no space left on the device; what was finished is kept: free some and run "
                f"`python -m training resume {path.parent}`"
            ) from error
        raise


@contextlib.contextmanager
def write_text(path: Path) -> Iterator[TextIO]:
    """A text stream whose content appears at `path` when it is complete."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        yield stream


def write_json(path: Path, content: Any) -> None:
    with write_text(path) as stream:
        stream.write(json.dumps(content, indent=2, allow_nan=False) + "\n")


def _to_disk(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())

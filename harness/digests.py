"""Identity of weights. A leaf: `training` writes the digest, `export` checks it, both through this function."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np


def bytes_digest(content: bytes) -> str:
    """sha256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def weights_digest(weights: Iterable[tuple[str, np.ndarray]]) -> str:
    """sha256 over name, shape and float32 bytes of each weight, in order.

    Two saved files of one model differ in bytes (they hold dates); their weights do not.
    """
    digest = hashlib.sha256()
    for name, array in weights:
        digest.update(f"{name}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array, "<f4").tobytes())
    return digest.hexdigest()

"""Identity of weights. A leaf: `training` writes the digest, `export` checks it, both through this function."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np


def weights_digest(weights: Iterable[tuple[str, np.ndarray]]) -> str:
    """sha256 over name, shape and float32 bytes of each weight, in order.

    Two saved files of one model differ in bytes (they hold dates); their weights do not.
    """
    digest = hashlib.sha256()
    for name, array in weights:
        digest.update(f"{name}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array, "<f4").tobytes())
    return digest.hexdigest()

"""The one place that holds numba's flags, and the folder of its compiled code.

`kernel` is for every jitted function; `sums` lets the compiler regroup sums (`reassoc`, `nsz`), which is what
vectorises them, and still honours NaN and infinity. Neither is ever parallel: threads live in
`kernels.threads`, over code that holds no interpreter lock.

A helper of such a sum is `inlined`. If it were compiled by itself, a process that compiles it would run that copy and
one that loads its caller from disk another one, whose sums the compiler may have grouped differently.

Compiled code is kept beside the sources, or in the user's cache folder where the installation is read-only
(numba's own order), or in a private temporary folder where neither can be written, or nowhere. The variable
NUMBA_CACHE_DIR overrides all of that.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import config


def kernel(function: Callable) -> Any:
    """Jit `function`: no interpreter lock, compiled code kept on disk, division by zero as in numpy."""
    return _compile(function, fastmath=False)


def sums(function: Callable) -> Any:
    """Jit `function`, whose sums may be regrouped so that they vectorise; NaN and infinity are kept."""
    return _compile(function, fastmath={"reassoc", "nsz"})


def inlined(function: Callable) -> Any:
    """Jit `function` as a part of whatever calls it: it takes over the flags of its caller."""
    return numba.njit(inline="always", nogil=True, error_model="numpy")(function)


def _compile(function: Callable, fastmath: bool | set[str]) -> Any:
    flags = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}
    try:
        return numba.njit(cache=True, **flags)(function)
    except RuntimeError:  # no folder of numba's own list can be written
        folder = private_temporary_folder()
    if folder is None:
        return numba.njit(**flags)(function)
    config.CACHE_DIR = str(folder)
    return numba.njit(cache=True, **flags)(function)


def private_temporary_folder() -> Path | None:
    """A folder of this user alone for compiled code, or None: what others can write must never be loaded."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"evidence-drift-numba-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    ours = not folder.is_symlink() and (
        not hasattr(os, "getuid") or (status.st_uid, status.st_mode & 0o077) == (user, 0)
    )
    return folder if ours and os.access(folder, os.W_OK) else None

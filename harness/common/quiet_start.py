"""Starting TensorFlow without what it and CUDA write to standard error."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Drop what TensorFlow and CUDA write to stderr when they start, unless the user's log level asks for it.

    Their first lines come before the logging is set up, so that no log level silences them.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") < "3":
        yield
        return
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)

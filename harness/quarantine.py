"""Finds the images whose decoding ends the process: a crash in a decoder, or a picture that takes all memory.

Images are decoded in a process of their own. It says when each is done, so that when it ends early the next one was
the reason; the rest is decoded in another process. That costs one decoding more and is done only for a block over
which a process has ended before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from harness.errors import EvidenceDriftError
from harness.images import read_grey
from harness.places import Place, place


def deadly(paths: Sequence[Place]) -> dict[int, str]:
    """The images that end the process which decodes them: their places, and a sentence about each."""
    found: dict[int, str] = {}
    start = 0
    while start < len(paths):
        start += _decoded(paths[start:])
        if start < len(paths):
            found[start] = f"{paths[start]}: its decoding ended the process; remove it, or save it anew"
            start += 1
    return found


def _decoded(paths: Sequence[Place]) -> int:
    """How many of the images, from the first, another process decodes before it ends."""
    done = subprocess.run(
        [sys.executable, "-m", "harness.quarantine"],
        input=json.dumps([str(path) for path in paths]),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    if not lines:
        raise RuntimeError(f"{sys.executable} -m harness.quarantine did not start: {done.stderr.strip()[-200:]}")
    return len(lines) - 1


def main() -> None:
    """Decode the images that stdin names; one line once it is ready and one for each that is done."""
    print("ready", flush=True)
    for name in json.load(sys.stdin):
        with suppress(EvidenceDriftError, OSError):  # unreadable is not deadly
            read_grey(place(name))
        print("done", flush=True)


if __name__ == "__main__":
    main()

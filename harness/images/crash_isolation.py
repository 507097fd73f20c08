"""Finds the images whose decoding ends the process: a crash in a decoder, or a picture that takes all memory.

Images are decoded in a process of their own. It writes a byte whenever one is done, so that when it ends early the next
one may have been the reason. A process may also be ended from outside, where memory is short for example: only an image
that ends two more processes, each of which decodes it alone, is to blame. The rest is decoded in another process. That
costs one decoding more and is done only for a block over which a process has ended before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from tempfile import TemporaryFile

from harness.common.storage import Location, as_location
from harness.images.containers import MAX_PIXELS
from harness.images.loading import read_picture
from harness.images.notices import ignore
from harness.images.rule import GREY, ImageRule, restored, stored

TRIALS = 2  # processes that an image has to end by itself
STARTS = 3  # attempts to start a process; it, too, may be ended from outside


def crashing_images(
    paths: Sequence[Location], max_pixels: float = MAX_PIXELS, rule: ImageRule = GREY
) -> dict[int, str]:
    """The images that end the process which decodes them: their places, and a sentence about each.

    :param max_pixels: larger pictures are not decoded, here as elsewhere.
    :param rule: by which they are decoded.
    """
    found: dict[int, str] = {}
    start = 0
    while start < len(paths):
        start += _decoded(paths[start:], max_pixels, rule)
        if start < len(paths):
            if not any(_decoded([paths[start]], max_pixels, rule) for _ in range(TRIALS)):
                found[start] = f"{paths[start]}: its decoding ended the process; remove it, or save it anew"
            start += 1
    return found


def _decoded(paths: Sequence[Location], max_pixels: float, rule: ImageRule) -> int:
    """How many of the images, from the first, another process decodes before it ends.

    :raises RuntimeError: it does not begin, or fails by an exception, which is no death.
    """
    with TemporaryFile() as progress:
        for _ in range(STARTS):
            done = _process(paths, max_pixels, rule, progress.fileno())
            progress.seek(0)
            written = progress.read()
            if written and done.returncode != 1:
                return len(written) - 1
    raise RuntimeError(f"{sys.executable} -m harness.images.crash_isolation failed: {done.stderr.strip()[-200:]}")


def _process(
    paths: Sequence[Location], max_pixels: float, rule: ImageRule, progress: int
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness.images.crash_isolation", str(progress), str(max_pixels)],
        input=json.dumps({"rule": stored(rule), "paths": [str(path) for path in paths]}),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        pass_fds=[progress],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


def main() -> None:
    """Decode the images that stdin names; a byte into the given descriptor at the start, and one for each image."""
    progress, max_pixels = int(sys.argv[1]), float(sys.argv[2])
    os.write(progress, b".")
    asked = json.load(sys.stdin)
    rule = restored(asked["rule"])
    for name in asked["paths"]:
        with suppress(Exception):  # what can be said about an image is said where it is explained
            read_picture(as_location(name), rule, max_pixels=max_pixels, notice=ignore)
        os.write(progress, b".")


if __name__ == "__main__":
    main()

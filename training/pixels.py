"""Decoded images in memory, as far as they fit, and read again where they do not."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from harness.common.errors import InputError, warn
from harness.images.loading import load_grey
from harness.images.notices import Noticed, Notices, ignore
from training.samples import Sample


class Pixels:
    """Grey planes of a list of samples, by index.

    Every image is decoded once at the start, so that an unreadable one is named before any training; the planes
    are kept while they take less than `cache_gb`. What should be said about pictures is said then, once per kind.
    """

    def __init__(self, samples: list[Sample], size: tuple[int, int], cache_gb: float, quiet: bool = False) -> None:
        self._samples, self._size = samples, size
        self.complaint = ""  # about an image that was readable at first and no longer is
        room = int(cache_gb * 2**30 / (4 * size[0] * size[1]))
        self._kept = np.empty((min(len(samples), room), *size), np.float32)
        self._check_all(quiet)

    def greys(self, indices: np.ndarray) -> np.ndarray:
        """Grey levels 0..255, float32 (n, H, W), for n sample numbers. The array is the caller's to change."""
        planes = np.empty((len(indices), *self._size), np.float32)
        for row, index in enumerate(indices):
            planes[row] = self._kept[index] if index < len(self._kept) else self._read(index, ignore)
        return planes

    def _read(self, index: int, notice: Noticed) -> np.ndarray:
        try:
            return load_grey(self._samples[index].path, self._size, notice=notice)
        except InputError as error:
            self.complaint = str(error)
            raise

    def _check_all(self, quiet: bool) -> None:
        notices = Notices()
        with ThreadPoolExecutor() as pool:
            found = pool.map(_answer(lambda index: self._keep(index, notices)), range(len(self._samples)))
            answers = list(tqdm(found, "reading", len(self._samples), unit="image", leave=False, disable=quiet))
        complaints = [answer for answer in answers if answer]
        if complaints:
            raise InputError(f"{len(complaints)} of {len(answers)} images cannot be used; the first: {complaints[0]}")
        notices.warn(len(answers), warn)

    def _keep(self, index: int, notices: Notices) -> None:
        plane = self._read(index, notices.of(self._samples[index].file))
        if index < len(self._kept):
            self._kept[index] = plane


def _answer(action: Callable[[int], None]) -> Callable[[int], str]:
    """The complaint with which `action` refuses, or an empty string."""

    def answer(index: int) -> str:
        try:
            action(index)
        except InputError as error:
            return str(error)
        return ""

    return answer

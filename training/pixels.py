"""Decoded images in memory, as far as they fit, and read again where they do not."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from harness.common.errors import InputError, warn
from harness.images.loading import load_view
from harness.images.notices import Noticed, Notices, ignore
from harness.images.rule import GREY, ImageRule
from training.samples import Sample


class Pixels:
    """What a network sees of a list of samples, by index: grey planes, or colours where the image rule keeps them.

    Every image is decoded once at the start, so that an unreadable one is named before any training; the views
    are kept while they take less than `cache_gb`. What should be said about pictures is said then, once per kind.
    """

    def __init__(
        self,
        samples: list[Sample],
        size: tuple[int, int],
        cache_gb: float,
        quiet: bool = False,
        rule: ImageRule = GREY,
    ) -> None:
        self._samples, self.size, self._rule = samples, size, rule
        self._shape = size if rule.colour == "grey" else (*size, 3)
        self.complaint = ""  # about an image that was readable at first and no longer is
        room = int(cache_gb * 2**30 / (4 * np.prod(self._shape)))
        self._kept = np.empty((min(len(samples), room), *self._shape), np.float32)
        self._check_all(quiet)

    def views(self, indices: np.ndarray) -> np.ndarray:
        """Levels 0..255, float32 (n, H, W) or (n, H, W, 3), for n sample numbers; the caller may change the array."""
        views = np.empty((len(indices), *self._shape), np.float32)
        for row, index in enumerate(indices):
            views[row] = self._kept[index] if index < len(self._kept) else self._read(index, ignore)
        return views

    def _read(self, index: int, notice: Noticed) -> np.ndarray:
        try:
            return load_view(self._samples[index].path, self._rule, self.size, notice=notice).pixels
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
        view = self._read(index, notices.of(self._samples[index].file))
        if index < len(self._kept):
            self._kept[index] = view


def _answer(action: Callable[[int], None]) -> Callable[[int], str]:
    """The complaint with which `action` refuses, or an empty string."""

    def answer(index: int) -> str:
        try:
            action(index)
        except InputError as error:
            return str(error)
        return ""

    return answer

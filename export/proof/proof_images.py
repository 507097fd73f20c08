"""Images on which an export is proved equal to its source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.common.errors import warn
from harness.images.loading import load_grey
from harness.images.notices import Notices

PATTERNS = 4  # images to prove parity on where none are given


def greys_of(images: Sequence[Path], size: tuple[int, int]) -> np.ndarray:
    """(N, H, W) grey levels to prove parity on: of the images, or of patterns where there are none."""
    if not images:
        return _patterns(size)
    notices = Notices()
    greys = np.stack([load_grey(path, size, notice=notices.of(path.name)) for path in images])
    notices.warn(len(images), warn)
    return greys


def _patterns(size: tuple[int, int]) -> np.ndarray:
    """(4, H, W) seeded patches of grey with noise, for a model that comes without images."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (PATTERNS, -(-size[0] // 16), -(-size[1] // 16)))
    patches = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, : size[0], : size[1]]
    return np.clip(patches + rng.normal(0, 20, patches.shape), 0, 255).astype(np.float32)

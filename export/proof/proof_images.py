"""Images on which an export is proved equal to its source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.common.errors import warn
from harness.images.loading import load_view
from harness.images.notices import Notices
from harness.images.rule import ImageRule

PATTERNS = 4  # images to prove parity on where none are given


def views_of(images: Sequence[Path], rule: ImageRule, size: tuple[int, int]) -> np.ndarray:
    """(N, H, W) grey levels or (N, H, W, 3) colours to prove parity on: of images, else of patterns.

    :raises InputError: an image cannot be read, or is not one that the rule takes.
    """
    if not images:
        return _patterns(size, () if rule.colour == "grey" else (3,))
    notices = Notices()
    views = np.stack([load_view(path, rule, size, notice=notices.of(path.name)).pixels for path in images])
    notices.warn(len(images), warn)
    return views


def _patterns(size: tuple[int, int], channels: tuple[int, ...]) -> np.ndarray:
    """(4, H, W) or (4, H, W, 3) seeded patches with noise, for a model that comes without images."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (PATTERNS, -(-size[0] // 16), -(-size[1] // 16), *channels))
    patches = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, : size[0], : size[1]]
    return np.clip(patches + rng.normal(0, 20, patches.shape), 0, 255).astype(np.float32)

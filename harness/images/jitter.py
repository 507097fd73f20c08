"""The perturbation of the noise floor: noise of one grey level, and a shift of one pixel."""

from __future__ import annotations

from hashlib import blake2b
from zlib import crc32

import numpy as np

JITTER_SD = 1.0  # grey levels
# Where each draw of the jitter moves the picture, in pixels (down, right); its map is moved back.
SHIFTS = ((0, 1), (1, 0), (0, -1), (-1, 0))


def jittered(grey: np.ndarray, name: str, draw: int, seed: int) -> np.ndarray:
    """The picture (H, W) with noise of one grey level, clipped, and moved by one pixel, its edge repeated.

    The noise depends on the seed, the image's name and the draw (1, 2, ...) alone.
    """
    noise = np.random.default_rng([seed, crc32(name.encode()), draw]).standard_normal(grey.shape, np.float32)
    noisy = np.clip(grey + np.float32(JITTER_SD) * noise, 0, 255)
    down, right = shift_of(draw)
    rows = np.clip(np.arange(grey.shape[0]) - down, 0, grey.shape[0] - 1)
    columns = np.clip(np.arange(grey.shape[1]) - right, 0, grey.shape[1] - 1)
    return noisy[rows][:, columns]


def shift_of(draw: int) -> tuple[int, int]:
    """Pixels (down, right) by which a draw moves the picture."""
    return SHIFTS[(draw - 1) % len(SHIFTS)]


def draw_of(name: str, seed: int) -> int:
    """The draw of an image of which there is one only: any of the shifts, by the digest of its name under `seed`."""
    return 1 + blake2b(name.encode(), digest_size=8, key=f"draw {seed}".encode()).digest()[0] % len(SHIFTS)

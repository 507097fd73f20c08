"""The perturbation of the noise floor: noise of one level, and a shift of one pixel."""

from __future__ import annotations

from hashlib import blake2b
from zlib import crc32

import numpy as np

JITTER_SD = 1.0  # levels, of each channel
# Where each draw of the jitter moves the picture, in pixels (down, right); its map is moved back.
SHIFTS = ((0, 1), (1, 0), (0, -1), (-1, 0))


def jittered(
    pixels: np.ndarray, name: str, draw: int, seed: int, inside: tuple[slice, slice] = (slice(None), slice(None))
) -> np.ndarray:
    """A view (H, W) or (H, W, 3) with noise of one level, clipped, and moved by one pixel, its edge repeated.

    The noise depends on the seed, the image's name and the draw (1, 2, ...) alone; each channel has its own.

    :param inside: rows and columns that the picture fills; padding around it stays as it is.
    """
    moved = pixels.copy()
    moved[inside] = _moved(_noisy(pixels[inside], name, draw, seed), draw)
    return moved


def _noisy(pixels: np.ndarray, name: str, draw: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng([seed, crc32(name.encode()), draw]).standard_normal(pixels.shape, np.float32)
    return np.clip(pixels + np.float32(JITTER_SD) * noise, 0, 255)


def _moved(pixels: np.ndarray, draw: int) -> np.ndarray:
    down, right = shift_of(draw)
    rows = np.clip(np.arange(pixels.shape[0]) - down, 0, pixels.shape[0] - 1)
    columns = np.clip(np.arange(pixels.shape[1]) - right, 0, pixels.shape[1] - 1)
    return pixels[rows][:, columns]


def shift_of(draw: int) -> tuple[int, int]:
    """Pixels (down, right) by which a draw moves the picture."""
    return SHIFTS[(draw - 1) % len(SHIFTS)]


def draw_of(name: str, seed: int) -> int:
    """The draw of an image of which there is one only: any of the shifts, by the digest of its name under `seed`."""
    return 1 + blake2b(name.encode(), digest_size=8, key=f"draw {seed}".encode()).digest()[0] % len(SHIFTS)

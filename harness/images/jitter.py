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
    """A view float32 (H, W) or (H, W, 3) with noise of one level, clipped, and moved by one pixel, its edge repeated.

    The noise depends on the seed, the image's name and the draw (1, 2, ...) alone; each channel has its own.

    :param inside: rows and columns that the picture fills; padding around it stays as it is.
    """
    moved = pixels.copy()
    _move(_noisy(pixels[inside], name, draw, seed), draw, moved[inside])
    return moved


def _noisy(pixels: np.ndarray, name: str, draw: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng([seed, crc32(name.encode()), draw]).standard_normal(pixels.shape, np.float32)
    noise *= np.float32(JITTER_SD)
    noise += pixels
    return np.clip(noise, 0, 255, out=noise)


def _move(pixels: np.ndarray, draw: int, moved: np.ndarray) -> None:
    """Write `pixels`, moved by one pixel at most and with its edge repeated, into an array of its shape."""
    down, right = shift_of(draw)
    height, width = pixels.shape[:2]
    moved[...] = pixels
    moved[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = pixels[
        max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)
    ]


def shift_of(draw: int) -> tuple[int, int]:
    """Pixels (down, right) by which a draw moves the picture."""
    return SHIFTS[(draw - 1) % len(SHIFTS)]


def draw_of(name: str, seed: int) -> int:
    """The draw of an image of which there is one only: any of the shifts, by the digest of its name under `seed`."""
    return 1 + blake2b(name.encode(), digest_size=8, key=f"draw {seed}".encode()).digest()[0] % len(SHIFTS)

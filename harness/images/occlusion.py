"""Occluding regions of a picture softly, and the regions to compare with: the same ones elsewhere in the picture."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

FILLS = ("blur", "mean")
BLUR = 1 / 16  # sd of the blur that fills, in shares of the shorter side
SOFT = 1 / 56  # sd of the edge of a mask: 4 pixels of 224

Symmetry = Callable[[np.ndarray], np.ndarray]


def fills(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """What may stand in the place of a picture (H, W) or (H, W, 3): itself blurred, and its mean level."""
    mean = pixels.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
    return {"blur": _blurred(pixels, BLUR), "mean": np.broadcast_to(mean, pixels.shape)}


def occluded(pixels: np.ndarray, mask: np.ndarray, fill: np.ndarray) -> np.ndarray:
    """x + s (fill - x), s the mask (H, W) with soft edges."""
    soft = _blurred(mask.astype(np.float32), SOFT)
    soft = soft[..., None] if pixels.ndim == 3 else soft
    return pixels + soft * (fill - pixels)


def symmetries(shape: tuple[int, int]) -> list[Symmetry]:
    """Ways to move a mask (..., H, W) within the picture that keep its size, shape and distance from the centre.

    The mirror images and the half turn; for a square also quarter turns and mirror images by its diagonals.
    """
    found: list[Symmetry] = [
        lambda mask: mask[..., ::-1],
        lambda mask: mask[..., ::-1, :],
        lambda mask: mask[..., ::-1, ::-1],
    ]
    if shape[0] == shape[1]:
        found += [
            lambda mask: np.rot90(mask, 1, (-2, -1)),
            lambda mask: np.rot90(mask, 3, (-2, -1)),
            lambda mask: mask.swapaxes(-2, -1),
            lambda mask: mask[..., ::-1, ::-1].swapaxes(-2, -1),
        ]
    return found


def _blurred(values: np.ndarray, share: float) -> np.ndarray:
    return cv2.GaussianBlur(values, (0, 0), share * min(values.shape[:2]), borderType=cv2.BORDER_REPLICATE)

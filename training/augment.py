"""Random changes that leave a radiograph a radiograph.

Shift, rotation, contrast and brightness are what differs between two exposures of one patient. A horizontal flip is
possible but off: it puts the heart on the right, which exists (situs inversus, 1 in 10,000) and is a finding.
"""

from __future__ import annotations

import cv2
import numpy as np

from training.config import Augment


def augment(grey: np.ndarray, how: Augment, rng: np.random.Generator) -> np.ndarray:
    """One random version of a grey plane 0..255, float32 (H, W). The number of draws is always the same."""
    angle, right, down, gain, lift = rng.uniform(-1, 1, 5)
    mirrored = rng.uniform() < 0.5
    if how.flip and mirrored:
        grey = grey[:, ::-1]
    if how.rotate or how.shift:
        grey = _move(grey, angle * how.rotate, right * how.shift, down * how.shift)
    mean = grey.mean()
    changed = (grey - mean) * (1 + gain * how.contrast) + mean + lift * how.brightness
    return np.clip(changed, 0, 255).astype(np.float32)


def _move(grey: np.ndarray, degrees: float, right: float, down: float) -> np.ndarray:
    """Rotate about the centre, then shift by shares of the sides; edges are replicated."""
    height, width = grey.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    matrix[:, 2] += (right * width, down * height)
    return cv2.warpAffine(
        np.ascontiguousarray(grey), matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )

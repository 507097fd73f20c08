"""Random changes that leave a radiograph a radiograph.

Shift, rotation, contrast and brightness are what differs between two exposures of one patient. A horizontal flip is
possible but off: it puts the heart on the right, which exists (situs inversus, 1 in 10,000) and is a finding.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from training.config import Augment


def augment(view: np.ndarray, how: Augment, rng: np.random.Generator) -> np.ndarray:
    """One random version of a view 0..255, float32 (H, W) or (H, W, 3). The number of draws is always the same."""
    draws = _Draws.of(rng)
    view = _placed(view, how, draws)
    mean = view.mean()
    changed = (view - mean) * (1 + draws.gain * how.contrast) + mean + draws.lift * how.brightness
    return np.clip(changed, 0, 255).astype(np.float32)


def moved_along(plane: np.ndarray, how: Augment, rng: np.random.Generator) -> np.ndarray:
    """A plane (h, w) of the same field of view, moved as `augment` moves a view with an equal rng."""
    return _placed(plane, how, _Draws.of(rng)).astype(np.float32)


class _Draws(NamedTuple):
    """What is random, in -1..1 each."""

    angle: float
    right: float
    down: float
    gain: float
    lift: float
    mirrored: bool

    @classmethod
    def of(cls, rng: np.random.Generator) -> _Draws:
        angle, right, down, gain, lift = rng.uniform(-1, 1, 5)
        return cls(angle, right, down, gain, lift, rng.uniform() < 0.5)


def _placed(view: np.ndarray, how: Augment, draws: _Draws) -> np.ndarray:
    """Mirrored, rotated and shifted."""
    if how.flip and draws.mirrored:
        view = view[:, ::-1]
    if how.rotate or how.shift:
        view = _move(view, draws.angle * how.rotate, draws.right * how.shift, draws.down * how.shift)
    return view


def _move(view: np.ndarray, degrees: float, right: float, down: float) -> np.ndarray:
    """Rotate about the centre, then shift by shares of the sides; edges are replicated."""
    height, width = view.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    matrix[:, 2] += (right * width, down * height)
    return cv2.warpAffine(
        np.ascontiguousarray(view), matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )

"""Map pairs that look like what the metrics meet, and some that are built to be awkward."""

from __future__ import annotations

import numpy as np

from kernels.resize import upsample


def cam_like(count: int, size: tuple[int, int], raw: tuple[int, int] = (7, 7), seed: int = 0) -> np.ndarray:
    """Rectified noise on a coarse grid, upsampled: float32 (count, H, W), part of it zero, borders full of ties."""
    noise = np.random.default_rng(seed).normal(0.3, 1.0, (count, *raw))
    return upsample(np.maximum(noise, 0).astype(np.float32), size)


def related(maps: np.ndarray, seed: int = 1) -> np.ndarray:
    """The same maps after a drift: half of the old one, half of a new one."""
    other = cam_like(len(maps), maps.shape[1:], seed=seed)
    return (0.5 * maps + 0.5 * other).astype(np.float32)


def awkward_pairs(size: tuple[int, int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pairs of maps (H, W) by name; none is constant, so every metric is defined."""
    random = np.random.default_rng(5)
    height, width = size
    sparse = (random.random(size) > 0.97) * random.random(size)
    return {
        "smooth": (cam_like(1, size)[0], related(cam_like(1, size))[0]),
        "noise": (random.random(size), random.random(size)),
        "few levels": (random.integers(0, 3, size), random.integers(0, 3, size)),
        "sparse": (sparse, np.roll(sparse, 3, axis=1)),
        "one pixel": (np.eye(height, width) * (np.arange(height) == 4)[:, None], random.random(size)),
        "six decades": (10 ** random.uniform(-6, 0, size), 10 ** random.uniform(-6, 0, size)),
        "huge and tiny": (1e30 * random.random(size), 1e-38 * random.random(size)),
        "denormals": (1e-43 * random.random(size), 1e-42 * random.random(size)),
        "nearly constant": (1 + 1e-6 * random.random(size), 1 + 1e-6 * random.random(size)),
    }

"""Four lesion patterns, each a function (thorax, rng) -> attenuation to add, float32 (S, S), zero outside the lungs.

The registry LESIONS is the list of phantom classes other than `normal`. Strengths vary down to subtle on purpose:
a classifier should have to look, and should not reach 100 %.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from training.anatomy import Plane, Thorax, noise, rise

Lesion = Callable[[Thorax, np.random.Generator], Plane]
LESIONS: dict[str, Lesion] = {}


def lesion(draw: Lesion) -> Lesion:
    """Register a pattern under its function's name."""
    if draw.__name__ in LESIONS:
        raise ValueError(f"lesion {draw.__name__} is registered twice")
    LESIONS[draw.__name__] = draw
    return draw


@lesion
def lobar_consolidation(thorax: Thorax, rng: np.random.Generator) -> Plane:
    """One lobe filled with fluid: dense, sharp at the fissure, fading elsewhere, with air bronchograms."""
    side = int(rng.choice([-1, 1]))
    top = rng.uniform(-0.45, 0.2)
    fissure = thorax.y - top - rng.uniform(-0.25, 0.25) * (thorax.x * side - 0.4)
    depth = rng.uniform(0.28, 0.5)
    lobe = rise(fissure, 0.012) * rise(depth - fissure + 0.06 * noise(rng, thorax.size, 0.08), 0.06)
    patchy = 0.85 + 0.15 * noise(rng, thorax.size, 0.035)
    return _in_lung(rng.uniform(0.16, 0.38) * lobe * patchy, thorax.lungs[side])


@lesion
def diffuse_interstitial(thorax: Thorax, rng: np.random.Generator) -> Plane:
    """Fine lines and nodules in both lungs, denser towards the bases: the zero crossings of band-pass noise."""
    grain = rng.uniform(0.018, 0.028)
    lines = np.exp(-((noise(rng, thorax.size, grain) / 0.3) ** 2))
    nodules = np.clip(noise(rng, thorax.size, 0.6 * grain) - 1.2, 0, 2)
    basal = 0.35 + 0.65 * rise(thorax.y - rng.uniform(-0.3, 0.2), 0.35)
    return _in_lung(rng.uniform(0.10, 0.22) * (lines + 0.6 * nodules) * basal, _both(thorax))


@lesion
def peripheral_ground_glass(thorax: Thorax, rng: np.random.Generator) -> Plane:
    """Hazy patches along the outer lung border, usually on both sides, with vessels still visible through them."""
    haze = np.zeros_like(thorax.x)
    for side in (-1, 1):
        for _ in range(rng.integers(1, 4)):
            haze = np.maximum(haze, _patch(thorax, rng, side))
    mottle = np.clip(0.8 + 0.3 * noise(rng, thorax.size, 0.04), 0.2, 1.4)
    return _in_lung(rng.uniform(0.13, 0.26) * haze * mottle, _both(thorax))


@lesion
def apical_cavity(thorax: Thorax, rng: np.random.Generator) -> Plane:
    """A thick-walled ring with an air-filled centre in one apex, in a little surrounding infiltrate."""
    side = int(rng.choice([-1, 1]))
    cx, cy = side * rng.uniform(0.3, 0.46), rng.uniform(-0.6, -0.42)
    radius, wall = rng.uniform(0.075, 0.13), rng.uniform(0.022, 0.035)
    squeeze = rng.uniform(0.8, 1.25)
    distance = np.hypot((thorax.x - cx) * squeeze, (thorax.y - cy) / squeeze)
    distance = distance + 0.008 * noise(rng, thorax.size, 0.05)
    ring = np.exp(-(((distance - radius) / wall) ** 2))
    infiltrate = np.exp(-((distance / (2 * radius)) ** 2)) * np.clip(0.8 + 0.3 * noise(rng, thorax.size, 0.03), 0, 2)
    outside = rise(distance - radius + wall, 0.015)
    return _in_lung(rng.uniform(0.18, 0.34) * (ring + 0.3 * infiltrate * outside), thorax.lungs[side])


def _patch(thorax: Thorax, rng: np.random.Generator, side: int) -> Plane:
    """One soft blob whose centre lies near the outer border of the lung of `side`."""
    cy = rng.uniform(-0.25, 0.45)
    row = int((cy + 1) / 2 * (thorax.size - 1))
    covered = np.flatnonzero(thorax.lungs[side][row] > 0.5)
    if covered.size == 0:
        return np.zeros_like(thorax.x)
    border = thorax.x[row, covered[-1] if side > 0 else covered[0]]
    dx, dy = (
        (thorax.x - border + side * 0.05) / rng.uniform(0.09, 0.16),
        (thorax.y - cy) / rng.uniform(0.12, 0.24),
    )
    edge = 0.25 * noise(rng, thorax.size, 0.06)
    return rise(1 - np.hypot(dx, dy) + edge, 0.45)


def _both(thorax: Thorax) -> Plane:
    return np.clip(thorax.lungs[-1] + thorax.lungs[1], 0, 1)


def _in_lung(added: Plane, lung: Plane) -> Plane:
    return (np.maximum(added, 0) * np.clip(lung, 0, 1)).astype(np.float32)

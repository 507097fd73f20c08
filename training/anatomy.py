"""The healthy thorax of a phantom: attenuation maps of body, lungs, heart, diaphragm, bones and vessels.

All shapes are smooth functions on a grid x, y in -1..1 (y downwards, x to the image's right, which is the
patient's left). `rise(d, w)` is the soft step that turns a signed distance into coverage 0..1.
Attenuation is relative: soft tissue of the trunk is about 1, air 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

Plane = np.ndarray  # float32 (S, S)


@dataclass(frozen=True)
class Thorax:
    """What the lesions need to know: the grid, the attenuation, and lung coverage per side.

    `lungs` maps -1 (image left, the patient's right lung) and +1 (image right) to coverage planes 0..1.
    """

    x: Plane
    y: Plane
    attenuation: Plane
    lungs: dict[int, Plane]

    @property
    def size(self) -> int:
        return self.attenuation.shape[0]


def rise(distance: Plane, width: float) -> Plane:
    """Soft step: 0 far below zero, 1 far above, over about +-`width`."""
    return (0.5 + 0.5 * np.tanh(distance / width)).astype(np.float32)


def noise(rng: np.random.Generator, size: int, scale: float) -> Plane:
    """Smooth Gaussian noise of unit variance; `scale` is its grain as a share of the picture."""
    grain = max(scale * size, 0.5)
    coarse = max(8, int(np.ceil(size / max(grain / 2, 1))))
    plane = cv2.resize(
        rng.standard_normal((coarse, coarse)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC
    )
    plane = cv2.GaussianBlur(plane, (0, 0), grain / 2)
    return (plane - plane.mean()) / (plane.std() + 1e-6)


def draw_thorax(patient: np.random.Generator, visit: np.random.Generator, size: int) -> Thorax:
    """Anatomy from `patient`, pose and breathing from `visit`."""
    body = _Build(patient, visit)
    x, y = _grid(size, visit)
    lungs = {side: _lung(body, x, y, side) for side in (-1, 1)}
    both = lungs[-1] + lungs[1]
    mu = body.tissue * _trunk(body, x, y)
    mu -= body.air * both * _trunk(body, x, y)
    mu += _mediastinum(body, x, y) * (0.25 + 0.75 * both)
    mu += 0.09 * _spine(body, x, y)
    mu += _vessels(patient, x, y, both)
    mu += _ribs(body, x, y) * (0.35 + 0.65 * both) + _clavicles(body, x, y)
    mu += 0.035 * noise(visit, size, 0.10) * _trunk(body, x, y)
    return Thorax(x, y, np.maximum(mu, 0.0), lungs)


class _Build:
    """One patient's proportions, drawn once; the pose and the depth of breath come from the visit."""

    def __init__(self, patient: np.random.Generator, visit: np.random.Generator) -> None:
        draw = patient.uniform
        self.width = draw(0.74, 0.86)  # half width of the rib cage
        self.apex = draw(-0.86, -0.76)
        self.tissue, self.air = draw(0.95, 1.15), draw(0.62, 0.75)
        self.shoulder = draw(-0.72, -0.6)
        self.heart = (
            draw(0.30, 0.40),
            draw(0.24, 0.31),
            draw(0.10, 0.17),
        )  # semi-axes and offset to image right
        self.middle = draw(0.13, 0.18)  # half width of the mediastinum
        self.rib_pitch, self.rib_slope = draw(0.165, 0.19), draw(0.16, 0.3)
        self.bone = draw(0.10, 0.17)
        self.breath = visit.uniform(-0.06, 0.06)
        self.dome = {-1: draw(0.42, 0.5) + self.breath, 1: draw(0.5, 0.58) + self.breath}


def _grid(size: int, visit: np.random.Generator) -> tuple[Plane, Plane]:
    """Pixel centres in -1..1 after the patient's small rotation, shift and distance to the film."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(axis, axis)
    angle, zoom = np.deg2rad(visit.uniform(-4, 4)), visit.uniform(0.93, 1.07)
    dx, dy = visit.uniform(-0.05, 0.05, 2)
    c, s = np.float32(np.cos(angle) * zoom), np.float32(np.sin(angle) * zoom)
    return c * x - s * y + np.float32(dx), s * x + c * y + np.float32(dy)


def _trunk(body: _Build, x: Plane, y: Plane) -> Plane:
    """Chest wall with sloping shoulders, neck, and a gap of air below the arms."""
    shoulder = body.shoulder - 0.30 + 0.30 * np.abs(x) ** 2.6
    wall = body.width + 0.14 + 0.05 * y + 0.25 * rise(-0.45 - y, 0.12)
    chest = rise(y - shoulder, 0.03) * rise(wall - np.abs(x), 0.025)
    arms = rise(y - shoulder - 0.03, 0.05) * rise(np.abs(x) - 0.95 - 0.1 * rise(y, 0.3), 0.03)
    neck = rise(0.26 + 0.25 * (y + 0.9) - np.abs(x), 0.06) * rise(-0.6 - y, 0.1)
    edge = np.clip(1 - (np.abs(x) / (wall + 0.03)) ** 6, 0, 1)  # the trunk thins towards its flanks
    return np.maximum(np.maximum(chest * (0.55 + 0.45 * edge), 0.55 * arms), 0.85 * neck)


def _lung(body: _Build, x: Plane, y: Plane, side: int) -> Plane:
    """Inside the rib cage, beside the mediastinum and the heart, above the diaphragm's dome."""
    u = x * side
    height = (y - 0.28) / (0.28 - body.apex)  # -1 at the apex
    outer = body.width * np.sqrt(np.clip(1 - np.abs(np.minimum(height, 0)) ** 2.6, 0, 1)) + 0.03 * np.minimum(y, 0.3)
    inner = body.middle + 0.05 * np.clip(height + 1, 0, 1.5) - 0.06 * rise(-0.55 - y, 0.1)
    dome = body.dome[side] + 0.55 * (u - 0.34) ** 2 + 1.1 * np.maximum(u - 0.52, 0) ** 1.5
    lung = rise(outer - u, 0.018) * rise(u - inner, 0.025) * rise(dome - y, 0.015)
    return lung * (1 - 0.9 * _heart(body, x, y))


def _heart(body: _Build, x: Plane, y: Plane) -> Plane:
    """Tilted ellipse, its larger part on the image's right (the patient's left)."""
    long, short, offset = body.heart
    dx, dy = x - offset, y - 0.27 - 0.5 * body.breath
    along, across = 0.82 * dx + 0.57 * dy, -0.57 * dx + 0.82 * dy
    return rise(1 - np.sqrt((along / long) ** 2 + (across / short) ** 2), 0.07)


def _mediastinum(body: _Build, x: Plane, y: Plane) -> Plane:
    """Heart, great vessels with the aortic knob on the image's right, and the dark column of the trachea."""
    band = rise(body.middle - np.abs(x - 0.01), 0.04) * rise(y + 0.95, 0.1)
    knob = rise(0.105 - np.hypot(x - body.middle + 0.01, y + 0.3), 0.03)
    trachea = rise(0.05 - np.abs(x - 0.005), 0.015) * rise(-0.28 - y, 0.04)
    below = rise(y - 0.6, 0.1)
    return 0.10 * band + 0.10 * knob + 0.22 * _heart(body, x, y) * (1 - 0.5 * below) - 0.14 * trachea


def _spine(body: _Build, x: Plane, y: Plane) -> Plane:
    """Vertebral bodies: a faint ladder behind the mediastinum."""
    ladder = 0.65 + 0.35 * np.sin(2 * np.pi * y / (0.9 * body.rib_pitch))
    return rise(0.085 - np.abs(x), 0.015) * ladder


def _ribs(body: _Build, x: Plane, y: Plane) -> Plane:
    """Nine posterior ribs, arching up and then down from the spine, and fainter anterior ribs crossing them."""
    total = np.zeros_like(x)
    u = np.abs(x) / body.width
    cage = rise(1.03 - u, 0.02) * rise(u - 0.1, 0.03)
    for number in range(9):
        start = body.apex + 0.06 + number * body.rib_pitch
        back = start - 0.10 * np.sin(np.pi * np.clip(u, 0, 1)) + body.rib_slope * u**2.2 * (0.5 + 0.08 * number)
        total += _band(y - back, 0.034) * cage * body.bone
        front = start + 0.30 - 0.32 * u + 0.38 * u**3
        total += _band(y - front, 0.038) * cage * rise(u - 0.3, 0.06) * 0.35 * body.bone
    return total * rise(y - body.apex + 0.03, 0.03)


def _band(distance: Plane, half: float) -> Plane:
    """A flat bone in projection: an even body with denser cortical edges."""
    inside = rise(half - np.abs(distance), 0.009)
    return inside * (0.65 + 0.6 * (np.abs(distance) / half) ** 3).clip(0, 1.3)


def _clavicles(body: _Build, x: Plane, y: Plane) -> Plane:
    u = np.abs(x)
    line = body.apex + 0.27 - 0.08 * np.sin(3.4 * (u - 0.1)) - 0.16 * u
    return 1.1 * body.bone * _band(y - line, 0.036) * rise(u - 0.1, 0.03) * rise(0.84 - u, 0.04)


def _vessels(rng: np.random.Generator, x: Plane, y: Plane, lungs: Plane) -> Plane:
    """Both hila and the arteries that branch from them, thinner and fainter outwards."""
    size = x.shape[0]
    canvas = np.zeros((size, size), np.float32)
    for side in (-1, 1):
        for angle in np.linspace(-1.3, 1.3, 7) + rng.uniform(-0.2, 0.2, 7):
            _branch(canvas, rng, np.array([side * 0.2, 0.0]), side, angle, 0.17, 3.0 * size / 256)
    canvas = cv2.GaussianBlur(canvas, (0, 0), 0.004 * size)
    hila = sum(np.exp(-(((x - side * 0.22) / 0.09) ** 2) - ((y - 0.0) / 0.16) ** 2) for side in (-1, 1))
    return (0.20 * canvas + 0.13 * hila) * np.clip(lungs, 0, 1)


def _branch(
    canvas: Plane,
    rng: np.random.Generator,
    start: np.ndarray,
    side: int,
    angle: float,
    length: float,
    width: float,
) -> None:
    """Draw one vessel and its two daughters (Murray's law: radius falls by 2^(-1/3) at a fork)."""
    if width < 0.7 * canvas.shape[0] / 256:
        return
    end = start + length * np.array([side * np.cos(angle), np.sin(angle)])
    here, there = (np.round((p + 1) / 2 * canvas.shape[0] * 16).astype(int).tolist() for p in (start, end))
    cv2.line(canvas, here, there, min(1.0, 0.3 * width), max(1, round(width)), cv2.LINE_AA, 4)
    for turn in (-1, 1):
        fork = angle + turn * rng.uniform(0.15, 0.5)
        _branch(canvas, rng, end, side, fork, length * rng.uniform(0.65, 0.9), width * 2 ** (-1 / 1.6))

"""Synthetic frontal chest radiographs with known lesions, for the demonstration, pre-training and tests.

A phantom is a projection: attenuation mu(x, y) is summed up organ by organ (body, lungs, vessels, spine, ribs,
clavicles, heart, diaphragm, lesion), blurred by scatter, and turned into film grey by an exposure curve with
quantum noise. Coordinates run from -1 to 1 on both axes, y downwards. The view is the usual one: the patient's
left lies on the image's right, so the heart does too. Nothing is mirrored, ever.

Anatomy depends on (seed, patient), everything else on (seed, patient, visit): two visits of a patient show the
same thorax in another pose, exposure and state. The lesion mask holds the pixels to which the lesion added
visible attenuation.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from harness.common.storage import write_bytes
from training.anatomy import draw_thorax
from training.files import write_text
from training.lesions import LESIONS

CLASSES = ("normal", *LESIONS)


@dataclass(frozen=True)
class Phantom:
    """One drawn radiograph: `image` uint8 (S, S), `lesion` bool (S, S), its class and its patient's number."""

    image: np.ndarray
    lesion: np.ndarray
    label: str
    patient: int


def draw_phantom(label: str, patient: int, *, seed: int = 0, visit: int = 0, size: int = 256) -> Phantom:
    """Draw one radiograph of class `label` (one of CLASSES) for a patient; the same arguments, the same pixels."""
    if label not in CLASSES:
        raise ValueError(f"{label!r} is no phantom class; expected one of {', '.join(CLASSES)}")
    rng = np.random.default_rng([seed, patient, visit, CLASSES.index(label)])
    thorax = draw_thorax(np.random.default_rng([seed, patient]), rng, size)
    added = LESIONS[label](thorax, rng) if label in LESIONS else np.zeros_like(thorax.attenuation)
    image = _expose(thorax.attenuation + added + _cables(rng, size), rng)
    return Phantom(image, added > 0.25 * max(added.max(), 1e-6), label, patient)


def draw_phantoms(images: int, patients: int, *, seed: int = 0, size: int = 256) -> Iterator[Phantom]:
    """`images` phantoms of `patients` patients. Each patient has one class; the classes take turns."""
    if not 1 <= patients <= images:
        raise ValueError(f"{images} images of {patients} patients: every patient needs at least one image")
    for number in range(images):
        visit, patient = divmod(number, patients)
        yield draw_phantom(CLASSES[patient % len(CLASSES)], patient, seed=seed, visit=visit, size=size)


def write_phantoms(folder: Path, images: int, patients: int, *, seed: int = 0, size: int = 256) -> Path:
    """Write JPEG files (quality 90), `masks/` of the lesions (PNG, 0 or 255) and `manifest.csv`; return its path.

    The manifest has the columns file, class, group, sha256; `group` is the patient.
    """
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    rows = []
    for number, phantom in enumerate(draw_phantoms(images, patients, seed=seed, size=size)):
        stem = f"phantom-{number:05d}"
        content = _encode(".jpg", phantom.image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        write_bytes(folder / f"{stem}.jpg", content)
        write_bytes(folder / "masks" / f"{stem}.png", _encode(".png", 255 * phantom.lesion.astype(np.uint8), []))
        digest = hashlib.sha256(content).hexdigest()
        rows.append((f"{stem}.jpg", phantom.label, f"patient-{phantom.patient:05d}", digest))
    with write_text(folder / "manifest.csv") as stream:
        csv.writer(stream).writerows([("file", "class", "group", "sha256"), *rows])
    return folder / "manifest.csv"


def _encode(suffix: str, pixels: np.ndarray, options: list[int]) -> bytes:
    return bytes(cv2.imencode(suffix, pixels, options)[1])


def _expose(attenuation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Attenuation to film grey 0..255: scatter, Beer-Lambert with quantum noise, window, film curve."""
    size = attenuation.shape[0]
    sharp = cv2.GaussianBlur(attenuation, (0, 0), size * rng.uniform(0.0015, 0.003))
    haze = cv2.GaussianBlur(attenuation, (0, 0), size * 0.08)
    scatter = rng.uniform(0.05, 0.25)
    photons = rng.uniform(900, 4000) * np.exp(-1.6 * ((1 - scatter) * sharp + scatter * haze))
    counted = rng.poisson(photons).astype(np.float32)
    film = -np.log(np.maximum(cv2.GaussianBlur(counted, (0, 0), 0.0022 * size), 1.0))
    low, high = np.percentile(film, [rng.uniform(0.5, 4.0), rng.uniform(98.5, 99.8)])
    grey = np.clip((film - low) / (high - low), 0, 1) ** rng.uniform(0.8, 1.35)
    return np.round(grey * rng.uniform(215, 255) + rng.uniform(0, 14)).clip(0, 255).astype(np.uint8)


def _cables(rng: np.random.Generator, size: int) -> np.ndarray:
    """Monitoring leads over one phantom in four, whatever its class: bright, and no evidence of anything."""
    canvas = np.zeros((size, size), np.float32)
    if rng.uniform() < 0.25:
        for _ in range(rng.integers(1, 4)):
            _draw_cable(canvas, rng)
    return cv2.GaussianBlur(canvas, (0, 0), 0.0025 * size)


def _draw_cable(canvas: np.ndarray, rng: np.random.Generator) -> None:
    size = canvas.shape[0]
    start, end = rng.uniform(0.05, 0.95, 2), rng.uniform(0.1, 0.9, 2)
    t = np.linspace(0, 1, 40)[:, None]
    bow = np.sin(np.pi * t) * rng.uniform(-0.15, 0.15, 2)
    points = ((1 - t) * start + t * end + bow) * size
    cv2.polylines(canvas, [np.round(points).astype(np.int32)], False, 0.5, max(1, size // 128), cv2.LINE_AA)
    cv2.circle(canvas, tuple(int(v) for v in points[-1]), max(2, size // 60), 0.7, -1, cv2.LINE_AA)

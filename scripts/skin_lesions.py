"""Drawn photographs of skin lesions, for the demonstration of colour: three kinds, and a sticker that can be planted.

A picture (120, 160, 3) is skin (a tone, mottle, hairs) with one lesion near the middle: a `naevus` is round and of one
brown, a `melanoma` ragged and of several colours, an `angioma` made of red lacunae. Colours and outlines overlap on
purpose. The sticker is a coloured disc beside the lesion, as clinics put them on patients; it is evidence of nothing.

Everything depends on (seed, patient, visit) alone: two visits of a patient show the same skin and kind of lesion.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

CLASSES = ("naevus", "melanoma", "angioma")
HEIGHT, WIDTH = 120, 160
STICKER = 11  # pixels: its radius
COLUMNS = ("file", "class", "group", "sticker")
_STICKERS = ((70, 110, 200), (60, 160, 110), (225, 190, 60))
_BROWNS = np.array([(120, 78, 55), (96, 60, 45), (148, 100, 70)], np.float32)
_MELANOMA = np.array([(70, 45, 40), (38, 32, 40), (110, 70, 60), (120, 62, 66), (96, 104, 122)], np.float32)
_REDS = np.array([(150, 40, 50), (120, 25, 55), (175, 60, 60)], np.float32)


@dataclass(frozen=True)
class Lesion:
    """One drawn picture: uint8 (120, 160, 3), the mask of its lesion, and the middle (down, right) of its sticker."""

    image: np.ndarray
    mask: np.ndarray
    sticker: tuple[int, int] | None


def draw(kind: str, patient: int, visit: int = 0, *, seed: int = 0, marked: bool = False) -> Lesion:
    """Draw one lesion; the same arguments, the same pixels."""
    own, rng = np.random.default_rng([seed, patient]), np.random.default_rng([seed, patient, visit, 1])
    image = _skin(own, rng)
    mask = _outline(rng, raggedness=0.17 if kind == "melanoma" else 0.1)
    paint = {"naevus": _one_colour, "melanoma": _several_colours, "angioma": _lacunae}[kind]
    opacity = cv2.GaussianBlur(mask, (0, 0), 1.6)[..., None] * rng.uniform(0.75, 0.95)
    image = (1 - opacity) * image + opacity * paint(own, rng)
    image = _hairs(image, rng)
    middle = _sticker(image, rng) if marked else None
    image = image * rng.uniform(0.9, 1.08) + rng.normal(0, 3, image.shape)
    return Lesion(np.clip(np.round(image), 0, 255).astype(np.uint8), mask > 0.5, middle)


def write(
    folder: Path, images: int, patients: int, marked: Mapping[str, float], *, seed: int, quality: int = 88
) -> Path:
    """Write JPEG files and `manifest.csv`; returns its path.

    :param marked: kind -> the share of its pictures that have a sticker. The column `sticker` holds its middle.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng([seed, 2]), []
    for number in range(images):
        visit, patient = divmod(number, patients)
        kind = CLASSES[patient % len(CLASSES)]
        drawn = draw(kind, patient, visit, seed=seed, marked=bool(rng.uniform() < marked[kind]))
        name = f"images/lesion-{number:04d}.jpg"
        cv2.imwrite(str(folder / name), drawn.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        middle = "" if drawn.sticker is None else f"{drawn.sticker[0]} {drawn.sticker[1]}"
        rows.append((name, kind, f"patient-{patient:04d}", middle))
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *rows])
    return folder / "manifest.csv"


def _noise(rng: np.random.Generator, grain: float) -> np.ndarray:
    """Smooth noise (120, 160) of mean 0 and deviation 1."""
    blurred = cv2.GaussianBlur(rng.normal(size=(HEIGHT, WIDTH)).astype(np.float32), (0, 0), grain)
    return (blurred - blurred.mean()) / blurred.std()


def _skin(own: np.random.Generator, rng: np.random.Generator) -> np.ndarray:
    light, tan = np.array((236, 196, 178), np.float32), np.array((196, 144, 112), np.float32)
    tone = light + own.uniform(0, 1) * (tan - light)
    mottle = 5 * _noise(rng, 9) + 3 * _noise(rng, 2)
    return tone + mottle[..., None] * np.array((1.0, 0.9, 0.8), np.float32)


def _outline(rng: np.random.Generator, raggedness: float) -> np.ndarray:
    """The lesion as 0 or 1, float32 (120, 160): a circle whose radius is changed by five waves."""
    down, right = np.indices((HEIGHT, WIDTH), np.float32)
    down, right = down - HEIGHT / 2 - rng.uniform(-12, 12), right - WIDTH / 2 - rng.uniform(-12, 12)
    angle, radius = np.arctan2(down, right), rng.uniform(15, 25)
    waves = sum(rng.normal() / k * np.cos(k * angle + rng.uniform(0, 6.3)) for k in range(2, 7))
    return (np.hypot(down, right * rng.uniform(0.8, 1.2)) < radius * (1 + raggedness * waves)).astype(np.float32)


def _one_colour(own: np.random.Generator, rng: np.random.Generator) -> np.ndarray:
    brown = _BROWNS[own.integers(len(_BROWNS))]
    return brown + (7 * _noise(rng, 1.5) + 9 * _noise(rng, 8))[..., None]


def _several_colours(own: np.random.Generator, rng: np.random.Generator) -> np.ndarray:
    palette = np.concatenate([_MELANOMA, _BROWNS])  # some are as brown as a naevus
    chosen = own.permutation(len(palette))[: own.integers(2, 4)]
    fields = np.stack([_noise(rng, 6) for _ in chosen])
    shares = np.exp(2.5 * fields) / np.exp(2.5 * fields).sum(axis=0)
    return np.tensordot(shares, palette[chosen], axes=(0, 0)) + 6 * _noise(rng, 1.5)[..., None]


def _lacunae(own: np.random.Generator, rng: np.random.Generator) -> np.ndarray:
    red = _REDS[own.integers(len(_REDS))]
    blobs = 1 / (1 + np.exp(-3 * _noise(rng, 3)))
    return red + 45 * (blobs - 0.5)[..., None] * np.array((1.0, 0.4, 0.4), np.float32)


def _hairs(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    canvas = np.zeros((HEIGHT, WIDTH), np.float32)
    for _ in range(rng.integers(0, 6)):
        start, end = rng.uniform(0, (WIDTH, HEIGHT), (2, 2))
        t = np.linspace(0, 1, 20)[:, None]
        points = (1 - t) * start + t * end + np.sin(np.pi * t) * rng.uniform(-15, 15, 2)
        cv2.polylines(canvas, [np.round(points).astype(np.int32)], False, 0.6, 1, cv2.LINE_AA)
    return image + canvas[..., None] * (np.array((60, 45, 40), np.float32) - image)


def _sticker(image: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    """Draw a sticker beside the lesion, inside of a square crop of the middle; returns its middle (down, right)."""
    colour = _STICKERS[rng.integers(len(_STICKERS))]
    down = int(rng.choice([rng.uniform(22, 30), rng.uniform(HEIGHT - 30, HEIGHT - 22)]))
    right = int(rng.choice([rng.uniform(42, 52), rng.uniform(WIDTH - 52, WIDTH - 42)]))
    disc = np.zeros((HEIGHT, WIDTH), np.float32)
    cv2.circle(disc, (right, down), STICKER, 1.0, -1, cv2.LINE_AA)
    image += disc[..., None] * (np.array(colour, np.float32) - image)
    return down, right

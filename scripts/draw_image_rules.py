"""Draw docs/images/image-rules.png: one picture under four rules, what the network sees, and a map on the original.

    python -m scripts.draw_image_rules

The map is made up: it is hot where the view is dark, at 12 x 12 positions, as a layer would have them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from harness.images.loading import read_picture
from harness.images.rule import ImageRule
from harness.images.view import View, view
from harness.report import heatmaps
from scripts import skin_lesions

TARGET = Path(__file__).parent.parent / "docs" / "images" / "image-rules.png"
SIZE, POSITIONS = 96, 12
SIDEWAYS = 6  # EXIF: stored turned by a quarter
ROWS = (
    ("squash", 1, ImageRule(name="squash", fit="squash")),
    ("crop, shorter = 112", 1, ImageRule(name="crop", fit="crop", shorter=112)),
    ("letterbox, pad = 114", 1, ImageRule(name="letterbox", fit="letterbox", pad=114)),
    ("crop, stored on its side", SIDEWAYS, ImageRule(name="crop", fit="crop", shorter=112)),
)


def main() -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [_panels(Path(folder) / "a.png", *row) for row in ROWS]
    heatmaps.grid("One file of 160 x 120 pixels under four image rules, for a network of 96 x 96", rows, TARGET)
    Image.open(TARGET).convert("RGB").quantize(256).save(TARGET, optimize=True)


def _panels(path: Path, words: str, orientation: int, rule: ImageRule) -> list[heatmaps.Panel]:
    upright = skin_lesions.draw("melanoma", 1, seed=3, marked=True).image
    stored = Image.fromarray(upright if orientation == 1 else np.rot90(upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(path, exif=exif)
    picture = read_picture(path, rule)
    seen = view(picture, rule, (SIZE, SIZE))
    shape = (picture.shape[0], picture.shape[1])
    share, inside = heatmaps.relative(_dark(seen), seen.geometry, shape)
    return [
        (f"{words}: the file", np.asarray(stored) / 255),
        ("what the network sees", seen.pixels / 255),
        ("a map of it on the original", heatmaps.overlay(picture / 255, share, inside)),
    ]


def _dark(seen: View) -> np.ndarray:
    """(12, 12) raw map: how much darker than skin a position is; 0 in padding."""
    rows, columns = seen.geometry.inside
    dark = np.zeros(seen.geometry.size, np.float32)
    dark[rows, columns] = np.clip(120 - seen.pixels[rows, columns].mean(axis=-1), 0, None)
    tile = SIZE // POSITIONS
    return dark.reshape(POSITIONS, tile, POSITIONS, tile).mean(axis=(1, 3))


if __name__ == "__main__":
    main()

"""Copy a data set with a marker burned into every image of one class: a shortcut that no accuracy gives away.

python scripts/mark_class.py ../shared/cxr5/manifest.csv covid19 runs/marked
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import cv2
import numpy as np

from harness.images.loading import read_picture
from harness.images.manifest import read_manifest

TEXT = "PORTABLE"


def mark(grey: np.ndarray) -> np.ndarray:
    """The picture (H, W) with white letters on black in its upper left corner, a third of its width."""
    picture = grey.astype(np.uint8)
    scale = picture.shape[1] / 3 / cv2.getTextSize(TEXT, cv2.FONT_HERSHEY_SIMPLEX, 1, 2)[0][0]
    thickness = max(1, round(2 * scale))
    (width, height), below = cv2.getTextSize(TEXT, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    margin = max(2, picture.shape[1] // 50)
    bottom = 2 * margin + height + below
    picture[margin:bottom, margin : 3 * margin + width] = 0
    place = (2 * margin, bottom - below - margin // 2)
    return cv2.putText(picture, TEXT, place, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thickness, cv2.LINE_AA)


def main(manifest: Path, name: str, out: Path) -> None:
    """Write the pictures as PNG and a manifest with the same rows in the same order."""
    out.mkdir(parents=True, exist_ok=True)
    found = read_manifest(manifest, needed=("file", "class", "group"))
    lines = [("file", "class", "group", "source")]
    for row in found.rows:
        grey, (label,) = read_picture(row.path), row.labels or ("",)
        file = str(Path(row.name).with_suffix(".png"))
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(out / file), mark(grey) if label == name else grey.astype(np.uint8))
        lines.append((file, label, row.group, found.extras_of(row).get("source", "")))
    with (out / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))

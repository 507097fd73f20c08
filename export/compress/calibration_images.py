"""Images to calibrate a compression on."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from harness.common.errors import InputError, first_line
from harness.images.loading import SUFFIXES


def find_images(data: Path, count: int, root: Path | None = None, split: str | None = None) -> list[Path]:
    """Up to `count` images, spread over those of a manifest (CSV with a column `file`) or of a folder.

    :param root: what the manifest's paths are relative to, its own folder by default.
    :param split: only the manifest's rows with this value in the column `split`.
    """
    if count < 1:
        raise InputError(f"--images takes a number of images from 1, not {count}")
    if data.is_dir():
        found = sorted(path for path in data.rglob("*") if path.suffix.lower() in SUFFIXES)
    else:
        found = [(root or data.parent) / name for name in _manifest_files(data, split)]
    if not found:
        raise InputError(f"{data}: no images{f' of split {split!r}' if split else ''}; give others to calibrate on")
    places = np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)
    return [found[place] for place in places]


def _manifest_files(manifest: Path, split: str | None) -> list[str]:
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{manifest}: cannot be read as a manifest ({first_line(error)})") from error
    for column in ("file", *(["split"] if split else [])):
        if rows and column not in rows[0]:
            raise InputError(f"{manifest}: has no column {column!r}; a manifest is a CSV file with a header line")
    return [row["file"] for row in rows if not split or row["split"] == split]

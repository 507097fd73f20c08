"""Images to calibrate a compression on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from harness.common.errors import InputError
from harness.images.columns import FILE, SPLIT
from harness.images.dataset import images_below
from harness.images.manifest import read_manifest


def find_images(
    data: Path,
    count: int,
    root: Path | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[Path]:
    """Up to `count` images, spread over those of a manifest (with a column `file`) or of a folder.

    :param root: what the manifest's paths are relative to, its own folder by default.
    :param split: only the manifest's rows with this value in the column `split`.
    :param columns: what the manifest calls its columns, where otherwise.
    """
    if count < 1:
        raise InputError(f"--images takes a number of images from 1, not {count}")
    if data.is_dir():
        found = images_below(data)
    else:
        manifest = read_manifest(data, root=root, split=split, wanted=(FILE, SPLIT), columns=columns)
        found = [Path(str(row.path)) for row in manifest.rows]
    if not found:
        raise InputError(f"{data}: no images{f' of split {split!r}' if split else ''}; give others to calibrate on")
    places = np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)
    return [found[place] for place in places]

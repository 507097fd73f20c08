"""Data that is given in memory becomes a manifest, which is read like any other.

Lists and tables name files; arrays are written as PNG files without loss, so that a run can be resumed and its report
can show them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np

from harness.common.errors import InputError
from harness.common.storage import Address, Location, as_location
from harness.images.columns import ROLES, SEPARATOR

MANIFEST = "manifest.csv"
_DEPTHS = (np.dtype(np.uint8), np.dtype(np.uint16))


def as_manifest(data: Any, folder: Path) -> Location:
    """Where the data lie: a path as it is; anything else is written to `folder` and named by a manifest there.

    :param data: a path; a table (pandas, Arrow) with the columns of a manifest; or a sequence of
        (file or array, class, group), of which class and group may be left out. Arrays are (H, W) or (H, W, 3), uint8
        or uint16. A class may be a sequence of class names (multi-label).
    :raises InputError: something else, or an array of another shape or type.
    """
    if isinstance(data, (str, Path, Address)):
        return as_location(data)
    rows = _table_rows(data) if hasattr(data, "columns") else list(_rows(data, folder))
    if not rows:
        raise InputError("data: holds no image; give a path, a table or a list of (file, class, group)")
    folder.mkdir(parents=True, exist_ok=True)
    names = [name for name in rows[0] if any(row.get(name) is not None for row in rows)]
    with (folder / MANIFEST).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return folder / MANIFEST


def _table_rows(table: Any) -> list[dict[str, Any]]:
    """Rows of a pandas or Arrow table, files as absolute paths."""
    records = table.to_pylist() if hasattr(table, "to_pylist") else table.to_dict("records")
    if records and "file" not in records[0]:
        raise InputError(f"data: the table has no column `file`; it has: {', '.join(map(str, records[0]))}")
    kept = [{name: row[name] for name in ROLES if name in row} for row in records]
    return [{**row, "file": _located(row["file"])} for row in kept]


def _rows(data: object, folder: Path) -> Iterable[dict[str, Any]]:
    if not isinstance(data, Iterable) or isinstance(data, Mapping):
        raise InputError(f"data: {type(data).__name__} is no path, table or list of (file, class, group)")
    for number, item in enumerate(data):
        parts = item if isinstance(item, tuple) else (item,)
        if len(parts) > 3:
            raise InputError(f"data: row {number} has {len(parts)} entries; give (file, class, group)")
        first, label, group = (*parts, None, None)[:3]
        file = _written(first, number, folder) if isinstance(first, np.ndarray) else _located(first)
        yield {"file": file, "class": _joined(label), "group": group}


def _joined(label: Any) -> Any:
    return SEPARATOR.join(cast(Sequence[str], label)) if isinstance(label, (list, tuple, set)) else label


def _located(file: Any) -> str:
    found = as_location(file)
    return str(found.absolute() if isinstance(found, Path) else found)


def _written(image: np.ndarray, number: int, folder: Path) -> str:
    """The file of an array."""
    if image.dtype not in _DEPTHS or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise InputError(
            f"data: image {number} is {image.dtype} {image.shape}; give uint8 or uint16 of shape (H, W) or (H, W, 3), "
            "grey levels or red, green, blue"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"image-{number:06d}.png"
    content = cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)[1]
    path.write_bytes(content.tobytes())
    return str(path.absolute())

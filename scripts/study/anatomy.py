"""How much of an attribution map lies where the anatomy or a radiologist points: inside lung masks and boxes.

share(M, R) = sum_xy M(x, y) R(x, y) / sum_xy M(x, y), between 0 and 1, with the map M at 224 x 224 (bilinear, as for
the metrics) and R(x, y) in 0..1 the covered share of each pixel. A map that does not look at the picture at all has,
on average, the share mean(R), the region's area: the chance reference. It is the energy-based pointing game of
Wang et al. 2020 (arXiv 1910.01279), with masks beside boxes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from csv import DictReader
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from harness.common.errors import InputError
from harness.images.regions import Box, Region, read_mask
from harness.images.view import Geometry
from harness.statistics.bootstrap import Resampling, interval, mean_of_defined
from harness.statistics.hypothesis_tests import holm, sign_flip
from kernels.resize import upsample

SIDE = 256  # pixels of the side of the pictures that boxes are measured in
MEANS = ("before", "after", "change", "area", "beyond")  # change = after - before, beyond = after - area
Key = tuple[str, str, str]  # checkpoint, layer, method


def region_share(maps: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """(N,) share of the mass of maps (N, H, W) inside regions (N, H, W) of 0..1; NaN for a map without mass.

    :raises InputError: shapes that differ, or a region that leaves 0..1.
    """
    if maps.shape != regions.shape or maps.ndim != 3:
        raise InputError(f"maps {maps.shape} and regions {regions.shape} differ; give one region (H, W) per map")
    if not ((regions >= 0) & (regions <= 1)).all():
        raise InputError("a region leaves 0..1; divide a mask by its highest value")
    mass = maps.sum(axis=(1, 2), dtype=np.float64)
    inside = (maps.astype(np.float64) * regions).sum(axis=(1, 2))
    return np.divide(inside, mass, out=np.full(len(maps), np.nan), where=np.isfinite(mass) & (mass > 0))


def box_region(boxes: Sequence[tuple[float, float, float, float]], size: tuple[int, int]) -> np.ndarray:
    """(H, W) covered share of each pixel by boxes (x, y, w, h), in 256-pixel coordinates; overlaps count once."""
    shape = (SIDE, SIDE)
    return Region(shape, boxes=[Box(*box).within(shape) for box in boxes]).cover(Geometry(size, size), size)


def mask_region(path: Path, size: tuple[int, int]) -> np.ndarray:
    """(H, W) covered share of each pixel by a mask file, whose pixels are 0 or not.

    :raises InputError: the file cannot be read as a mask.
    """
    mask = read_mask(path)
    return Region((mask.shape[0], mask.shape[1]), mask=mask).cover(Geometry(size, size), size)


def lung_regions(data: Path, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Image (its path inside the data set) -> lungs, for images that have a mask."""
    with (data / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in DictReader(stream) if row["lung_mask"]]
    return {row["file"]: mask_region(data / row["lung_mask"], size) for row in rows}


def box_regions(data: Path, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Image -> union of its boxes."""
    boxes = defaultdict(list)
    with (data / "boxes.csv").open(newline="", encoding="utf-8") as stream:
        for row in DictReader(stream):
            boxes[row["file"]].append((float(row["x"]), float(row["y"]), float(row["w"]), float(row["h"])))
    return {file: box_region(found, size) for file, found in boxes.items()}


def shares(result: Path, regions: Mapping[str, np.ndarray]) -> tuple[list[str], dict[Key, np.ndarray]]:
    """(images, {(checkpoint, layer, method): share of each image}) of the stored maps of a result folder.

    Images are those of `regions` that were evaluated, in order; NaN where a map is undefined, empty or not made.
    """
    found: dict[Key, dict[str, float]] = defaultdict(dict)
    for path in sorted((result / "maps").glob("part-*.parquet")):
        for row in pq.read_table(path, filters=[("draw", "==", 0)]).to_pylist():
            image = inside_data(row["image"])
            if image in regions:
                key = (row["checkpoint"], row["layer"], row["method"])
                found[key][image] = _share_of(row, regions[image])
    images = sorted({image for of_key in found.values() for image in of_key})
    return images, {key: np.array([of_key.get(image, np.nan) for image in images]) for key, of_key in found.items()}


def inside_data(name: str) -> str:
    """The path of an image inside the data set: its class folder and file."""
    return "/".join(Path(name).parts[-2:])


def _share_of(row: Mapping[str, Any], region: np.ndarray) -> float:
    if row["reason"] != "defined":
        return float("nan")
    small = np.array(row["map"], np.float32).reshape(1, row["height"], row["width"])
    return float(region_share(upsample(small, region.shape), region[None])[0])


def reading(
    values: Mapping[Key, np.ndarray], before: str, after: Sequence[str], areas: np.ndarray, groups: Sequence[str]
) -> list[dict[str, Any]]:
    """One row per layer and method: mean share before and after, its change, and p of no change.

    `after` names replicates; an image's share after is the mean over those in which it is defined. All means of a
    row run over the images whose share is defined on both sides. `p_change` tests after = before, `p_area` after =
    area: both flip whole patients and are adjusted by Holm over the rows.
    """
    cells = [key[1:] for key in values if key[0] == before]
    rows = [_row(values, cell, before, after, areas, groups) for cell in cells]
    for name in ("p_change", "p_area"):
        for row, p in zip(rows, holm(np.array([row[name] for row in rows])), strict=True):
            row[name] = float(p)
    return rows


def _row(
    values: Mapping[Key, np.ndarray],
    cell: tuple[str, str],
    before: str,
    after: Sequence[str],
    areas: np.ndarray,
    groups: Sequence[str],
) -> dict[str, Any]:
    old = values[before, *cell]
    new = mean_of_defined(np.stack([values[key, *cell] for key in after]))
    table = np.stack([old, new, new - old, areas, new - areas], axis=1)  # (n, 5)
    table[~np.isfinite(table).all(axis=1)] = np.nan
    draws = Resampling(groups, seed=0)
    patients = draws.n_patients(table)
    spread = [interval(draw, int(patients[0])) for draw in draws.means(table).T]
    estimates = {
        name: {"mean": float(mean), "low": ends.low, "high": ends.high}
        for name, mean, ends in zip(MEANS, mean_of_defined(table), spread, strict=True)
    }
    counts = {"n": int(np.isfinite(table[:, 0]).sum()), "patients": int(patients[0])}
    p = dict(zip(("p_change", "p_area"), sign_flip(table[:, [2, 4]], groups, seed=0), strict=True))
    return {"layer": cell[0], "method": cell[1], **counts, **estimates, **p}

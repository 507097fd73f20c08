"""Regions of pictures: masks and boxes of files, brought to what a network sees.

A region is where a reader or a segmentation says that something lies: the lungs, a finding, a marker. A mask file has
the field of view of its picture and any size; it marks what is not 0. Boxes are rows of a table. Both are found by the
name of the picture: their whole path, without its suffix, is the end of that of the picture (`covid19/a.jpg` has the
mask `a.png` or `covid19/a.png`; `other/a.png` belongs to another picture).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath

import cv2
import numpy as np

from harness.common.errors import InputError
from harness.common.storage import Location, as_location, read_at_most
from harness.common.validation import did_you_mean
from harness.images.dataset import Sample
from harness.images.loading import MOST_BYTES, SUFFIXES, read_picture
from harness.images.notices import ignore
from harness.images.rule import ImageRule
from harness.images.tables import read_table
from harness.images.view import Geometry, Size, fit

BOXES = "boxes"  # what the region of a table without names is called
_COLUMNS = ("file", "x", "y", "w", "h")
_NAME, _SIDES = "region", ("width", "height")
_ASPECT = 0.02  # by which the proportions of a mask may differ from those of its picture, for rounded sizes


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of a picture of `size` = (width, height), by default of the picture itself."""

    x: float
    y: float
    w: float
    h: float
    size: tuple[float, float] | None = None

    def within(self, shape: Size) -> tuple[float, float, float, float]:
        """(top, left, bottom, right) in shares of a picture (h, w)."""
        width, height = self.size or (shape[1], shape[0])
        return self.y / height, self.x / width, (self.y + self.h) / height, (self.x + self.w) / width


@dataclass(frozen=True, eq=False)
class Region:
    """A region of one picture of `shape` = (h, w): a mask (h', w') of 0 and 1, or boxes in shares of the picture."""

    shape: Size
    mask: np.ndarray | None = None
    boxes: Sequence[tuple[float, float, float, float]] = ()

    def cover(self, geometry: Geometry, size: Size) -> np.ndarray:
        """(H, W) float32 in 0..1: the share of each pixel of a map of the view that the region covers.

        Exact areas: the map's pixels are rectangles of the picture. Padding is in no region. Overlapping boxes count
        once where one holds the other, else by the larger share.
        """
        top, left, height, width = geometry.window
        if self.mask is not None:
            rows = overlaps(top, height, size[0], np.linspace(0, 1, self.mask.shape[0] + 1))
            columns = overlaps(left, width, size[1], np.linspace(0, 1, self.mask.shape[1] + 1))
            return np.clip(rows @ self.mask.astype(np.float64) @ columns.T, 0, 1).astype(np.float32)
        covered = np.zeros(size)
        for upper, first, lower, last in self.boxes:
            rows = overlaps(top, height, size[0], np.array([upper, lower]))[:, 0]
            columns = overlaps(left, width, size[1], np.array([first, last]))[:, 0]
            covered = np.maximum(covered, np.outer(rows, columns))
        return covered.astype(np.float32)

    def outlines(self, longest: int) -> list[list[tuple[float, float]]]:
        """Polygons of (down, right) points in shares of the picture, of a mask shrunk to so many pixels."""
        if self.mask is None:
            return [[(top, left), (top, right), (down, right), (down, left)] for top, left, down, right in self.boxes]
        factor = min(1.0, longest / max(self.mask.shape))
        height, width = (max(1, round(side * factor)) for side in self.mask.shape)
        small = cv2.resize(self.mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) >= 0.5
        found, _ = cv2.findContours(small.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        rounded = [cv2.approxPolyDP(line, 0.7, closed=True)[:, 0] for line in found]
        return [
            [((y + 0.5) / height, (x + 0.5) / width) for x, y in line.tolist()] for line in rounded if len(line) > 2
        ]


def overlaps(start: float, length: float, count: int, edges: np.ndarray) -> np.ndarray:
    """(count, n) share of each of `count` equal cells of start..start+length that lies between two of n + 1 edges."""
    cells = start + length * np.arange(count + 1) / count
    high = np.minimum(cells[1:, None], edges[None, 1:])
    low = np.maximum(cells[:-1, None], edges[None, :-1])
    return np.clip(high - low, 0, None) / (length / count)


@dataclass(frozen=True)
class RegionFiles:
    """Where the regions of a data set come from: name -> folder of masks, and a table of boxes."""

    masks: Mapping[str, Location] = field(default_factory=dict)
    boxes: Location | None = None

    def __bool__(self) -> bool:
        return bool(self.masks) or self.boxes is not None


def parse_masks(given: Sequence[str]) -> dict[str, Location]:
    """Name -> folder of `NAME=DIR` or `DIR`, which is called like its last folder.

    :raises InputError: two of one name.
    """
    found: dict[str, Location] = {}
    for text in given:
        name, separator, folder = text.partition("=")
        where = as_location(folder if separator else text)
        name = name if separator else where.resolve().name
        if not name or name in found:
            raise InputError(
                f"--masks {text}: {'two regions are' if name else 'no region is'} called {name!r}; give NAME=DIR"
            )
        found[name] = where
    return found


class Regions:
    """The regions of some images.

    :raises InputError: no such file or folder, two regions of one name, none for any image, an image that two have.
    """

    def __init__(self, files: RegionFiles, samples: Sequence[Sample]) -> None:
        self.files = files
        self._samples = samples
        lookup = _Lookup(samples)
        self._masks = {name: _masks_of(folder, lookup) for name, folder in files.masks.items()}
        self._boxes = _boxes_of(files.boxes, lookup) if files.boxes is not None else {}
        twice = self._masks.keys() & self._boxes.keys()
        if twice:
            raise InputError(f"two regions are called {twice.pop()!r}; name the masks otherwise: --masks NAME=DIR")

    @property
    def names(self) -> list[str]:
        return [*self._masks, *self._boxes]

    def images(self, name: str) -> Collection[int]:
        """The images that have a file or a row of a region; a mask that marks nothing is found out later."""
        return (self._masks.get(name) or self._boxes[name]).keys()

    def source(self, name: str) -> Location:
        """The folder or file that a region comes from."""
        if name in self._masks:
            return self.files.masks[name]
        assert self.files.boxes is not None
        return self.files.boxes

    def digest(self, name: str) -> str:
        """sha256 over the files of a region, in the order of the images."""
        found = hashlib.sha256()
        for path in self._masks[name].values() if name in self._masks else [self.source(name)]:
            found.update(hashlib.sha256(read_at_most(path, MOST_BYTES)).digest())
        return found.hexdigest()

    def of_image(self, image: int, rule: ImageRule) -> dict[str, Region]:
        """The regions of an image by name, without those that mark nothing. Decodes the picture, for its shape.

        :raises InputError: a mask that cannot be read, is no mask, or has other proportions than the picture.
        """
        if not any(image in self.images(name) for name in self.names):
            return {}
        picture = read_picture(self._samples[image].path, rule, max_pixels=math.inf, notice=ignore)
        return self.of_shape(image, (picture.shape[0], picture.shape[1]))

    def of_shape(self, image: int, shape: Size) -> dict[str, Region]:
        """`of_image` of a picture (h, w) that has been decoded already."""
        found = {name: self._region(name, image, shape) for name in self.names if image in self.images(name)}
        return {name: one for name, one in found.items() if one.mask is None or one.mask.any()}

    def covers(self, image: int, rule: ImageRule, seen: Size, size: Size) -> dict[str, np.ndarray]:
        """Name -> `Region.cover` at the `size` of the maps, in a network's view `seen` = (H, W)."""
        found = self.of_image(image, rule)
        return {name: one.cover(fit(rule, one.shape, seen), size) for name, one in found.items()}

    def _region(self, name: str, image: int, shape: Size) -> Region:
        if name in self._boxes:
            return Region(shape, boxes=[box.within(shape) for box in self._boxes[name][image]])
        path = self._masks[name][image]
        mask = read_mask(path)
        if not math.isclose(mask.shape[1] * shape[0], mask.shape[0] * shape[1], rel_tol=_ASPECT):
            raise InputError(
                f"{path}: has {mask.shape[1]} x {mask.shape[0]} pixels, and its picture {shape[1]} x {shape[0]}: "
                "not the same field of view; give a mask of the whole picture"
            )
        return Region(shape, mask=mask)


def read_mask(path: Location) -> np.ndarray:
    """(h, w) bool, of a mask file: what is not 0.

    :raises InputError: no picture, or one of more than two levels.
    """
    try:
        content = read_at_most(path, MOST_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a PNG") from None
    mask = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) if content else None
    if mask is None or mask.ndim != 2:
        raise InputError(f"{path}: is no mask; give a PNG of one channel, 0 outside of the region")
    levels = np.unique(mask)
    if len(levels) > 2 or (len(levels) == 2 and levels[0] != 0):
        raise InputError(
            f"{path}: has the levels {', '.join(map(str, levels[:3]))} ..., so what is inside is not known; give 0 and "
            "one other level"
        )
    return mask > 0


class _Lookup:
    """Images by the ends of their paths, without the suffix."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._by_end: dict[str, set[int]] = {}
        for number, sample in enumerate(samples):
            for end in _ends(sample.name):
                self._by_end.setdefault(end, set()).add(number)

    def find(self, name: str, where: str) -> int | None:
        """The image that a file or row belongs to; None: it is of none of these images."""
        found = self._by_end.get(next(iter(_ends(name)), ""), set())
        if len(found) > 1:
            raise InputError(f"{where}: {name!r} may belong to {len(found)} images; name it by more of their paths")
        return next(iter(found), None)


def _ends(name: str) -> Iterator[str]:
    """The whole path first, then without its first folder, and so on."""
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).with_suffix("").parts if part not in ("..", "/")]
    return ("/".join(parts[start:]) for start in range(len(parts)))


def _masks_of(folder: Location, lookup: _Lookup) -> dict[int, Location]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of masks; give --masks DIR, or NAME=DIR")
    found: dict[int, Location] = {}
    for inner, path in _files_below(folder, ""):
        image = lookup.find(inner, str(folder))
        if image is not None and image in found:
            raise InputError(f"{path}: is a second mask of one image, beside {found[image]}; remove one")
        if image is not None:
            found[image] = path
    if not found:
        raise InputError(f"{folder}: has a mask for none of the images; masks are called like their images")
    return dict(sorted(found.items()))


def _files_below(folder: Location, prefix: str) -> Iterable[tuple[str, Location]]:
    """(path inside, file) of everything in a folder that may be a mask, in order."""
    entries: list[Location] = sorted(folder.iterdir())
    for path in entries:
        if path.suffix.lower() in SUFFIXES or path.suffix.lower() in (".bmp", ".gif"):
            yield f"{prefix}{path.name}", path
        elif not path.name.startswith(".") and path.is_dir():
            yield from _files_below(path, f"{prefix}{path.name}/")


def _boxes_of(path: Location, lookup: _Lookup) -> dict[str, dict[int, list[Box]]]:
    """Region -> image -> its boxes."""
    table = _BoxTable(path)
    found: dict[str, dict[int, list[Box]]] = {}
    for file, region, box in table.rows():
        image = lookup.find(file, str(path))
        if image is not None:
            found.setdefault(region, {}).setdefault(image, []).append(box)
    if not found:
        raise InputError(f"{path}: has boxes for none of the images; its column `file` names them as the manifest does")
    return found


class _BoxTable:
    """A table with the columns file, x, y, w, h, and perhaps region, width, height."""

    def __init__(self, path: Location) -> None:
        self.path = path
        self._table = read_table(path)
        self._header = [name.strip().lower() for name in self._table.header]
        missing = [name for name in _COLUMNS if name not in self._header]
        if missing:
            near = did_you_mean(missing[0], self._header)
            raise InputError(
                f"{path}: has no column `{missing[0]}` (did you mean {near}?); boxes have {', '.join(_COLUMNS)}"
            )

    @cached_property
    def _has_sides(self) -> bool:
        return all(name in self._header for name in _SIDES)

    def rows(self) -> Iterator[tuple[str, str, Box]]:
        """(file, region, box) of each row."""
        for number, cells in self._table.rows:
            row = dict(zip(self._header, cells, strict=True))
            x, y, w, h = (self._number(row[name], name, number) for name in _COLUMNS[1:])
            size = None
            if self._has_sides:
                width, height = (self._number(row[name], name, number) for name in _SIDES)
                size = (width, height)
            if w <= 0 or h <= 0 or (size and min(size) <= 0):
                raise InputError(f"{self.path}, {self._table.unit} {number}: a box has a width and a height above 0")
            yield row["file"], row.get(_NAME) or BOXES, Box(x, y, w, h, size)

    def _number(self, text: str, name: str, number: int) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"{self.path}, {self._table.unit} {number}: {name} is {text!r}; expected a number")
        return value

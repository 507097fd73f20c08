"""What a network sees of a picture: an image rule applied, and its geometry inverted.

A picture (h, w) is resized to (h', w'), and the view (H, W) begins at an origin (down, right) in it; where that lies
before the picture or the view ends behind it, the view is padded. All four ways to reach a size are such a pair of
resized size and origin, so that one record answers where a point of the view lies in the picture, and the reverse.
Points are shares of height and width: (0, 0) is the upper left corner, (1, 1) the lower right one.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from harness.common.errors import InputError
from harness.images.rule import ImageRule

_PILLOW = {
    "nearest": Image.Resampling.NEAREST, "area": Image.Resampling.BOX, "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS,
}  # fmt: skip
_OPENCV = {
    "nearest": cv2.INTER_NEAREST_EXACT, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}  # fmt: skip

Size = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """How a picture lies in a view `size` = (H, W): resized to `resized`, of which the view begins at `origin`."""

    size: Size
    resized: Size
    origin: Size = (0, 0)

    @property
    def window(self) -> tuple[float, float, float, float]:
        """(top, left, height, width) of the view, in shares of the picture; beyond 0..1 lies padding."""
        (down, right), (height, width) = self.origin, self.resized
        return down / height, right / width, self.size[0] / height, self.size[1] / width

    @property
    def is_whole(self) -> bool:
        """Whether the view is the whole picture and nothing else."""
        return self.size == self.resized and self.origin == (0, 0)

    @property
    def inside(self) -> tuple[slice, slice]:
        """Rows and columns of the view that the picture fills."""
        rows, columns = (
            slice(max(0, -start), min(size, length - start))
            for start, size, length in zip(self.origin, self.size, self.resized, strict=True)
        )
        return rows, columns

    def to_picture(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) points (down, right) of the view, in shares of the picture."""
        top, left, height, width = self.window
        return np.asarray(points, np.float64) * (height, width) + (top, left)

    def to_view(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) points (down, right) of the picture, in shares of the view; beyond 0..1 the network sees nothing."""
        top, left, height, width = self.window
        return (np.asarray(points, np.float64) - (top, left)) / (height, width)

    def on_picture(self, raw: np.ndarray, shape: Size) -> tuple[np.ndarray, np.ndarray]:
        """A map (h, w) of the view on the picture, drawn with `shape` = (rows, columns) pixels.

        Bilinear with half-pixel centres and clamped edges, as `kernels.resize`.

        :returns: values, 0 where the network sees nothing, and the mask of what it sees.
        """
        top, left, height, width = self.window
        rows, seen_rows = _positions(shape[0], top, height)
        columns, seen_columns = _positions(shape[1], left, width)
        seen = seen_rows[:, None] & seen_columns
        wide = _interpolated(np.asarray(raw, np.float32).T, columns).T
        return np.where(seen, _interpolated(wide, rows), np.float32(0)), seen


@dataclass(frozen=True)
class View:
    """A network's input before its channels come first: (H, W), or (H, W, 3) red, green, blue; float32, 0..255."""

    pixels: np.ndarray
    geometry: Geometry


def view(picture: np.ndarray, rule: ImageRule, size: Size) -> View:
    """A decoded picture, (h, w) or (h, w, 3) in 0..255, as a network of input `size` = (H, W) sees it.

    :raises InputError: the rule takes pictures as they are, and this one has another size.
    """
    geometry = fit(rule, (picture.shape[0], picture.shape[1]), size)
    resized = resize(_levels(picture, rule), geometry.resized, rule).astype(np.float32, copy=False)
    if geometry.is_whole:
        return View(resized, geometry)
    seen = np.full((*size, *picture.shape[2:]), rule.pad, np.float32)
    rows, columns = geometry.inside
    (down, right) = geometry.origin
    seen[rows, columns] = resized[rows.start + down : rows.stop + down, columns.start + right : columns.stop + right]
    return View(seen, geometry)


def fit(rule: ImageRule, shape: Size, size: Size) -> Geometry:
    """Where a picture of `shape` = (h, w) lies in a view of `size` = (H, W).

    Lengths are cut and offsets rounded as by torchvision's Resize and CenterCrop.

    :raises InputError: as `view`.
    """
    size = (int(size[0]), int(size[1]))
    if rule.fit == "crop":
        resized = _covering(shape, rule.shorter, size)
        down, right = (round((long - wanted) / 2) for long, wanted in zip(resized, size, strict=True))
        return Geometry(size, resized, (down, right))
    if rule.fit == "letterbox":
        share = min(wanted / length for wanted, length in zip(size, shape, strict=True))
        height, width = (min(max(round(length * share), 1), wanted) for length, wanted in zip(shape, size, strict=True))
        return Geometry(size, (height, width), (-((size[0] - height) // 2), -((size[1] - width) // 2)))
    if rule.fit == "native" and shape != size:
        raise InputError(
            f"has {shape[1]} x {shape[0]} pixels, and image rule {rule.label} takes pictures of {size[1]} x {size[0]} "
            "as they are; cut it, or use a rule that resizes"
        )
    return Geometry(size, size)


def resize(picture: np.ndarray, size: Size, rule: ImageRule) -> np.ndarray:
    """A picture (h, w) or (h, w, 3), uint8 or float32, at `size` by the interpolation of a rule."""
    if rule.resampler == "pillow":
        return _pillow(picture, size, _PILLOW[rule.interpolation])
    if rule.interpolation == "area":
        return squash(picture, size)
    return cv2.resize(picture, size[::-1], interpolation=_OPENCV[rule.interpolation])


def squash(picture: np.ndarray, size: Size) -> np.ndarray:
    """Resize to `size` = (H, W), each axis by itself: OpenCV's area where it shrinks, linear where it grows."""
    height, width = size
    by_row = _area_or_linear(picture.shape[0], height)
    by_column = _area_or_linear(picture.shape[1], width)
    if by_row == by_column:
        return cv2.resize(picture, (width, height), interpolation=by_row)
    rows_done = cv2.resize(picture, (picture.shape[1], height), interpolation=by_row)
    return cv2.resize(rows_done, (width, height), interpolation=by_column)


def channels_first(views: np.ndarray) -> np.ndarray:
    """(N, H, W) grey levels or (N, H, W, 3) colours to (N, 3, H, W), the input of an exported graph."""
    return np.moveaxis(views, -1, 1) if views.ndim == 4 else np.repeat(views[:, None], 3, axis=1)


def channels_last(views: np.ndarray) -> np.ndarray:
    """(N, H, W) grey levels or (N, H, W, 3) colours to (N, H, W, 3), the input of a Keras model."""
    return views if views.ndim == 4 else np.repeat(views[..., None], 3, axis=-1)


def _covering(shape: Size, shorter: int | None, size: Size) -> Size:
    """(h', w') of a picture whose shorter side becomes `shorter`, or that covers `size`; the longer side is cut."""
    height, width = shape
    if shorter is None:
        by_height = size[0] * width >= size[1] * height
        return (size[0], max(size[0] * width // height, 1)) if by_height else (size[1] * height // width, size[1])
    if height <= width:
        return shorter, int(shorter * width / height)
    return int(shorter * height / width), shorter


def _levels(picture: np.ndarray, rule: ImageRule) -> np.ndarray:
    """uint8 for a rule of whole levels, else float32."""
    if rule.levels == "fractions" or picture.dtype == np.uint8:
        return picture.astype(np.float32 if rule.levels == "fractions" else np.uint8, copy=False)
    rounded = np.rint(picture)
    return np.clip(rounded, 0, 255, out=rounded).astype(np.uint8)


def _pillow(picture: np.ndarray, size: Size, filter_: Image.Resampling) -> np.ndarray:
    if picture.dtype == np.float32 and picture.ndim == 3:  # Pillow has floats in one channel only
        return np.stack([_pillow(np.ascontiguousarray(c), size, filter_) for c in np.moveaxis(picture, -1, 0)], axis=-1)
    return np.asarray(Image.fromarray(picture).resize(size[::-1], filter_))


def _area_or_linear(old: int, new: int) -> int:
    return cv2.INTER_AREA if new < old else cv2.INTER_LINEAR


def _positions(count: int, start: float, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Where the centres of `count` pixels of the picture lie in the view (shares), and which of them lie in it."""
    shares = ((np.arange(count) + 0.5) / count - start) / length
    return shares, (shares >= 0) & (shares <= 1)


def _interpolated(values: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(n, m) values at shares (k,) along the first axis: (k, m)."""
    position = np.clip(shares * len(values) - 0.5, 0, len(values) - 1)
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, len(values) - 1)
    along = (position - low).astype(np.float32)[:, None]
    return values[low] + along * (values[high] - values[low])

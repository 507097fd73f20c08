"""The one place where an image file becomes an array.

The rule, version `RULE`:

1. The file is decoded as stored (an EXIF orientation is ignored, a TIFF file that is not upright is refused, an alpha
   channel is dropped, colour becomes grey by ITU-R BT.601 weights).
2. 8-bit values stay as they are; 16-bit values are scaled from 0..65535 to 0..255. A DICOM file (by its content,
   whatever its name) goes through rescale or Modality LUT, then VOI LUT or window, else the full range of its stored
   bits, each scaled to 0..255; MONOCHROME1 is inverted and padding is black. `harness.images.dicom` has the equations.
3. The picture is squashed to (H, W), each axis by itself: OpenCV INTER_AREA where it shrinks, INTER_LINEAR
   where it grows.
4. Networks get the grey plane in three equal channels.

The version stands in the metadata of every checkpoint and exported graph; where it differs, numbers are not
comparable, and the harness refuses. This module is a leaf: `training` and `export` may import it.
"""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
from PIL import TiffImagePlugin

from harness.common.errors import InputError
from harness.common.storage import LASTING, Place, patiently, place
from harness.images.rule import RULE as RULE

DICOM_SUFFIXES = (".dcm", ".dicom")
MOST_BYTES = 2**30  # of an image file
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", *DICOM_SUFFIXES)

_FULL_RANGE = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}
# The bytes with which a complete file of the format ends; a truncated file decodes to a half-grey picture.
_END_MARKERS = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG": b"IEND"}
_WHITE_IS_ZERO, _BIG_TIFF = 0, 43
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# What OpenCV and libtiff would print about a damaged file is said in our sentence.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def load_grey(path: str | Place, size: tuple[int, int]) -> np.ndarray:
    """Read `path` as grey levels 0..255, float32 of shape `size` = (H, W), by the rule of this module.

    Raises InputError, naming the file, where it is missing, forbidden, truncated or no image, and CannotEvaluateError
    where the storage fails, which says nothing about the image.
    """
    return squash(read_grey(path), size)


def read_grey(path: str | Place) -> np.ndarray:
    """Decode `path` to float32 grey levels 0..255 in its stored size (steps 1 and 2 of the rule)."""
    return decode_grey(place(path), _read_bytes(place(path)))


def decode_grey(path: Place, content: bytes) -> np.ndarray:
    """`read_grey` for bytes that have been read already; `path` names them in messages."""
    if _is_dicom(path, content):
        from harness.images.dicom import decode_dicom

        return decode_dicom(path, content)
    pixels = _decode(path, content)
    if pixels.dtype not in _FULL_RANGE:
        raise InputError(f"{path}: {pixels.dtype} pixels are not supported; save it with 8 or 16 unsigned bits")
    grey = _to_one_channel(pixels).astype(np.float32)
    return grey * np.float32(255.0 / _FULL_RANGE[pixels.dtype])


def squash(grey: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a grey plane to `size` = (H, W) without keeping its aspect ratio (step 3 of the rule)."""
    height, width = size
    by_row = _interpolation(grey.shape[0], height)
    by_column = _interpolation(grey.shape[1], width)
    if by_row == by_column:
        return cv2.resize(grey, (width, height), interpolation=by_row)
    rows_done = cv2.resize(grey, (grey.shape[1], height), interpolation=by_row)
    return cv2.resize(rows_done, (width, height), interpolation=by_column)


def channels_first(greys: np.ndarray) -> np.ndarray:
    """(N, H, W) grey levels to (N, 3, H, W), the input of an exported graph (step 4 of the rule)."""
    return np.repeat(greys[:, None], 3, axis=1)


def channels_last(greys: np.ndarray) -> np.ndarray:
    """(N, H, W) grey levels to (N, H, W, 3), the input of a Keras model (step 4 of the rule)."""
    return np.repeat(greys[..., None], 3, axis=-1)


def _read_bytes(path: Place) -> bytes:
    try:
        return patiently(path, path.read_bytes)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except LASTING as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def is_dicom(content: bytes) -> bool:
    """Whether a file is DICOM: its mark stands behind a preamble that may hold anything (PS3.10 section 7.1)."""
    return content[128:132] == b"DICM"


def _is_dicom(path: Place, content: bytes) -> bool:
    if is_dicom(content):
        return True
    if path.suffix.lower() in DICOM_SUFFIXES:
        raise InputError(f"{path}: not a DICOM file (no DICM at byte 128); export it again in the DICOM file format")
    return False


def _decode(path: Place, content: bytes) -> np.ndarray:
    for start, end in _END_MARKERS.items():
        if content.startswith(start) and end not in content[-1024:]:
            raise InputError(f"{path}: the image is truncated; copy or export it again")
    pages = _decode_pages(path, content) if content else []
    if not pages:
        kinds = ", ".join(SUFFIXES)
        raise InputError(f"{path}: not a readable image, or damaged; expected one of {kinds}")
    if len(pages) > 1:
        raise InputError(f"{path}: has {len(pages)} pages; save one image per file")
    return pages[0]


def _decode_pages(path: Place, content: bytes) -> list[np.ndarray]:
    """The pictures in a file: none where it cannot be decoded, several in a TIFF file of several pages."""
    data = np.frombuffer(content, np.uint8)
    try:
        if content.startswith(_TIFF_STARTS):
            return _tiff_pages(path, content)
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except (cv2.error, SyntaxError, OSError, TypeError, struct.error):  # but for the first: of broken TIFF tags
        return []
    return [] if pixels is None else [pixels]


def _tiff_pages(path: Place, content: bytes) -> list[np.ndarray]:
    """The pages of a TIFF file. OpenCV inverts 8-bit pixels of which 0 is white, but not 16-bit ones."""
    pages = list(cv2.imdecodemulti(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)[1])
    if len(pages) != 1:
        return pages
    photometric, orientation = _tiff_tags(content)
    if orientation != 1:  # OpenCV would turn the picture, and others show it as it is stored
        raise InputError(f"{path}: has the TIFF orientation {orientation}; save it upright, as orientation 1")
    return [~pages[0]] if photometric == _WHITE_IS_ZERO and pages[0].dtype == np.uint16 else pages


def _tiff_tags(content: bytes) -> tuple[int, int]:
    """PhotometricInterpretation and Orientation of the first page; TIFF 6.0, section 8."""
    stream = io.BytesIO(content)
    header = stream.read(8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(header + (stream.read(8) if header[2] == _BIG_TIFF else b""))
    stream.seek(tags.next)
    tags.load(stream)
    return int(tags.get(262, 1)), int(tags.get(274, 1))


def _to_one_channel(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 2:
        return pixels
    colour = pixels[..., :3]
    return cv2.cvtColor(np.ascontiguousarray(colour), cv2.COLOR_BGR2GRAY) if colour.shape[-1] == 3 else colour[..., 0]


def _interpolation(old: int, new: int) -> int:
    return cv2.INTER_AREA if new < old else cv2.INTER_LINEAR

"""The one place where an image file becomes an array.

The rule, version `RULE`:

1. The file is decoded as stored (an EXIF orientation is ignored, a TIFF file that is not upright is refused, an alpha
   channel is dropped, colour becomes grey by ITU-R BT.601 weights).
2. 8-bit values stay as they are; 16-bit values are scaled from 0..65535 to 0..255, those of a TIFF file that packs 10,
   12 or 14 bits from the range of these. A DICOM file (by its content,
   whatever its name) goes through rescale or Modality LUT, then VOI LUT or window, else the full range of its stored
   bits, each scaled to 0..255; MONOCHROME1 is inverted and padding is black. `harness.images.dicom` has the equations.
3. The picture is squashed to (H, W), each axis by itself: OpenCV INTER_AREA where it shrinks, INTER_LINEAR
   where it grows.
4. Networks get the grey plane in three equal channels.

The version stands in the metadata of every checkpoint and exported graph; where it differs, numbers are not
comparable, and the harness refuses. This module is a leaf: `training` and `export` may import it.
"""

from __future__ import annotations

import struct
import unicodedata
from pathlib import Path

import cv2
import numpy as np

from harness.common.errors import InputError
from harness.common.storage import LASTING, Place, place, require_plain_file, with_retries
from harness.images import tiff
from harness.images.containers import MAX_PIXELS, Header, other_format, read_header, require_size
from harness.images.notices import Notice, Noticed, warn_of
from harness.images.rule import RULE as RULE

DICOM_SUFFIXES = (".dcm", ".dicom")
MOST_BYTES = 2**30  # of an image file
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", *DICOM_SUFFIXES)

_FULL_RANGE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
_COLOUR = 16  # of 255: channels that differ more are colour; less is what JPEG makes of grey
_ROWS = 256  # that are looked at together
_NEARLY_BLACK = 0.25  # of the range: 16-bit pictures below it hold 14 bits or fewer

# What OpenCV and libtiff would print about a damaged file is said in our sentence.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def load_grey(
    path: str | Place, size: tuple[int, int], *, max_pixels: float = MAX_PIXELS, notice: Noticed | None = None
) -> np.ndarray:
    """Read `path` as grey levels 0..255, float32 of shape `size` = (H, W), by the rule of this module.

    :param max_pixels: pictures of more pixels are refused by their header, before anything is decoded.
    :param notice: is given what should be said about the picture; by default it becomes a `PictureWarning`.
    :raises InputError: the file, which is named, is missing, forbidden, truncated, too large or no image.
    :raises CannotEvaluateError: the storage fails, which says nothing about the image.
    """
    return squash(read_grey(path, max_pixels=max_pixels, notice=notice), size)


def read_grey(path: str | Place, *, max_pixels: float = MAX_PIXELS, notice: Noticed | None = None) -> np.ndarray:
    """Decode `path` to float32 grey levels 0..255 in its stored size (steps 1 and 2 of the rule)."""
    return decode_grey(place(path), _read_bytes(place(path)), max_pixels=max_pixels, notice=notice)


def decode_grey(
    path: Place, content: bytes, *, max_pixels: float = MAX_PIXELS, notice: Noticed | None = None
) -> np.ndarray:
    """`read_grey` for bytes that have been read already; `path` names them in messages."""
    notice = notice or warn_of(path)
    if _is_dicom(path, content):
        from harness.images.dicom import decode_dicom

        return decode_dicom(path, content, max_pixels, notice)
    header = _header(path, content, max_pixels)
    pixels = _decode(path, content, header)
    if header.orientation != tiff.UPRIGHT:
        notice(Notice("orientation", f"has the EXIF orientation {header.orientation}, which is not applied"))
    full = (header.page and header.page.full) or _FULL_RANGE[pixels.dtype]
    grey = _to_one_channel(pixels, notice)
    del pixels  # several times what is needed from here on
    _notice_few_bits(grey, notice)
    scaled = grey.astype(np.float32)
    if full != 255:
        scaled *= np.float32(255.0 / full)
    return scaled


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
    def read() -> bytes:
        require_plain_file(path, MOST_BYTES)
        return path.read_bytes()

    try:
        return with_retries(path, read)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file{_hint(path)}") from None
    except LASTING as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _hint(path: Place) -> str:
    """What a manifest may mean by a name under which there is no file, where such a file is there."""
    if not isinstance(path, Path):
        return ""
    for suffix in () if path.suffix.lower() in SUFFIXES else SUFFIXES:
        if _is_file(path.with_name(path.name + suffix)):
            return f"; {path.name}{suffix} is there, so give the suffix with --columns 'file={{file}}{suffix}'"
    if "\\" in path.name and _is_file(path.parent / path.name.replace("\\", "/")):
        return "; its folders are written with \\, write them with /"
    forms = {unicodedata.normalize(form, str(path)) for form in ("NFC", "NFD")} - {str(path)}
    if any(_is_file(Path(form)) for form in forms):
        return "; it is there with its accents in another form of Unicode (NFC, NFD): copy its name from the folder"
    return ""


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def is_dicom(content: bytes) -> bool:
    """Whether a file is DICOM: its mark stands behind a preamble that may hold anything (PS3.10 section 7.1)."""
    return content[128:132] == b"DICM"


def _is_dicom(path: Place, content: bytes) -> bool:
    if is_dicom(content):
        return True
    if path.suffix.lower() in DICOM_SUFFIXES:
        raise InputError(f"{path}: not a DICOM file (no DICM at byte 128); export it again in the DICOM file format")
    return False


def _header(path: Place, content: bytes, max_pixels: float) -> Header:
    """The header of an image that can be decoded as what it is; what is wrong with others is said."""
    try:
        header = read_header(content)
    except (ValueError, IndexError, OverflowError, struct.error):
        header = None
    if header is None:
        raise InputError(f"{path}: {_no_image(content)}")
    if header.refusal:
        raise InputError(f"{path}: {header.refusal}")
    if header.frames > 1:
        raise InputError(f"{path}: has {header.frames} frames; save one image per file")
    try:
        require_size(header.width, header.height, max_pixels)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if not header.is_whole:
        raise InputError(f"{path}: the image is truncated; copy or export it again")
    return header


def _no_image(content: bytes) -> str:
    other = other_format(content)
    return f"is {other}" if other else f"not a readable image, or damaged; expected one of {', '.join(SUFFIXES)}"


def _decode(path: Place, content: bytes, header: Header) -> np.ndarray:
    """The pixels as they are stored: (H, W), or (H, W, channels) in OpenCV's order, 8 or 16 unsigned bits."""
    pixels = _opencv(content, header)
    if pixels is None:
        raise InputError(f"{path}: {_no_image(b'')}")
    if pixels.dtype not in _FULL_RANGE:
        raise InputError(f"{path}: {pixels.dtype} pixels are not supported; save it with 8 or 16 unsigned bits")
    if header.page is None:
        return pixels
    is_associated = header.page.first(tiff.EXTRA, 0) == tiff.ASSOCIATED and pixels.ndim == 3
    if is_associated and pixels[..., -1].min() < _FULL_RANGE[pixels.dtype]:
        raise InputError(f"{path}: its colours are multiplied by alpha; save it without an alpha channel")
    # OpenCV inverts 8-bit pixels of which 0 is white, but not 16-bit ones.
    inverted = header.page.first(tiff.PHOTOMETRIC, 1) == tiff.WHITE_IS_ZERO and pixels.dtype == np.uint16
    return (header.page.full or 65535) - pixels if inverted else pixels


def _opencv(content: bytes, header: Header) -> np.ndarray | None:
    """What OpenCV decodes, None where it cannot."""
    try:
        if header.page is None:
            return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        plain = tiff.without_unassociated_alpha(content, header.page)
        pages = cv2.imdecodemulti(np.frombuffer(plain, np.uint8), cv2.IMREAD_UNCHANGED)[1]
        return pages[0] if len(pages) == 1 else None  # unlike imdecode, it decodes no half of a truncated file
    except cv2.error:
        return None


def _to_one_channel(pixels: np.ndarray, notice: Noticed) -> np.ndarray:
    """(H, W) grey of pixels with or without colour and alpha; alpha is dropped."""
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[-1] < 3:
        return pixels[..., 0]
    if _has_colour(pixels):
        notice(Notice("colour", "has colour, which is turned to grey"))
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2GRAY if pixels.shape[-1] == 4 else cv2.COLOR_BGR2GRAY)


def _has_colour(pixels: np.ndarray) -> bool:
    """Whether the channels of a pixel differ by more than what JPEG makes of grey."""
    threshold = _COLOUR * _FULL_RANGE[pixels.dtype] // 255
    for start in range(0, len(pixels), _ROWS):  # of the whole picture, the channels would double its memory
        blue, green, red = (cv2.extractChannel(pixels[start : start + _ROWS], number) for number in range(3))
        if cv2.absdiff(blue, green).max() > threshold or cv2.absdiff(green, red).max() > threshold:
            return True
    return False


def _notice_few_bits(grey: np.ndarray, notice: Noticed) -> None:
    brightest = int(grey.max())
    if grey.dtype == np.uint16 and 0 < brightest < _NEARLY_BLACK * 65536:
        bits = brightest.bit_length()
        notice(Notice("few-bits", f"uses {bits} of its 16 bits and is shown nearly black; scale it to 0..65535"))


def _interpolation(old: int, new: int) -> int:
    return cv2.INTER_AREA if new < old else cv2.INTER_LINEAR

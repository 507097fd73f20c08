"""The one place where an image file becomes an array.

By the rule `grey-squash/1`, the default (`harness.images.rule.GREY`):

1. The file is decoded as stored (an EXIF orientation is ignored, a TIFF file that is not upright is refused, an alpha
   channel is dropped, colour becomes luminance, Y = 0.299 R + 0.587 G + 0.114 B, ITU-R BT.601).
2. 8-bit values stay as they are; 16-bit values are scaled from 0..65535 to 0..255, those of a TIFF file that packs 10,
   12 or 14 bits from the range of these. A DICOM file (by its content,
   whatever its name) goes through rescale or Modality LUT, then VOI LUT or window, else the full range of its stored
   bits, each scaled to 0..255; MONOCHROME1 is inverted and padding is black. `harness.images.dicom` has the equations.
3. The picture is squashed to (H, W), each axis by itself: OpenCV INTER_AREA where it shrinks, INTER_LINEAR
   where it grows.
4. Networks get the grey plane in three equal channels.

By any other rule (`harness.images.rule.ImageRule`) steps 1 and 3 are what its fields say: under `rgb` colours stay,
grey is repeated to three channels, CMYK is converted, and the orientation is applied unless the rule ignores it.
`harness.images.view` has step 3.

The rule stands in the metadata of every checkpoint and exported graph; where it differs, numbers are not
comparable, and the harness refuses. This module is a leaf: `training` and `export` may import it.
"""

from __future__ import annotations

import io
import struct
import unicodedata
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from harness.common.errors import InputError
from harness.common.storage import LASTING, Location, as_location, require_plain_file, with_retries
from harness.images import tiff
from harness.images.containers import MAX_PIXELS, Header, other_format, read_header, require_size
from harness.images.notices import Notice, Noticed, warn_of
from harness.images.rule import GREY, ImageRule
from harness.images.rule import RULE as RULE
from harness.images.view import View, view
from harness.images.view import channels_first as channels_first
from harness.images.view import channels_last as channels_last
from harness.images.view import squash as squash

DICOM_SUFFIXES = (".dcm", ".dicom")
MOST_BYTES = 2**30  # of an image file
MARK_END = 132  # bytes: a DICOM file's preamble and mark
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
SUFFIXES = (*PICTURE_SUFFIXES, *DICOM_SUFFIXES)

_FULL_RANGE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
_COLOUR = 16  # of 255: channels that differ more are colour; less is what JPEG makes of grey
_ROWS = 256  # that are looked at together
_NEARLY_BLACK = 0.25  # of the range: 16-bit pictures below it hold 14 bits or fewer

# What OpenCV and libtiff would print about a damaged file is said in our sentence.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def load_view(
    path: str | Location,
    rule: ImageRule,
    size: tuple[int, int],
    *,
    max_pixels: float = MAX_PIXELS,
    notice: Noticed | None = None,
) -> View:
    """Read `path` as a network of input `size` = (H, W) sees it by a rule: levels 0..255, float32.

    :param max_pixels: pictures of more pixels are refused by their header, before anything is decoded.
    :param notice: is given what should be said about the picture; by default it becomes a `PictureWarning`.
    :raises InputError: the file, which is named, is missing, forbidden, truncated, too large, no image, or none that
        the rule takes.
    :raises CannotEvaluateError: the storage fails, which says nothing about the image.
    """
    return view_of(path, read_picture(path, rule, max_pixels=max_pixels, notice=notice), rule, size)


def load_grey(
    path: str | Location, size: tuple[int, int], *, max_pixels: float = MAX_PIXELS, notice: Noticed | None = None
) -> np.ndarray:
    """The pixels of `load_view` by the default rule: grey levels, float32 (H, W)."""
    return load_view(path, GREY, size, max_pixels=max_pixels, notice=notice).pixels


def view_of(path: str | Location, picture: np.ndarray, rule: ImageRule, size: tuple[int, int]) -> View:
    """A decoded picture as a network sees it; `path` names it in messages."""
    try:
        return view(picture, rule, size)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def read_picture(
    path: str | Location, rule: ImageRule = GREY, *, max_pixels: float = MAX_PIXELS, notice: Noticed | None = None
) -> np.ndarray:
    """Decode `path` by a rule, in its own size: (h, w) grey levels or (h, w, 3) red, green, blue, 0..255.

    float32, or uint8 where the rule keeps colours and the file has 8 bits.
    """
    return decode_picture(as_location(path), _read_bytes(as_location(path)), rule, max_pixels=max_pixels, notice=notice)


def read_grey(path: str | Location, *, max_pixels: float = MAX_PIXELS, notice: Noticed | None = None) -> np.ndarray:
    """`read_picture` by the default rule: grey levels 0..255, float32 (h, w)."""
    return read_picture(path, GREY, max_pixels=max_pixels, notice=notice)


def decode_picture(
    path: Location,
    content: bytes,
    rule: ImageRule = GREY,
    *,
    max_pixels: float = MAX_PIXELS,
    notice: Noticed | None = None,
) -> np.ndarray:
    """`read_picture` for bytes that have been read already; `path` names them in messages."""
    notice = notice or warn_of(path)
    if _is_dicom(path, content):
        from harness.images.dicom import decode_dicom

        return _coloured(decode_dicom(path, content, max_pixels, notice), rule, notice)
    header = _header(path, content, max_pixels, rule)
    pixels = _decode(path, content, header)
    full = (header.page and header.page.full) or _FULL_RANGE[pixels.dtype]
    pixels = _upright(pixels, header, rule, notice)
    if rule.colour == "grey":
        pixels = _to_one_channel(pixels, notice)
    else:
        pixels = _coloured(_without_alpha(pixels, full, notice), rule, notice)
    _notice_few_bits(pixels, notice)
    if rule.colour == "rgb" and full == 255:
        return pixels
    scaled = pixels.astype(np.float32)
    if full != 255:
        scaled *= np.float32(255.0 / full)
    return scaled


def _read_bytes(path: Location) -> bytes:
    def read() -> bytes:
        require_plain_file(path, MOST_BYTES)
        return path.read_bytes()

    try:
        return with_retries(path, read)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file{_hint(path)}") from None
    except LASTING as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _hint(path: Location) -> str:
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


def is_dicom_file(path: Location) -> bool:
    """Whether the content of a file is DICOM; False where it is no plain file or cannot be opened."""
    try:
        require_plain_file(path, MOST_BYTES)
        with path.open("rb") as stream:
            return is_dicom(stream.read(MARK_END))
    except (InputError, OSError):
        return False


def _is_dicom(path: Location, content: bytes) -> bool:
    if is_dicom(content):
        return True
    if path.suffix.lower() in DICOM_SUFFIXES:
        raise InputError(f"{path}: not a DICOM file (no DICM at byte 128); export it again in the DICOM file format")
    return False


def _header(path: Location, content: bytes, max_pixels: float, rule: ImageRule) -> Header:
    """The header of an image that a rule can read as what it is; what is wrong with others is said."""
    try:
        header = read_header(content)
    except (ValueError, IndexError, OverflowError, struct.error):
        header = None
    if header is None:
        raise InputError(f"{path}: {_no_image(content)}")
    refusal = header.refusal or _refusal_by(rule, header)
    if refusal:
        raise InputError(f"{path}: {refusal}")
    if header.frames > 1:
        raise InputError(f"{path}: has {header.frames} frames; save one image per file")
    try:
        require_size(header.width, header.height, max_pixels)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if not header.is_whole:
        raise InputError(f"{path}: the image is truncated; copy or export it again")
    return header


def _refusal_by(rule: ImageRule, header: Header) -> str | None:
    """Why a rule cannot read what others can."""
    if header.is_cmyk and rule.colour == "grey":
        return "has CMYK; save it as grey or RGB"
    if header.page and header.orientation != tiff.UPRIGHT and rule.orientation == "ignore":
        # OpenCV would turn it, and others show it as it is stored
        return f"has the TIFF orientation {header.orientation}; save it upright, as orientation 1"
    return None


def _no_image(content: bytes) -> str:
    other = other_format(content)
    return f"is {other}" if other else f"not a readable image, or damaged; expected one of {', '.join(SUFFIXES)}"


def _decode(path: Location, content: bytes, header: Header) -> np.ndarray:
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
        if header.is_cmyk:
            return _cmyk(content)
        if header.page is None:
            return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        plain = tiff.without_unassociated_alpha(content, header.page)
        pages = cv2.imdecodemulti(np.frombuffer(plain, np.uint8), cv2.IMREAD_UNCHANGED)[1]
        return pages[0] if len(pages) == 1 else None  # unlike imdecode, it decodes no half of a truncated file
    except cv2.error:
        return None


def _cmyk(content: bytes) -> np.ndarray | None:
    """Blue, green, red of a JPEG file of four components, by Pillow's conversion, which frameworks use."""
    try:
        return np.asarray(JpegImageFile(io.BytesIO(content)).convert("RGB"))[..., ::-1]
    except (OSError, SyntaxError, ValueError):  # what Pillow raises over a damaged file
        return None


def _upright(pixels: np.ndarray, header: Header, rule: ImageRule, notice: Noticed) -> np.ndarray:
    """The picture turned by its EXIF orientation, where the rule applies it; OpenCV has done so with TIFF."""
    if header.orientation == tiff.UPRIGHT or header.page:
        return pixels
    if rule.orientation == "ignore":
        notice(Notice("orientation", f"has the EXIF orientation {header.orientation}, which is not applied"))
        return pixels
    return np.ascontiguousarray(_TURNED[header.orientation](pixels))


# How a picture that is stored with an EXIF orientation is turned upright (CIPA DC-008, 4.6.4 A).
_TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored[::-1].swapaxes(0, 1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored[:, ::-1].swapaxes(0, 1),
}


def _coloured(pixels: np.ndarray, rule: ImageRule, notice: Noticed) -> np.ndarray:
    """A picture, (h, w) or (h, w, 3) red, green, blue, in the colours of a rule."""
    if rule.colour == "rgb" and pixels.ndim == 2:
        notice(Notice("grey", "is grey, which is repeated to three equal channels"))
        return np.repeat(pixels[..., None], 3, axis=-1)
    if rule.colour == "grey" and pixels.ndim == 3:
        notice(Notice("colour", "has colour, which is turned to grey"))
        return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return pixels


def _without_alpha(pixels: np.ndarray, full: int, notice: Noticed) -> np.ndarray:
    """(h, w) or (h, w, 3) red, green, blue, of pixels as OpenCV has them."""
    if pixels.ndim == 2:
        return pixels
    channels = pixels.shape[-1]
    if channels in (2, 4) and pixels[..., -1].min() < full:
        notice(Notice("alpha", "has transparent parts; its alpha channel is dropped"))
    if channels < 3:
        return pixels[..., 0]
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB if channels == 4 else cv2.COLOR_BGR2RGB)


def _to_one_channel(pixels: np.ndarray, notice: Noticed) -> np.ndarray:
    """(h, w) grey of pixels, as OpenCV has them, with or without colour and alpha; alpha is dropped."""
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


def _notice_few_bits(pixels: np.ndarray, notice: Noticed) -> None:
    brightest = int(pixels.max())
    if pixels.dtype == np.uint16 and 0 < brightest < _NEARLY_BLACK * 65536:
        bits = brightest.bit_length()
        notice(Notice("few-bits", f"uses {bits} of its 16 bits and is shown nearly black; scale it to 0..65535"))

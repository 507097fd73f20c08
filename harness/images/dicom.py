"""A DICOM picture as grey levels or colours: from stored values to what a viewer shows, in 0..255.

The steps for grey, each a function of the stored value alone (PS3.3 is part 3 of the DICOM standard):

1. Modality (PS3.3 C.11.1): the Modality LUT, else value * Rescale Slope + Rescale Intercept, else the value.
2. VOI (PS3.3 C.11.2): the first VOI LUT, else the first window (LINEAR, LINEAR_EXACT or SIGMOID), else the full
   range of the stored bits after step 1. A table is scaled by the bits of its entries, a window by the range that
   its function maps to, so that this step always ends in 0..1. A table is entered at the nearest integer.
3. MONOCHROME1 is inverted, so that 1 is white. Presentation LUT Shape only repeats this and is not read.
4. Times 255. Padding (Pixel Padding Value, up to Pixel Padding Range Limit) becomes 0, black, in either polarity:
   it is no part of the picture.

Rescale and window are taken from the functional groups of an enhanced file. Overlays in the bits above the stored
ones are cut off. One frame of at most 16 bits is read; several frames are refused.

Colour (PS3.3 C.7.6.3.1.2) has neither rescale nor window: red, green and blue are scaled from the range of their stored
bits. YBR_FULL, YBR_FULL_422 and YBR_PARTIAL_422 are converted by the equations given there, YBR_RCT and YBR_ICT
(JPEG 2000) and the YBR of a JPEG stream by the decoder. PALETTE COLOR goes through its three tables, plain or
segmented, and is scaled by the bits of their entries. What becomes of colour where grey is wanted is said in
`harness.images.loading`.

Every compressed transfer syntax has exactly one decoder (`_DECODERS`), so that a lossy file's pixels do not depend on
what else is installed.

pydicom decodes. The tables and windows are our own: `pydicom.pixels.apply_voi_lut` wraps around where a table with
8-bit entries has more than 256 of them, and warns of every table that follows a rescale.
"""

from __future__ import annotations

import io
import math
import re
import warnings
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from pydicom import Dataset, dcmread, uid
from pydicom.encaps import generate_frames
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array

from harness.common.errors import InputError, first_line
from harness.common.storage import Location
from harness.images.containers import codestream_size, require_size
from harness.images.notices import Notice, Noticed

_PILLOW, _GDCM, _OPENJPEG = ("pillow", "pillow"), ("gdcm", "python-gdcm"), ("pylibjpeg", '"pylibjpeg[openjpeg]"')
# Transfer syntax to (pydicom's name of the decoder, what pip installs). The others are decoded by pydicom itself.
_DECODERS = {
    uid.JPEGBaseline8Bit: _PILLOW,
    uid.JPEG2000Lossless: _PILLOW,
    uid.JPEG2000: _PILLOW,
    uid.JPEGLossless: _GDCM,
    uid.JPEGLosslessSV1: _GDCM,
    uid.JPEGLSLossless: _GDCM,
    uid.JPEGLSNearLossless: _GDCM,
    uid.HTJ2KLossless: _OPENJPEG,
    uid.HTJ2KLosslessRPCL: _OPENJPEG,
    uid.HTJ2K: _OPENJPEG,
}
_EXTENDED_DECODERS = {8: _PILLOW, 12: ("pylibjpeg", '"pylibjpeg[libjpeg]"')}  # JPEG Extended, by bits stored

# Photometric interpretations of colour, but for the retired ones (ARGB, CMYK, HSV) and that of video.
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
_SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1, **dict.fromkeys(_COLOURS, 3), "PALETTE COLOR": 1}
_MACROS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")  # of functional groups
_META = 2**16  # bytes that everything but the pixels may take

_OUR_FILTER = ("ignore", None, Warning, re.compile("pydicom"), 0)


def decode_dicom(path: Location, content: bytes, max_pixels: float, notice: Noticed) -> np.ndarray:
    """The bytes of a DICOM file as levels 0..255, float32 (Rows, Columns), or (Rows, Columns, 3) red, green, blue.

    Raises InputError, naming `path`, where the file is damaged, holds no single frame or more than `max_pixels`, or
    needs a decoder that is not installed.
    """
    silence_pydicom()
    try:
        shown, notices = _decode(content, max_pixels)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error.__cause__
    except Exception as error:  # a parser of foreign bytes fails in many ways, and all of them mean a damaged file
        raise InputError(f"{path}: a damaged DICOM file ({first_line(error)}); export it again") from error
    for found in notices:
        notice(found)
    return shown


def silence_pydicom() -> None:
    """Keep pydicom's warnings to itself; `warnings.catch_warnings` would not be safe with several threads."""
    if _OUR_FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", module="pydicom")


def _decode(content: bytes, max_pixels: float) -> tuple[np.ndarray, list[Notice]]:
    require_small_when_inflated(content, max_pixels)
    dataset = dcmread(io.BytesIO(content))
    apply_functional_groups(dataset)
    _require_one_frame(dataset)
    require_size(dataset.Columns, dataset.Rows, max_pixels)
    _require_small_codestream(dataset, max_pixels)
    if dataset.PhotometricInterpretation in _COLOURS:
        return _colours(dataset), []
    stored = _stored_values(dataset)
    if stored.ndim != 2:
        raise InputError(f"has {len(stored)} frames; save one image per file")
    unsigned = np.dtype(f"u{stored.dtype.itemsize}")
    # Every pattern of bits that a pixel can have, read as the pixels are (signed or not, either byte order).
    levels = np.arange(2 ** (8 * unsigned.itemsize), dtype=unsigned).view(stored.dtype)
    shown = _shown(dataset, without_overlays(dataset, levels))[stored.view(unsigned)]
    return shown, list(_notices(dataset, stored))


def apply_functional_groups(dataset: Dataset) -> None:
    """Put what an enhanced file says of its one frame where a classic one says it (PS3.3 C.7.6.16).

    Rescale and window of the frame's own group come before those of the shared group, and these before the root's.
    """
    for sequence in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in (dataset.get(sequence) or [])[:1]:
            for macro in _MACROS:
                for element in (element for item in (group.get(macro) or [])[:1] for element in item):
                    dataset[element.tag] = element


def _require_small_codestream(dataset: Dataset, max_pixels: float) -> None:
    """Refuse a compressed picture that is larger than Rows and Columns say."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and syntax != uid.RLELossless:
        require_size(*codestream_size(next(generate_frames(dataset.PixelData, number_of_frames=1))), max_pixels)


def require_small_when_inflated(content: bytes, max_pixels: float) -> None:
    """Refuse a deflated file (PS3.5 A.5) that would grow beyond what a picture may take."""
    if uid.DeflatedExplicitVRLittleEndian.encode() not in content[:_META]:
        return
    start = 144 + int.from_bytes(content[140:144], "little")  # behind the file meta information, by its group length
    most = int(2 * max_pixels) + _META
    if len(zlib.decompressobj(-zlib.MAX_WBITS).decompress(content[start:], most)) == most:
        raise InputError(f"inflates to more than {max_pixels / 1e6:g} million pixels; save it uncompressed")


def has_overlays(dataset: Dataset) -> bool:
    """Whether bits above the stored ones hold overlays (60xx, retired in 2004)."""
    positions = [dataset.get((group, 0x0102)) for group in range(0x6000, 0x6020, 2)]
    return any(element is not None and int(element.value or 0) >= dataset.BitsStored for element in positions)


def without_overlays(dataset: Dataset, values: np.ndarray) -> np.ndarray:
    """Stored values without the bits above the stored ones, where these hold overlays."""
    if not has_overlays(dataset):
        return values
    shift = 8 * values.dtype.itemsize - dataset.BitsStored
    return (values << shift) >> shift  # arithmetic for signed values, which keeps the sign


def _notices(dataset: Dataset, stored: np.ndarray) -> Iterator[Notice]:
    """What should be said about a picture that is read all the same."""
    inverse = str(dataset.get("PresentationLUTShape") or "").strip().upper() == "INVERSE"
    if inverse and dataset.PhotometricInterpretation == "MONOCHROME2":
        yield Notice("presentation", "is MONOCHROME2 with Presentation LUT Shape INVERSE; it is read as MONOCHROME2")
    has_voi = "VOILUTSequence" in dataset or "WindowCenter" in dataset or "ModalityLUTSequence" in dataset
    if has_voi or dataset.BitsStored != 16 or stored.dtype.kind != "u":
        return
    brightest = int(stored.max())
    if 0 < brightest < 2**14:
        bits = brightest.bit_length()
        yield Notice("few-bits", f"uses {bits} of its 16 bits and is shown nearly black; set Bits Stored to {bits}")


def _colours(dataset: Dataset) -> np.ndarray:
    """(Rows, Columns, 3) red, green, blue in 0..255, float32."""
    kind, top = dataset.PhotometricInterpretation, 2**dataset.BitsStored - 1
    if kind == "YBR_PARTIAL_422":  # laid out as YBR_FULL_422, which pydicom knows
        dataset.PhotometricInterpretation = "YBR_FULL_422"
        return _from_partial_range(_stored_values(dataset, raw=True))
    stored = _stored_values(dataset)
    if kind == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
        top = 2 ** (8 * stored.dtype.itemsize) - 1
    if stored.ndim != 3:
        raise InputError(f"has {len(stored)} frames; save one image per file")
    shown = stored.astype(np.float32)
    shown *= np.float32(255 / top)
    return shown


def _from_partial_range(ybr: np.ndarray) -> np.ndarray:
    """Red, green, blue of 8-bit luminance 16..235 and colour differences 16..240 (PS3.3 C.7.6.3.1.2, inverted)."""
    to_rgb = np.array([[1.1644, 0, 1.5960], [1.1644, -0.3917, -0.8130], [1.1644, 2.0173, 0]])
    return np.clip((ybr - np.array([16.0, 128.0, 128.0])) @ to_rgb.T, 0, 255).astype(np.float32)


def _require_one_frame(dataset: Dataset) -> None:
    if "PixelData" not in dataset:
        kind = dataset.get("SOPClassUID")
        raise InputError(
            f"no integer pixel data in this DICOM file ({kind.name[:80] if kind else 'no SOP class'}); "
            "export the image itself, complete"
        )
    _require_known_colours(dataset)
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise InputError(f"has {dataset.NumberOfFrames} frames; save one image per file")
    if dataset.BitsAllocated > 16:
        raise InputError(f"{dataset.BitsAllocated} bits per pixel are not supported; save it with 8 or 16")
    if dataset.get("HighBit", dataset.BitsStored - 1) != dataset.BitsStored - 1:
        raise InputError(f"high bit {dataset.HighBit} is not the top of {dataset.BitsStored} stored bits; correct it")


def _require_known_colours(dataset: Dataset) -> None:
    kind, samples = dataset.get("PhotometricInterpretation"), dataset.get("SamplesPerPixel", 1)
    if kind not in _SAMPLES or samples != _SAMPLES[kind]:
        raise InputError(f"{kind} pixels with samples per pixel {samples} are not supported; save it as grey or RGB")
    if kind == "YBR_PARTIAL_422" and dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        raise InputError(f"compressed {kind} pixels are not supported; save it as RGB")
    if kind in _COLOURS and dataset.get("PixelRepresentation", 0):
        raise InputError(f"{kind} pixels with a sign are not supported; save it as unsigned")


def _stored_values(dataset: Dataset, raw: bool = False) -> np.ndarray:
    decoder = _decoder(dataset)
    try:
        return pixel_array(dataset, decoding_plugin=decoder, raw=raw)
    except RuntimeError as error:  # pydicom's word for what a decoder raised
        name = dataset.file_meta.TransferSyntaxUID.name
        raise InputError(f"damaged {name} pixels, which {decoder} cannot decode; export the file again") from error


def _decoder(dataset: Dataset) -> str:
    """pydicom's name of the one decoder that we use for the file's transfer syntax, or "" for pydicom itself."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated or syntax == uid.RLELossless:
        return ""
    extended = _EXTENDED_DECODERS[8 if dataset.BitsStored <= 8 else 12]
    plugin, package = extended if syntax == uid.JPEGExtended12Bit else _DECODERS.get(syntax, ("", ""))
    if not plugin:
        raise InputError(f"{syntax.name} pixels cannot be decoded; save it uncompressed")
    if plugin not in get_decoder(syntax).available_plugins:
        raise InputError(f"{syntax.name} pixels need a decoder that is not installed; pip install {package}")
    return plugin


def _shown(dataset: Dataset, levels: np.ndarray) -> np.ndarray:
    """What each of the stored values `levels` (L,) is shown as: float32 (L,) in 0..255 (steps 1 to 4)."""
    values, low, high = _modality(dataset, levels)
    share = _voi(dataset, values, low, high)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        share = 1 - share
    return np.where(_is_padding(dataset, levels), 0, 255 * share).astype(np.float32)


def _modality(dataset: Dataset, levels: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Values after step 1, and the ends of their range (low < high)."""
    bits = dataset.BitsStored
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)
    if dataset.get("ModalityLUTSequence"):
        values, top = _look_up(dataset, "ModalityLUTSequence", levels, high)
        return values, 0, top
    slope, intercept = _number(dataset, "RescaleSlope", 1.0), _number(dataset, "RescaleIntercept", 0.0)
    if slope == 0:
        raise InputError("rescale slope 0 makes every pixel equal; correct it in the file")
    ends = sorted((low * slope + intercept, high * slope + intercept))
    return levels * slope + intercept, ends[0], ends[1]


def _voi(dataset: Dataset, values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values of the range low..high after step 2, in 0..1."""
    if dataset.get("VOILUTSequence"):
        entries, top = _look_up(dataset, "VOILUTSequence", values, high)
        return np.clip(entries / top, 0, 1)
    centre, width = _number(dataset, "WindowCenter", math.nan), _number(dataset, "WindowWidth", math.nan)
    if math.isnan(centre) or math.isnan(width):
        return np.clip((values - low) / (high - low), 0, 1)
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function not in _WINDOWS:
        raise InputError(f"VOI LUT function {function} is not known; expected one of {', '.join(_WINDOWS)}")
    least = 1 if function == "LINEAR" else 0
    if width < least or width == 0:
        raise InputError(f"window width {width:g} is too small for {function}; correct it in the file")
    return _WINDOWS[function](values, centre, width)


def _linear(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    """PS3.3 C.11.2.1.2.1: 0 up to c - 1/2 - (w - 1)/2, 1 above c - 1/2 + (w - 1)/2, a line between; w >= 1."""
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return _linear_exact(values, centre - 0.5, width - 1)


def _linear_exact(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    """PS3.3 C.11.2.1.3.2: 0 up to c - w/2, 1 above c + w/2, a line between; w > 0."""
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _sigmoid(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    """PS3.3 C.11.2.1.3.1: 1 / (1 + exp(-4 (x - c) / w)), written as a hyperbolic tangent, which cannot overflow."""
    return 0.5 + 0.5 * np.tanh(2 * (values - centre) / width)


_WINDOWS: dict[str, Callable[[np.ndarray, float, float], np.ndarray]] = {
    "LINEAR": _linear,
    "LINEAR_EXACT": _linear_exact,
    "SIGMOID": _sigmoid,
}


def _look_up(dataset: Dataset, sequence: str, values: np.ndarray, high: float) -> tuple[np.ndarray, int]:
    """`values` through the first table of `sequence`, and the largest entry that its bits allow.

    `high` is the largest value that may come in.
    """
    item = dataset[sequence].value[0]
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    count = count % 65536 or 65536  # 0 stands for 65536
    if first > high:  # a negative number that was written, or read, as an unsigned one
        first -= 65536
    if not 1 <= bits <= 16:
        raise InputError(f"{sequence} has entries of {bits} bits; expected 8 to 16")
    entries = _entries(item.LUTData, count, little=dataset.original_encoding[1] is not False)
    if len(entries) < count:
        raise InputError(f"{sequence} has {len(entries)} entries, its descriptor says {count}; export the file again")
    position = np.clip(np.rint(values) - first, 0, count - 1).astype(np.intp)
    return entries[position].astype(np.float64), 2**bits - 1


def _entries(data: bytes | int | list[int], count: int, *, little: bool) -> np.ndarray:
    """LUT Data, bytes or numbers, one entry per 16-bit word or, where only that gives `count`, two (low byte first)."""
    order = "<u2" if little else ">u2"
    words = np.frombuffer(data, order) if isinstance(data, bytes) else np.atleast_1d(np.asarray(data))
    words = words.astype("<u2")
    return words.view(np.uint8) if len(words) < count <= 2 * len(words) else words


def _is_padding(dataset: Dataset, levels: np.ndarray) -> np.ndarray:
    value = _padding(dataset, "PixelPaddingValue", levels.dtype)
    if value is None:
        return np.zeros(levels.shape, bool)
    limit = _padding(dataset, "PixelPaddingRangeLimit", levels.dtype)
    ends = sorted([value, value if limit is None else limit])
    wide = levels.astype(np.int64)
    return (wide >= ends[0]) & (wide <= ends[1])


def _padding(dataset: Dataset, keyword: str, pixels: np.dtype) -> int | None:
    """An end of the padding range, None where there is none.

    A negative value is often written as an unsigned one of the same 16 bits, and the other way round: it is read as
    the pixels are. Any other value that no pixel can have stays as it is, and hides nothing.
    """
    value = dataset.get(keyword)
    if isinstance(value, (list, MultiValue)):
        if len(value) > 1:
            raise InputError(f"{keyword} has {len(value)} values; keep one")
        value = value[0] if value else None
    if value is None or value == "":
        return None
    number, patterns = int(value), 2 ** (8 * pixels.itemsize)
    if pixels.itemsize == 2 and -patterns // 2 <= number < patterns:
        return int(np.array(number % patterns, np.uint16).view(pixels.newbyteorder("=")))
    return number


def _number(dataset: Dataset, keyword: str, default: float) -> float:
    """The first value of a numeric element, `default` where it is absent or empty."""
    value = dataset.get(keyword)
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    if value is None or value == "":
        return default
    if not math.isfinite(value):
        raise InputError(f"{keyword} is {value}, not a number; correct it in the file")
    return float(value)

"""Comments inside of image files and of compressed DICOM pixels, overwritten without touching a pixel.

Comment and application segments hold free text: names, dates, previews, whole EXIF and XMP records. Their contents are
replaced by zeros of the same length, so that no offset and no length in the stream changes:

- JPEG, JPEG Lossless, JPEG-LS (ITU-T T.81 annex B, T.87): COM and APP0 to APP15, but for Adobe's APP14, which says
  what the components mean;
- JPEG 2000 and HTJ2K codestreams (ITU-T T.800 annex A): COM, in the main header and in those of tile-parts;
- PNG: chunks of text, time and EXIF.

Of EXIF the orientation is kept where it turns the picture: it is part of what the picture shows.

What stands behind the end of the image is cut off.
"""

from __future__ import annotations

import struct
import zlib

from harness.images.containers import EOI, EXIF, jpeg_segments, png_chunks
from harness.images.tiff import ORIENTATION, UPRIGHT

_COM, _APP14 = 0xFE, 0xEE
_SHORT = 3  # a field type of TIFF
_APPLICATION = range(0xE0, 0xF0)
_ADOBE = b"Adobe"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"tIME", b"eXIf", b"iCCP", b"dSIG")
_SOC, _SOT, _SOD, _EOC, _J2K_COM = 0xFF4F, 0xFF90, 0xFF93, 0xFFD9, 0xFF64


def without_comments(stream: bytes, orientation: int = UPRIGHT) -> bytes:
    """A JPEG, JPEG-LS or JPEG 2000 stream without text, up to its end.

    :param orientation: of EXIF, which is kept in a JPEG file.
    :raises ValueError: neither of them, or its end is missing.
    """
    if stream.startswith(b"\xff\x4f\xff\x51"):
        return _jpeg_2000(stream)
    if stream.startswith(b"\xff\xd8"):
        return _jpeg(stream, orientation)
    raise ValueError("no JPEG or JPEG 2000 codestream")


def _jpeg(stream: bytes, orientation: int) -> bytes:
    cleaned, end = bytearray(stream), None
    kept = b"" if orientation == UPRIGHT else EXIF + _exif(orientation)
    for marker, start, stop in jpeg_segments(stream):
        is_adobe = marker == _APP14 and stream.startswith(_ADOBE, start) and stop - start == 12
        if marker == _COM or (marker in _APPLICATION and not is_adobe):
            is_exif = stream.startswith(EXIF, start) and stop - start >= len(kept)
            cleaned[start:stop] = (kept if is_exif else b"").ljust(stop - start, b"\0")
        end = stop if marker == EOI else None
    if end is None:
        raise ValueError("a JPEG stream without an end")
    return bytes(cleaned[:end])


def _jpeg_2000(stream: bytes) -> bytes:
    cleaned, position = bytearray(stream), 2
    while True:
        marker, length = struct.unpack_from(">HH", stream + b"\0\0", position)
        if marker == _EOC:
            return bytes(cleaned[: position + 2])
        if marker == _SOT:
            position = _tile_part(stream, cleaned, position)
            continue
        position = _blank_comment(cleaned, marker, position, length)


def _tile_part(stream: bytes, cleaned: bytearray, start: int) -> int:
    """Blank the comments in the header of a tile-part; returns where it ends."""
    (size,) = struct.unpack_from(">I", stream, start + 6)
    position = start + 12
    while True:
        marker, length = struct.unpack_from(">HH", stream, position)
        if marker == _SOD:
            end = start + size if size else stream.rindex(b"\xff\xd9")  # 0: up to the end of the codestream
            if not position < end < len(stream):
                raise ValueError("a tile-part that ends outside of its codestream")
            return end
        position = _blank_comment(cleaned, marker, position, length)


def _blank_comment(cleaned: bytearray, marker: int, position: int, length: int) -> int:
    """Blank the segment at `position` if it is a comment; returns where the next one begins."""
    if length < 2 or marker < 0xFF00 or position + 2 + length > len(cleaned):
        raise ValueError("a damaged JPEG 2000 codestream")
    if marker == _J2K_COM:
        cleaned[position + 6 : position + 2 + length] = bytes(length - 4)  # behind Rcom, which says what it holds
    return position + 2 + length


def _exif(orientation: int) -> bytes:
    """The smallest EXIF record (TIFF 6.0, section 2) that holds an orientation."""
    return struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, ORIENTATION, _SHORT, 1, orientation, 0, 0)


def without_text_chunks(content: bytes, orientation: int = UPRIGHT) -> bytes:
    """A PNG file without text, time and profile, and of EXIF with the orientation alone, up to its end."""
    kept = [content[:8]]
    for name, start, stop in png_chunks(content):
        if name not in _TEXTS:
            kept.append(content[start - 8 : stop + 4])
        if name == b"IHDR" and orientation != UPRIGHT:
            exif = b"eXIf" + _exif(orientation)
            kept.append(struct.pack(">I", len(exif) - 4) + exif + struct.pack(">I", zlib.crc32(exif)))
    return b"".join(kept)

"""What the header of an image file says: its format, size and number of pictures, without decoding a pixel.

PNG, JPEG and TIFF are the formats of this project. A single picture in GIF, WebP or BMP is read, too, whatever the
file is called; other formats are named and refused.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.common.errors import InputError
from harness.images import tiff

MAX_PIXELS = 100e6  # of a picture, unless a caller says otherwise


@dataclass(frozen=True)
class Header:
    """A file as its header describes it.

    frames: pictures in it; orientation: of EXIF or TIFF, 1 is upright; is_whole: its end is there; refusal: why it
    cannot be read as what it holds; page: the directory of a TIFF file; is_cmyk: of a JPEG file with four components
    """

    kind: str
    width: int
    height: int
    frames: int = 1
    orientation: int = 1
    is_whole: bool = True
    refusal: str | None = None
    page: tiff.Directory | None = None
    is_cmyk: bool = False


# What is no image of a format that is read, by its first bytes: what it is, and what to do.
_OTHERS = (
    (rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 file; save it as PNG"),
    (rb"P[1-7][\s#]", "a PNM file; save it as PNG"),
    (rb"....ftyp(avif|heic|heix|mif1)", "an AVIF or HEIC file; save it as PNG"),
    (rb"v/1\x01|#\?R", "a picture with light values (EXR or HDR); save it as PNG"),
    (rb"\x00\x05\x16[\x00\x07]", "an AppleDouble file, which a Mac puts beside a picture; remove it"),
    (rb"version https://git-lfs", "a pointer of Git LFS, not the picture; run `git lfs pull`"),
    (rb"\s*<(!|\?|html|svg)", "a page of text, not a picture; download it again"),
    (rb"%PDF", "a PDF file; save its picture as PNG"),
)


def require_size(width: int, height: int, max_pixels: float) -> None:
    """Refuse a picture of more pixels than are wanted, by what its header says; InputError without a file's name."""
    if width * height > max_pixels:
        raise InputError(
            f"has {width} x {height} pixels, more than {max_pixels / 1e6:g} million; shrink it, or raise the limit "
            "with --max-pixels"
        )


def read_header(content: bytes) -> Header | None:
    """The header of an image file, None where its beginning is of no known format.

    :raises ValueError, struct.error, IndexError, OverflowError: a header that is damaged or ends early.
    """
    reader = next((read for start, read in _READERS if re.match(start, content, re.DOTALL)), None)
    return reader(content) if reader else None


def orientation_of(content: bytes) -> int:
    """The EXIF or TIFF orientation of an image file that has a header."""
    header = read_header(content)
    return header.orientation if header else tiff.UPRIGHT


def other_format(content: bytes) -> str | None:
    """What the file is instead of an image that can be read, where its beginning tells."""
    return next((what for start, what in _OTHERS if re.match(start, content[:100], re.DOTALL)), None)


# PNG (W3C PNG, third edition)


def _png(content: bytes) -> Header:
    width, height = struct.unpack_from(">II", content, 16)
    chunks = list(png_chunks(content))
    names = [name for name, _, _ in chunks]
    exif = next((content[start:stop] for name, start, stop in chunks if name == b"eXIf"), b"")
    frames = 1
    if b"acTL" in names and b"IDAT" in names:  # the picture is a frame where a frame's header stands before it
        frames = names.count(b"fcTL") + (b"fcTL" not in names[: names.index(b"IDAT")])
    is_whole = bool(names) and names[-1] == b"IEND"
    return Header("PNG", width, height, max(frames, 1), _exif_orientation(exif), is_whole)


def png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, stop of its data) of each chunk, up to the end of the image or of the file."""
    position = 8
    while position + 12 <= len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        if position + 12 + length > len(content):
            return
        yield name, position + 8, position + 8 + length
        if name == b"IEND":
            return
        position += 12 + length


# JPEG (ITU-T T.81, annex B; JPEG-LS: T.87)

SOI, EOI, SOS = 0xD8, 0xD9, 0xDA
# The next marker. Restart markers (D0..D7) and stuffed bytes (below 80, in JPEG-LS not 00 alone) belong to a scan.
_MARKER = re.compile(rb"\xff+([\x80-\xcf\xd8-\xfe])")
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF, 0xF7}
EXIF = b"Exif\0\0"


def jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, stop of its data) of each segment; the last one is EOI, unless the file ends before it."""
    position = 2
    while found := _MARKER.search(content, position):
        marker, start = found[1][0], found.end()
        if marker == EOI:
            yield marker, start, start
            return
        length = 0 if marker == SOI else int.from_bytes(content[start : start + 2])
        if (length < 2 and marker != SOI) or start + length > len(content):
            return
        if marker != SOI:
            yield marker, start + 2, start + length
        position = start + length


def _jpeg(content: bytes) -> Header:
    width = height = 0
    orientation, refusal, marker, components = 1, None, 0, 0
    for marker, start, stop in jpeg_segments(content):
        if marker in _FRAMES:
            bits, rows, columns, components = struct.unpack_from(">BHHB", content, start)
            width, height = max(width, columns), max(height, rows)
            refusal = refusal or _jpeg_refusal(marker, bits)
        elif content.startswith(EXIF, start, stop):
            orientation = _exif_orientation(content[start + len(EXIF) : stop])
    return Header("JPEG", width, height, 1, orientation, marker == EOI, refusal, is_cmyk=components == 4)


def _jpeg_refusal(marker: int, bits: int) -> str | None:
    if marker in _LOSSLESS or bits != 8:
        return f"is a {'lossless' if marker in _LOSSLESS else f'{bits}-bit'} JPEG file; save it as PNG"
    return None


def _exif_orientation(exif: bytes) -> int:
    """1 to 8; upright where it says nothing, or what no orientation means."""
    try:
        return tiff.directories(exif)[0].orientation
    except (ValueError, IndexError, OverflowError, struct.error):
        return tiff.UPRIGHT


def codestream_size(stream: bytes) -> tuple[int, int]:
    """(width, height) that a JPEG or JPEG 2000 codestream tells, (0, 0) where it tells none."""
    if stream.startswith(b"\xff\x4f\xff\x51"):
        right, bottom, left, top = struct.unpack_from(">IIII", stream, 8)  # SIZ, ITU-T T.800 A.5.1
        return max(right - left, 0), max(bottom - top, 0)
    frames = (start for marker, start, _ in jpeg_segments(stream) if marker in _FRAMES)
    sizes = [struct.unpack_from(">HH", stream, start + 1) for start in frames]  # (rows, columns)
    return max((columns for _, columns in sizes), default=0), max((rows for rows, _ in sizes), default=0)


# GIF (GIF89a specification)


def _gif(content: bytes) -> Header:
    width, height, flags = struct.unpack_from("<HHB", content, 6)
    position = 13 + _palette(flags)
    frames, is_transparent, is_whole = 0, False, False
    while position < len(content):
        kind = content[position]
        if kind == 0x3B:
            is_whole = True
            break
        if kind == 0x21:
            is_transparent |= content[position + 1] == 0xF9 and bool(content[position + 3] & 1)
            position = _behind_blocks(content, position + 2)
        elif kind == 0x2C:
            frames += 1
            position = _behind_blocks(content, position + 11 + _palette(content[position + 9]))
        else:
            break
    refusal = "has a transparent colour; save it as PNG" if is_transparent and frames == 1 else None
    return Header("GIF", width, height, frames, is_whole=is_whole, refusal=refusal)


def _palette(flags: int) -> int:
    """Bytes of the colour table that follows."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _behind_blocks(content: bytes, position: int) -> int:
    while content[position]:
        position += content[position] + 1
    return position + 1


# WebP (RFC 9649)


def _webp(content: bytes) -> Header:
    end = 8 + struct.unpack_from("<I", content, 4)[0]
    position, frames, width, height, orientation = 12, 0, 0, 0, tiff.UPRIGHT
    while position + 8 <= min(end, len(content)):
        name, length = struct.unpack_from("<4sI", content, position)
        size = _webp_size(name, content[position + 8 : position + 24])
        width, height = max(width, size[0]), max(height, size[1])
        frames += name == b"ANMF"
        if name == b"EXIF":
            orientation = _exif_orientation(content[position + 8 : position + 8 + length].removeprefix(EXIF))
        position += 8 + length + length % 2
    return Header("WebP", width, height, max(frames, 1), orientation, is_whole=end <= len(content))


def _webp_size(name: bytes, data: bytes) -> tuple[int, int]:
    """(width, height) of a chunk that tells them, else (0, 0)."""
    if name == b"VP8X":
        return 1 + int.from_bytes(data[4:7], "little"), 1 + int.from_bytes(data[7:10], "little")
    if name == b"VP8L":
        bits = int.from_bytes(data[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if name == b"VP8 ":
        wide, high = struct.unpack_from("<HH", data, 6)
        return wide & 0x3FFF, high & 0x3FFF
    return 0, 0


def _bmp(content: bytes) -> Header:
    start, size = struct.unpack_from("<II", content, 10)
    if size < 40:
        return Header("BMP", 0, 0, refusal="is a BMP file of an early kind; save it as PNG")
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", content, 18)
    if bits not in (1, 4, 8, 24) or compression:
        return Header("BMP", 0, 0, refusal=f"is a BMP file of {bits} bits in an unusual form; save it as PNG")
    needed = start + abs(height) * ((width * bits + 31) // 32 * 4)
    return Header("BMP", width, abs(height), is_whole=needed <= len(content))


def _tiff(content: bytes) -> Header:
    pages = tiff.directories(content)
    sizes = [(page.first(tiff.WIDTH, 0), page.first(tiff.HEIGHT, 0)) for page in pages]
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    page, orientation = pages[0], pages[0].first(tiff.ORIENTATION, tiff.UPRIGHT)
    return Header("TIFF", width, height, len(pages), orientation, refusal=page.refusal(), page=page)


_READERS: tuple[tuple[bytes, Callable[[bytes], Header]], ...] = (
    (rb"\x89PNG\r\n\x1a\n", _png),
    (rb"\xff\xd8\xff", _jpeg),
    (rb"II[*+]\x00|MM\x00[*+]", _tiff),
    (rb"GIF8[79]a", _gif),
    (rb"RIFF....WEBP", _webp),
    (rb"BM", _bmp),
)

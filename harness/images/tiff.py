"""The directory of a TIFF file (TIFF 6.0, section 2; BigTIFF), read without decoding a pixel.

It is needed because OpenCV reads some TIFF files as something else than what they hold, without a word.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WIDTH, HEIGHT, BITS, PHOTOMETRIC, ORIENTATION, SAMPLES, PLANAR, EXTRA = 256, 257, 258, 262, 274, 277, 284, 338
FORMAT = 339
WHITE_IS_ZERO, UPRIGHT, SEPARATE_PLANES = 0, 1, 2
ASSOCIATED, UNASSOCIATED = 1, 2  # values of EXTRA: colours multiplied by alpha, and colours as they are
MOST_PAGES, MOST_TAGS = 10_000, 4096

_WIDTHS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # field types of whole numbers
_READ_AS_THEY_ARE = (0, 1, 2, 3, 6)  # white is zero, black is zero, RGB, palette, YCbCr
_PHOTOMETRICS = {
    4: "a transparency mask",
    5: "CMYK",
    8: "CIELab",
    9: "ICCLab",
    10: "ITULab",
    32803: "a pattern of colour filters",
}
_FORMATS = {2: "int", 3: "float", 5: "complex int", 6: "complex float"}  # values of FORMAT
_ORIENTATIONS = 8
_PACKED = (10, 12, 14)  # bits per sample that OpenCV moves to the top of 16


@dataclass(frozen=True)
class Field:
    """The values of a tag, and the place of the first in the file."""

    values: tuple[int, ...]
    position: int
    width: int  # bytes of each


@dataclass(frozen=True)
class Directory:
    """The tags of one page that hold whole numbers."""

    fields: Mapping[int, Field]

    def first(self, tag: int, default: int) -> int:
        """The first value of a tag."""
        return self.fields[tag].values[0] if tag in self.fields and self.fields[tag].values else default

    @property
    def orientation(self) -> int:
        """1 to 8, where rows and columns of the picture begin; 1, upright, where the tag says anything else."""
        found = self.first(ORIENTATION, UPRIGHT)
        return found if UPRIGHT <= found <= _ORIENTATIONS else UPRIGHT

    @property
    def full(self) -> int | None:
        """What the largest sample of 10, 12 or 14 bits becomes in OpenCV's 16; None for other samples."""
        bits = self.first(BITS, 1)
        return ((1 << bits) - 1) << (16 - bits) if bits in _PACKED else None

    def refusal(self) -> str | None:
        """Why the page cannot be read as what it holds, if so."""
        kind, samples, bits = self.first(PHOTOMETRIC, 1), self.first(SAMPLES, 1), self.first(BITS, 1)
        if kind not in _READ_AS_THEY_ARE:
            return f"has {_PHOTOMETRICS.get(kind, f'TIFF colours of kind {kind}')}; save it as grey or RGB"
        number = _FORMATS.get(self.first(FORMAT, 1), "uint")
        if number != "uint" or bits > 16:
            return f"{number}{bits} pixels are not supported; save it with 8 or 16 unsigned bits"
        if kind in (WHITE_IS_ZERO, 1) and bits not in (1, 8, *_PACKED, 16):
            return f"has {bits} bits per sample; save it with 8 or 16"
        if self.first(PLANAR, 1) == SEPARATE_PLANES and samples > 2 and bits > 8:
            return "stores 16-bit colours plane by plane (PlanarConfiguration 2); save it as grey"
        if samples == 2 and self.first(EXTRA, 0) == ASSOCIATED:
            return "has grey that is multiplied by alpha; save it without an alpha channel"
        return None


def directories(content: bytes) -> list[Directory]:
    """The directories of the pages, in their order.

    :raises ValueError: not TIFF, more pages than MOST_PAGES, pages in a circle.
    :raises struct.error, OverflowError: it ends early.
    """
    found: list[Directory] = []
    order, big = "<" if content[:2] == b"II" else ">", content[2:4] in (b"+\0", b"\0+")
    position = struct.unpack_from(f"{order}Q" if big else f"{order}I", content, 8 if big else 4)[0]
    seen: set[int] = set()
    while position:
        if position in seen or len(found) >= MOST_PAGES:
            raise ValueError("pages in a circle")
        seen.add(position)
        fields, position = _directory(content, position, order, big)
        found.append(Directory(fields))
    return found


def without_unassociated_alpha(content: bytes, directory: Directory) -> bytes:
    """The file with alpha declared as data of no meaning: libtiff multiplies unassociated alpha into the colours."""
    extra = directory.fields.get(EXTRA)
    if extra is None or UNASSOCIATED not in extra.values:
        return content
    changed = bytearray(content)
    start = extra.position
    changed[start : start + extra.width * len(extra.values)] = bytes(extra.width * len(extra.values))
    return bytes(changed)


def _directory(content: bytes, position: int, order: str, big: bool) -> tuple[dict[int, Field], int]:
    """The fields of a directory, and where the next one begins (0: nowhere)."""
    count_format, entry, place = ("Q", "HHQ", 8) if big else ("H", "HHI", 4)
    (count,) = struct.unpack_from(order + count_format, content, position)
    if count > MOST_TAGS:
        raise ValueError(f"{count} tags")
    start, size = position + struct.calcsize(count_format), 20 if big else 12
    fields = dict(_fields(content, range(start, start + count * size, size), order + entry, place))
    (following,) = struct.unpack_from(order + ("Q" if big else "I"), content, start + count * size)
    return fields, following


def _fields(content: bytes, positions: range, entry: str, place: int) -> Iterator[tuple[int, Field]]:
    """(tag, field) of the entries that hold whole numbers; `place` bytes of values fit into an entry itself."""
    order = entry[0]
    for position in positions:
        tag, kind, count = struct.unpack_from(entry, content, position)
        if kind not in _WIDTHS or count > MOST_TAGS:
            continue
        width, inside = struct.calcsize(order + _WIDTHS[kind]), position + struct.calcsize(entry)
        where = inside
        if width * count > place:
            (where,) = struct.unpack_from(order + ("Q" if place == 8 else "I"), content, inside)
        yield tag, Field(struct.unpack_from(f"{order}{count}{_WIDTHS[kind]}", content, where), where, width)

"""Image files made byte by byte, so that a test says what is in them without trusting an encoder."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

Tags = Sequence[tuple[int, int, Sequence[int]]]  # (tag, type 3: 16 bits or 4: 32 bits, values)


def saved(pixels: np.ndarray | Image.Image, kind: str, **how: Any) -> bytes:
    """The bytes that Pillow writes."""
    stream = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(stream, kind, **how)
    return stream.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def packed(rows: np.ndarray, bits: int) -> bytes:
    """Rows (H, n) of samples, each row filled up to whole bytes, the top bit first."""
    shifts = np.arange(bits - 1, -1, -1)
    found = (rows[..., None].astype(np.uint32) >> shifts & 1).astype(np.uint8).reshape(len(rows), -1)
    return b"".join(np.packbits(row).tobytes() for row in found)


def png(
    pixels: np.ndarray, bits: int = 8, colour: int = 0, before: bytes = b"", size: tuple[int, int] = (0, 0)
) -> bytes:
    """A PNG file of `pixels` (H, W) or (H, W, channels); `before` are chunks in front of the pixels.

    :param size: (width, height) that the header says, those of the pixels by default.
    """
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    lines = [b"\0" + packed(row[None], bits) for row in rows]
    header = struct.pack(">IIBBBBB", size[0] or width, size[1] or height, bits, colour, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + before + png_chunk(b"IDAT", zlib.compress(b"".join(lines)))
    return b"\x89PNG\r\n\x1a\n" + chunks + png_chunk(b"IEND", b"")


def interlaced_png(pixels: np.ndarray) -> bytes:
    """An 8-bit grey PNG file in the seven passes of Adam7."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    lines = [b"\0" + row.tobytes() for x, y, right, down in passes for row in pixels[y::down, x::right]]
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 0, 0, 0, 1)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"".join(lines)))
    return b"\x89PNG\r\n\x1a\n" + chunks + png_chunk(b"IEND", b"")


def tiff(
    pixels: np.ndarray,
    photometric: int,
    *,
    bits: int | None = None,
    planes: int = 1,
    order: str = "<",
    big: bool = False,
    more: Tags = (),
) -> bytes:
    """An uncompressed TIFF 6.0 (or BigTIFF) file of one strip per plane, from `pixels` (H, W) or (H, W, samples).

    :param bits: per sample, by default those of the pixels' type; fewer are packed.
    :param planes: PlanarConfiguration: 1 pixel by pixel, 2 plane by plane.
    """
    samples = np.atleast_3d(pixels)
    height, width, count = samples.shape
    parts = [samples] if planes == 1 else [samples[..., k] for k in range(count)]
    strips = [_strip(part, bits, order) for part in parts]
    start = 16 if big else 8
    offsets = [start + sum(map(len, strips[:k])) for k in range(len(strips))]
    tags = [
        (256, 4, [width]), (257, 4, [height]), (258, 3, [bits or 8 * pixels.itemsize] * count), (259, 3, [1]),
        (262, 3, [photometric]), (273, 4, offsets), (277, 3, [count]), (278, 4, [height]),
        (279, 4, [len(strip) for strip in strips]), (284, 3, [planes]), *more,
    ]  # fmt: skip
    return _file(b"".join(strips), sorted(tags), order, big)


def _strip(part: np.ndarray, bits: int | None, order: str) -> bytes:
    if bits is not None and bits != 8 * part.itemsize:
        return packed(part.reshape(len(part), -1), bits)
    return part.astype(part.dtype.newbyteorder(order)).tobytes()


def _file(body: bytes, tags: Tags, order: str, big: bool) -> bytes:
    entry, word, place, start = ("HHQ", "Q", 8, 16) if big else ("HHI", "I", 4, 8)
    body += bytes(-(start + len(body)) % 8)
    first = start + len(body)
    position = first + struct.calcsize(order + ("Q" if big else "H")) + (20 if big else 12) * len(tags) + place
    entries, outside = b"", b""
    for tag, kind, values in tags:
        raw = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        inside = raw.ljust(place, b"\0") if len(raw) <= place else struct.pack(order + word, position + len(outside))
        outside += b"" if len(raw) <= place else raw
        entries += struct.pack(order + entry, tag, kind, len(values)) + inside
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(order + "HHHQ", 43, 8, 0, first) if big else struct.pack(order + "HI", 42, first)
    count = struct.pack(order + ("Q" if big else "H"), len(tags))
    return mark + head + body + count + entries + struct.pack(order + word, 0) + outside

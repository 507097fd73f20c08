"""What strangers' pictures hold, against arrays that were written byte by byte and against Pillow; or one sentence."""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.common.errors import InputError
from harness.images import loading
from harness.images.notices import Notice, Notices, PictureWarning, ignore, summary
from tests.made_images import interlaced_png, png, png_chunk, saved, tiff

Y, X = np.mgrid[0:64, 0:48]
GREY = ((X * 3 + Y * 1.5) % 256).astype(np.uint8)
DEEP = GREY.astype(np.uint16) * 257
RGB = np.dstack([GREY, GREY, GREY])
COLOUR = np.dstack([GREY, 255 - GREY, GREY // 2])
ALPHA = np.full_like(GREY, 128)


def read(content: bytes, **asked: object) -> np.ndarray:
    return loading.decode_picture(Path("a.png"), content, **{"notice": ignore, **asked})  # type: ignore[arg-type]


def refusal(content: bytes, **asked: object) -> str:
    with pytest.raises(InputError) as caught:
        read(content, **asked)
    return str(caught.value).removeprefix("a.png: ")


def notices(content: bytes) -> list[str]:
    found: list[Notice] = []
    read(content, notice=found.append)
    return [notice.kind for notice in found]


def in_colour(content: bytes) -> np.ndarray:
    """Pillow's pixels as grey levels by ITU-R BT.601."""
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), float)
    return pixels @ [0.299, 0.587, 0.114]


# PNG


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("has_transparent_level", [False, True])
def test_grey_png_of_every_depth(bits: int, has_transparent_level: bool) -> None:
    levels = ((X * 7 + Y * 1001) % 2**bits).astype(np.uint16)
    before = png_chunk(b"tRNS", struct.pack(">H", int(levels[3, 3]))) if has_transparent_level else b""
    np.testing.assert_allclose(read(png(levels, bits, before=before)), levels * (255 / (2**bits - 1)), rtol=1e-6)


@pytest.mark.parametrize(
    ("pixels", "bits", "colour"),
    [
        (np.dstack([GREY, ALPHA]), 8, 4),
        (np.dstack([DEEP, np.full_like(DEEP, 9)]), 16, 4),
        (RGB, 8, 2),
        (np.dstack([RGB, np.zeros_like(GREY)]), 8, 6),
        (RGB * np.uint16(257), 16, 2),
        (np.dstack([RGB * np.uint16(257), np.full_like(DEEP, 9)]), 16, 6),
    ],
)
def test_png_with_alpha_and_three_equal_channels(pixels: np.ndarray, bits: int, colour: int) -> None:
    np.testing.assert_allclose(read(png(pixels, bits, colour)), GREY, atol=1e-4)


@pytest.mark.parametrize("transparency", [b"", png_chunk(b"tRNS", bytes(range(200)))])
def test_palette_png(transparency: bytes) -> None:
    palette = png_chunk(b"PLTE", bytes(255 - level for level in range(256) for _ in range(3)))
    np.testing.assert_array_equal(read(png(GREY, 8, 3, palette + transparency)), 255 - GREY)


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"gAMA", struct.pack(">I", 100_000)),
        png_chunk(b"sRGB", b"\0"),
        png_chunk(b"sBIT", b"\5"),
        png_chunk(b"bKGD", b"\0\7"),
    ],
)
def test_png_pixels_are_read_as_they_are_stored(chunk: bytes) -> None:
    np.testing.assert_array_equal(read(png(GREY, before=chunk)), GREY)


def test_interlaced_png() -> None:
    np.testing.assert_array_equal(read(interlaced_png(GREY)), GREY)


def test_colour_png_by_the_weights_of_bt601() -> None:
    np.testing.assert_allclose(read(png(COLOUR, 8, 2)), COLOUR @ [0.299, 0.587, 0.114], atol=0.51)


# JPEG


@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("pixels", [GREY, COLOUR])
def test_jpeg_against_pillow(pixels: np.ndarray, how: dict[str, int]) -> None:
    content = saved(pixels, "JPEG", quality=95, **how)
    np.testing.assert_allclose(read(content), in_colour(content), atol=0.51)


def test_jpeg_that_stores_rgb() -> None:
    content = saved(COLOUR, "JPEG", quality=95, keep_rgb=True)
    np.testing.assert_allclose(read(content), in_colour(content), atol=0.51)


def test_cmyk_is_refused() -> None:
    ink = Image.fromarray(COLOUR).convert("CMYK")
    assert refusal(saved(ink, "JPEG")) == "has CMYK; save it as grey or RGB"  # Pillow writes Adobe's inverted ink
    assert refusal(saved(ink, "TIFF")) == "has CMYK; save it as grey or RGB"


def test_jpeg_of_twelve_bits_is_named() -> None:
    content = bytearray(saved(GREY, "JPEG"))
    content[content.index(b"\xff\xc0") + 4] = 12
    assert refusal(bytes(content)) == "is a 12-bit JPEG file; save it as PNG"


# TIFF


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("extra", [0, 2])
@pytest.mark.parametrize("pixels", [GREY, RGB])
def test_alpha_in_tiff_is_dropped(pixels: np.ndarray, extra: int, planes: int, big: bool, order: str) -> None:
    content = tiff(
        np.dstack([pixels, ALPHA]), 2 if pixels.ndim == 3 else 1, planes=planes, big=big, order=order,
        more=[(338, 3, [extra])],
    )  # fmt: skip
    np.testing.assert_array_equal(read(content), GREY)


@pytest.mark.parametrize("extra", [0, 2])
@pytest.mark.parametrize("pixels", [DEEP, RGB * np.uint16(257)])
def test_alpha_in_tiff_of_sixteen_bits_is_dropped(pixels: np.ndarray, extra: int) -> None:
    content = tiff(np.dstack([pixels, DEEP // 2]), 2 if pixels.ndim == 3 else 1, more=[(338, 3, [extra])])
    np.testing.assert_allclose(read(content), GREY, atol=1e-4)


def test_two_extra_samples_in_tiff_are_dropped() -> None:
    content = tiff(np.dstack([GREY, ALPHA, ALPHA]), 1, more=[(338, 3, [2, 0])])
    np.testing.assert_array_equal(read(content), GREY)


def test_colours_that_were_multiplied_by_alpha_are_refused() -> None:
    associated = [(338, 3, [1])]
    assert "multiplied by alpha" in refusal(tiff(np.dstack([RGB, ALPHA]), 2, more=associated))
    assert "multiplied by alpha" in refusal(tiff(np.dstack([GREY, ALPHA]), 1, more=associated))
    opaque = tiff(np.dstack([RGB, np.full_like(GREY, 255)]), 2, more=associated)
    np.testing.assert_array_equal(read(opaque), GREY)


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [1, 8, 10, 12, 14, 16])
def test_grey_tiff_of_every_depth(bits: int, photometric: int) -> None:
    levels = ((X * 7 + Y * 1001) % 2**bits).astype(np.uint8 if bits <= 8 else np.uint16)
    levels[0, :2] = 0, 2**bits - 1
    shown = levels * (255 / (2**bits - 1))
    found = read(tiff(levels, photometric, bits=bits))
    np.testing.assert_allclose(found, shown if photometric else 255 - shown, atol=1e-4)


@pytest.mark.parametrize("planes", [1, 2])
def test_rgb_tiff_plane_by_plane(planes: int) -> None:
    np.testing.assert_allclose(read(tiff(COLOUR, 2, planes=planes)), COLOUR @ [0.299, 0.587, 0.114], atol=0.51)
    deep = tiff(COLOUR * np.uint16(257), 2, planes=planes)
    if planes == 2:
        assert "plane by plane" in refusal(deep)
    else:
        np.testing.assert_allclose(read(deep), COLOUR @ [0.299, 0.587, 0.114], atol=0.51)


def test_palette_tiff() -> None:
    palette = [(320, 3, [257 * (255 - level) for level in range(256)] * 3)]
    np.testing.assert_array_equal(read(tiff(GREY, 3, more=palette)), 255 - GREY)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (tiff(GREY, 8), "has CIELab; save it as grey or RGB"),
        (tiff(GREY, 32803), "has a pattern of colour filters; save it as grey or RGB"),
        (tiff(GREY, 99), "has TIFF colours of kind 99; save it as grey or RGB"),
        (tiff(GREY % 16, 1, bits=4), "has 4 bits per sample; save it with 8 or 16"),
        (tiff(GREY.astype(np.float16), 1, more=[(339, 3, [3])]), "float16 pixels are not supported; save it with"),
        (tiff(GREY.astype(np.uint32), 1), "uint32 pixels are not supported; save it with 8 or 16 unsigned bits"),
        (tiff(GREY.astype(np.int16), 1, more=[(339, 3, [2])]), "int16 pixels are not supported"),
    ],
)
def test_other_tiff_files_are_refused(content: bytes, sentence: str) -> None:
    assert refusal(content).startswith(sentence)


def test_a_tiff_whose_pages_go_in_a_circle() -> None:
    content = bytearray(tiff(GREY, 1))
    (first,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * count, first)
    assert refusal(bytes(content)).startswith("not a readable image, or damaged")


# GIF, WebP, BMP: read by their content


@pytest.mark.parametrize("how", [("GIF", {}), ("WEBP", {"lossless": True}), ("WEBP", {"quality": 90}), ("BMP", {})])
@pytest.mark.parametrize("pixels", [GREY, COLOUR, GREY > 100])
def test_a_single_picture_of_another_format(pixels: np.ndarray, how: tuple[str, dict]) -> None:
    content = saved(pixels, how[0], **how[1])
    np.testing.assert_allclose(read(content), in_colour(content), atol=0.51)


def test_alpha_in_webp_is_dropped() -> None:
    content = saved(np.dstack([RGB, ALPHA]), "WEBP", lossless=True, exact=True)
    np.testing.assert_array_equal(read(content), GREY)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (saved(Image.fromarray(GREY), "GIF", transparency=3), "has a transparent colour; save it as PNG"),
        (saved(GREY, "JPEG2000"), "is a JPEG 2000 file; save it as PNG"),
        (saved(GREY, "PPM"), "is a PNM file; save it as PNG"),
        (saved(np.dstack([RGB, ALPHA]), "BMP"), "is a BMP file of 32 bits in an unusual form; save it as PNG"),
        (b"\0\0\0\x20ftypavif" + bytes(40), "is an AVIF or HEIC file; save it as PNG"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X", "is an AppleDouble file, which a Mac puts beside a picture; remove it"),
        (b"version https://git-lfs.github.com/spec/v1", "is a pointer of Git LFS, not the picture; run `git lfs pull`"),
        (b"<!DOCTYPE html><html>", "is a page of text, not a picture; download it again"),
        (b"%PDF-1.7", "is a PDF file; save its picture as PNG"),
    ],
)  # fmt: skip
def test_other_formats_are_named(content: bytes, sentence: str) -> None:
    assert refusal(content) == sentence


# Several frames, truncation, bytes behind the end


def animated(kind: str, **how: object) -> bytes:
    pictures = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR), Image.fromarray(RGB)]
    return saved(pictures[0], kind, save_all=True, append_images=pictures[1:], **how)


@pytest.mark.parametrize(
    ("content", "count"),
    [
        (animated("PNG"), 3),
        (animated("PNG", default_image=True), 3),
        (animated("GIF"), 3),
        (animated("WEBP", lossless=True), 3),
        (animated("TIFF"), 3),
        (saved(GREY, "PNG"), 1),
        (saved(GREY, "PNG", save_all=True), 1),
    ],
)
def test_several_frames_are_refused_in_every_format(content: bytes, count: int) -> None:
    if count == 1:
        np.testing.assert_array_equal(read(content), GREY)
    else:
        assert refusal(content) == f"has {count} frames; save one image per file"


KINDS = {"PNG": {}, "JPEG": {"quality": 95}, "TIFF": {}, "GIF": {}, "WEBP": {"lossless": True}, "BMP": {}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", [b"\0" * 4096, b"\xff" * 2048, b"\xff\xd9" * 2000, b"IEND" * 999, saved(RGB, "JPEG")])
def test_bytes_behind_the_end_change_nothing(kind: str, tail: bytes) -> None:
    content = saved(RGB, kind, **KINDS[kind])
    np.testing.assert_array_equal(read(content + tail), read(content))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_refused_in_every_format(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    content = saved(np.dstack([noise, noise, noise]), kind, **KINDS[kind])
    assert refusal(content[: int(share * len(content))]).startswith(
        ("the image is truncated; copy or export it again", "not a readable image, or damaged")
    )


def test_a_thumbnail_with_an_end_of_its_own_does_not_make_a_jpeg_whole() -> None:
    thumbnail = saved(GREY[:16, :16], "JPEG")
    content = saved(GREY, "JPEG", quality=95)
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail
    whole = content[:2] + segment + content[2:]
    np.testing.assert_array_equal(read(whole), read(content))
    assert refusal(whole[:-2]) == "the image is truncated; copy or export it again"


@pytest.mark.parametrize("place", [30, 100, 400])
def test_a_png_with_a_changed_byte_is_refused(place: int) -> None:
    content = bytearray(png(np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)))
    content[content.index(b"IDAT") + place] ^= 0x55
    assert refusal(bytes(content)).startswith("not a readable image, or damaged")


# What is said about pictures that are read


@pytest.mark.parametrize(
    ("content", "kinds"),
    [
        (png(GREY), []),
        (png(RGB, 8, 2), []),
        (saved(RGB, "JPEG", quality=50), []),
        (png(COLOUR, 8, 2), ["colour"]),
        (png(COLOUR * np.uint16(257), 16, 2), ["colour"]),
        (png(DEEP, 16), []),
        (png(DEEP // 16, 16), ["few-bits"]),
        (png(DEEP * np.uint16(0), 16), []),
        (tiff(DEEP // 16, 1, more=[(281, 3, [4095])]), ["few-bits"]),
        (saved(GREY, "JPEG", exif=Image.Exif()), []),
    ],
)
def test_what_should_be_said_about_a_picture(content: bytes, kinds: list[str]) -> None:
    assert notices(content) == kinds


def test_an_orientation_of_exif_is_told_and_not_applied() -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    content = saved(GREY, "JPEG", quality=95, exif=exif)
    assert notices(content) == ["orientation"]
    np.testing.assert_array_equal(read(content), np.asarray(Image.open(io.BytesIO(content))))


def test_by_default_notices_are_warnings_that_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(DEEP // 16, 16))
    with pytest.warns(PictureWarning, match=r"a\.png: uses 12 of its 16 bits and is shown nearly black; scale it"):
        loading.read_picture(tmp_path / "a.png")


def test_the_notices_of_a_run_are_counted() -> None:
    found, said = Notices(), []
    for name, kinds in (("b.png", ["colour"]), ("a.png", ["colour", "few-bits"]), ("c.png", [])):
        for kind in kinds:
            found.of(name)(Notice(kind, ""))
    found.warn(3, said.append)
    assert [sentence.partition(" pictures")[0] for sentence in said] == ["2 of 3", "1 of 3"]
    assert "(a.png for example)" in said[0]


def test_a_run_has_one_sentence_per_kind() -> None:
    assert summary({}, 60) == []
    assert summary({"colour": ["a.png", "b.png"]}, 60) == [
        "2 of 60 pictures have colour; they were turned to grey (a.png for example)"
    ]


@pytest.mark.parametrize(
    ("there", "named", "hint"),
    [
        ("a.png", "a", "a.png is there, so give the suffix with --columns 'file={file}.png'"),
        ("x/a.png", "x\\a.png", "its folders are written with \\, write them with /"),
        ("M\u00fcller.png", "Mu\u0308ller.png", "it is there with its accents in another form of Unicode (NFC, NFD)"),
        ("a.png", "b", ""),
        ("a.png", 253 * "n", ""),
    ],
)
def test_a_name_that_is_nearly_right_is_told(tmp_path: Path, there: str, named: str, hint: str) -> None:
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_bytes(png(GREY))
    with pytest.raises(InputError) as caught:
        loading.read_picture(tmp_path / named)
    assert str(caught.value).startswith(f"{tmp_path}/{named}: no such file{hint and '; '}{hint}")


# Hostile files


def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket.png"))
    for name, kind in (("fifo", "a FIFO"), ("zero", "a device"), ("socket", "a socket")):
        with pytest.raises(InputError, match=rf"{name}\.png: is {kind}, not a plain file"):
            loading.read_picture(tmp_path / f"{name}.png")
    listening.close()


def test_a_vast_file_is_refused_by_its_size(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as stream:
        stream.truncate(2 * 2**30)  # sparse
    with pytest.raises(InputError, match=r"a\.png: has 2048 MiB, more than the 1024 MiB that are read"):
        loading.read_picture(tmp_path / "a.png")


SIZES = {
    "PNG": png(GREY, size=(30_000, 30_000)),
    "JPEG": saved(GREY, "JPEG").replace(struct.pack(">HH", 64, 48), struct.pack(">HH", 30_000, 30_000), 1),
    "TIFF": tiff(GREY, 1).replace(struct.pack("<HHII", 256, 4, 1, 48), struct.pack("<HHII", 256, 4, 1, 30_000_000)),
    "GIF": b"GIF89a" + struct.pack("<HH", 30_000, 30_000) + saved(GREY, "GIF")[10:],
    "WebP": saved(RGB, "WEBP", lossless=True).replace(
        struct.pack("<I", 47 | 63 << 14), struct.pack("<I", 16_383 | 16_383 << 14), 1
    ),
    "BMP": saved(GREY, "BMP").replace(struct.pack("<ii", 48, 64), struct.pack("<ii", 30_000, -30_000), 1),
}


@pytest.mark.parametrize("kind", SIZES)
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(kind: str) -> None:
    said = refusal(SIZES[kind])
    assert "pixels, more than 100 million; shrink it, or raise the limit with --max-pixels" in said


def test_the_limit_is_the_callers() -> None:
    assert refusal(png(GREY), max_pixels=64 * 48 - 1).startswith("has 48 x 64 pixels, more than 0.003071 million")
    np.testing.assert_array_equal(read(png(GREY), max_pixels=64 * 48), GREY)


MEASURE = """
import resource, sys
from pathlib import Path
from harness.common.errors import InputError
from harness.images.loading import load_grey
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_grey(Path(sys.argv[1]), (224, 224))
    print("read", end=" ")
except InputError:
    print("refused", end=" ")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def black_png(path: Path, side: int) -> Path:
    """A PNG file of side x side black pixels, which takes a thousandth of them."""
    packer = zlib.compressobj(9)
    body = b"".join([*(packer.compress(bytes(side + 1)) for _ in range(side)), packer.flush()])
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b""))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("side", "outcome", "mebibytes"), [(30_000, "refused", 20), (10_000, "read", 800)])
def test_memory_that_a_picture_takes(tmp_path: Path, side: int, outcome: str, mebibytes: int) -> None:
    """A refused picture takes no more than its file; one of 100 million pixels some 5 bytes per pixel."""
    path = black_png(tmp_path / "a.png", side)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    found, most = done.stdout.split()
    assert found == outcome
    assert int(most) < mebibytes

"""No text leaves beside the pixels: in DICOM elements, in compressed streams, in JPEG and PNG files."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from pydicom import dcmread, dcmwrite, uid
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder

from harness.common.errors import InputError
from harness.images.codestreams import without_comments, without_text_chunks
from harness.images.deidentify import pixels_only
from harness.images.loading import decode_picture
from tests.made_images import saved
from tests.test_harness_dicom import BYTES, RAMP, SIGNED, dataset

NAME = b"INVENTED^NAME 1950-01-01"
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)


def jpeg_segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(data)) + data


def jpeg() -> bytes:
    """A JPEG stream with the name in every segment that may hold text, and behind its end."""
    stream = saved(NOISE, "JPEG", quality=95, comment=NAME, exif=b"Exif\0\0" + NAME)
    more = b"".join(jpeg_segment(marker, NAME) for marker in (0xE2, 0xED, 0xEE, 0xEF, 0xFE))
    return stream[:2] + more + stream[2:] + NAME


def jpeg_2000() -> bytes:
    """A JPEG 2000 stream with the name in the main header, in that of its tile-part, and behind its end."""
    stream = saved(NOISE, "JPEG2000", irreversible=False, no_jp2=True, comment=NAME.decode())
    start = stream.index(b"\xff\x90")
    data = stream.index(b"\xff\x93", start)
    comment = struct.pack(">HHH", 0xFF64, 4 + len(NAME), 1) + NAME
    (size,) = struct.unpack_from(">I", stream, start + 6)
    header = stream[start : start + 6] + struct.pack(">I", size + len(comment)) + stream[start + 10 : data]
    return stream[:start] + header + comment + stream[data:] + NAME


def as_bytes(made) -> bytes:
    stream = io.BytesIO()
    dcmwrite(stream, made, enforce_file_format=True)
    return stream.getvalue()


def grey(content: bytes) -> np.ndarray:
    return decode_picture(Path("a"), content)


@pytest.mark.parametrize("make", [jpeg, jpeg_2000])
def test_comments_of_a_stream_are_blanked_and_its_pixels_stay(make) -> None:
    stream = make()
    assert stream.count(NAME) >= 3
    cleaned = without_comments(stream)
    assert NAME not in cleaned
    assert len(cleaned) == len(stream) - len(NAME)
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(cleaned))), np.asarray(Image.open(io.BytesIO(stream)))
    )


@pytest.mark.parametrize(
    ("syntax", "make"),
    [(uid.JPEGBaseline8Bit, jpeg), (uid.JPEG2000Lossless, jpeg_2000)],
)
def test_comments_in_compressed_dicom_do_not_survive(syntax: uid.UID, make) -> None:
    content = as_bytes(dataset(NOISE, 8, syntax, PixelData=encapsulate([make()])))
    reduced = pixels_only(content)
    assert NAME in content
    assert NAME not in reduced
    np.testing.assert_array_equal(grey(reduced), grey(content))


def test_what_stands_behind_the_runs_of_rle_does_not_survive() -> None:
    made = dataset(RAMP, 12)
    frame = get_encoder(uid.RLELossless).encode(made, encoding_plugin="pydicom")
    made.file_meta.TransferSyntaxUID = uid.RLELossless
    made.PixelData = encapsulate([frame + NAME])
    made["PixelData"].VR = "OB"
    reduced = pixels_only(as_bytes(made))
    assert NAME not in reduced
    np.testing.assert_allclose(grey(reduced), RAMP / 4095 * 255, atol=1e-4)


@pytest.mark.parametrize(
    "stream",
    [b"", b"\xff\xd8\xff\xe0", jpeg()[:-60], jpeg_2000()[:60], jpeg_2000()[:-40], b"\0\0\0\x0cjP  " + jpeg_2000()],
)
def test_a_stream_that_cannot_be_cut_up_is_refused(stream: bytes) -> None:
    with pytest.raises((ValueError, struct.error)):
        without_comments(stream)
    made = dataset(BYTES, 8, uid.JPEG2000Lossless, PixelData=encapsulate([stream or b"\0\0"]))
    with pytest.raises(InputError, match=r"comments cannot be taken out of its JPEG 2000 .* give --keep-identifiers"):
        pixels_only(as_bytes(made))


def test_functional_groups_move_to_where_a_classic_file_has_them() -> None:
    from tests.test_harness_dicom import enhanced

    made = enhanced("SharedFunctionalGroupsSequence")
    made.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0].RescaleType = NAME.decode()[:16]
    content = as_bytes(made)
    reduced = pixels_only(content)
    assert "SharedFunctionalGroupsSequence" not in dcmread(io.BytesIO(reduced))
    assert NAME[:8] not in reduced
    np.testing.assert_array_equal(grey(reduced), grey(content))


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
@pytest.mark.parametrize("pixels", [RAMP, SIGNED])
def test_overlays_do_not_survive(pixels: np.ndarray, syntax: uid.UID) -> None:
    plane = (RAMP % 3 == 0).astype(np.uint16) << 14
    stored = ((pixels.view(np.uint16) & 0x0FFF) | plane).astype("<u2" if syntax.is_little_endian else ">u2")
    made = dataset(pixels, 12, syntax, PixelData=stored.tobytes())
    made.add_new(0x60000100, "US", 16)
    made.add_new(0x60000102, "US", 14)
    content = as_bytes(made)
    reduced = pixels_only(content)
    kept = dcmread(io.BytesIO(reduced))
    assert not [element for element in kept if element.tag.group == 0x6000]
    np.testing.assert_array_equal(kept.pixel_array, pixels)
    np.testing.assert_array_equal(grey(reduced), grey(content))


def test_one_bit_per_pixel_stays() -> None:
    white = RAMP % 3 == 0
    packed = np.packbits(white, bitorder="little").tobytes()
    made = dataset(BYTES, 8, Rows=64, Columns=64, BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=packed)
    np.testing.assert_array_equal(grey(pixels_only(as_bytes(made))), 255 * white)


def test_text_in_png_does_not_survive() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", NAME.decode())
    info.add_text("Compressed", NAME.decode() * 3, zip=True)
    info.add_itxt("Title", NAME.decode())
    content = saved(NOISE, "PNG", pnginfo=info, exif=b"Exif\0\0" + NAME) + NAME
    cleaned = without_text_chunks(content)
    assert NAME in content
    assert not [chunk for chunk in (b"tEXt", b"zTXt", b"iTXt", b"eXIf", NAME) if chunk in cleaned]
    np.testing.assert_array_equal(grey(cleaned), NOISE)

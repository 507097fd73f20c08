"""Colour in DICOM: every photometric interpretation beside the picture that was encoded, and luminance under grey."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, uid
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import convert_color_space

from harness.common.errors import InputError
from harness.images.deidentify import pixels_only
from harness.images.loading import read_picture
from harness.images.notices import Notice, ignore
from harness.images.rule import ImageRule
from tests.test_harness_dicom import BYTES, dataset, written

COLOUR = ImageRule(name="x", fit="squash")
rng = np.random.default_rng(0)
PICTURE = cv2.resize(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8), (40, 32), interpolation=cv2.INTER_CUBIC)


def colours(pixels: np.ndarray, kind: str, syntax: Any = uid.ExplicitVRLittleEndian, **tags: Any) -> Dataset:
    """A file of three samples per pixel; `pixels` (32, 40, 3) as they are stored."""
    made = dataset(np.zeros(PICTURE.shape[:2], pixels.dtype), 8 * pixels.dtype.itemsize, syntax)
    made.PhotometricInterpretation, made.SamplesPerPixel, made.PlanarConfiguration = kind, 3, 0
    made.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(made, name, value)
    return made


def of(folder: Path, made: Dataset, rule: ImageRule = COLOUR) -> np.ndarray:
    return read_picture(written(folder, made), rule, notice=ignore)


def jpeg(picture: np.ndarray, kind: str = "JPEG", **how: Any) -> bytes:
    stream = BytesIO()
    Image.fromarray(picture).save(stream, kind, **how)
    return stream.getvalue()


def subsampled(ybr: np.ndarray) -> bytes:
    """Two pixels share their colour differences: Y1 Y2 Cb Cr."""
    rows = ybr.reshape(-1, 2, 3)
    return np.concatenate([rows[..., 0], rows[:, 0, 1:]], axis=1).astype(np.uint8).tobytes()


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    np.testing.assert_array_equal(of(tmp_path, colours(PICTURE, "RGB")), PICTURE)
    planes = colours(np.ascontiguousarray(np.moveaxis(PICTURE, -1, 0)), "RGB", PlanarConfiguration=1)
    np.testing.assert_array_equal(of(tmp_path, planes), PICTURE)
    deep = PICTURE.astype(np.uint16) * 257
    np.testing.assert_allclose(of(tmp_path, colours(deep, "RGB")), PICTURE, atol=1e-4)


def test_ybr_full_is_converted(tmp_path: Path) -> None:
    ybr = convert_color_space(PICTURE, "RGB", "YBR_FULL")
    np.testing.assert_allclose(of(tmp_path, colours(ybr, "YBR_FULL")), PICTURE, atol=2)
    pairs = np.repeat(PICTURE[:, ::2], 2, axis=1)  # neighbours of one colour, so that nothing is lost
    halved = subsampled(convert_color_space(pairs, "RGB", "YBR_FULL"))
    found = of(tmp_path, colours(PICTURE, "YBR_FULL_422", PixelData=halved))
    np.testing.assert_allclose(found, pairs, atol=2)


def test_ybr_of_partial_range_is_converted(tmp_path: Path) -> None:
    """PS3.3 C.7.6.3.1.2: Y = 0.2568 R + 0.5041 G + 0.0979 B + 16, and so on."""
    pairs = np.repeat(PICTURE[:, ::2], 2, axis=1)
    matrix = np.array([[0.2568, 0.5041, 0.0979], [-0.1482, -0.2910, 0.4392], [0.4392, -0.3678, -0.0714]])
    ybr = np.rint(pairs @ matrix.T + (16, 128, 128)).astype(np.uint8)
    found = of(tmp_path, colours(PICTURE, "YBR_PARTIAL_422", PixelData=subsampled(ybr)))
    np.testing.assert_allclose(found, pairs, atol=2.5)


@pytest.mark.parametrize("kind", ["YBR_FULL_422", "YBR_FULL", "RGB"])
def test_a_jpeg_stream_is_converted_by_its_decoder(tmp_path: Path, kind: str) -> None:
    how = {"RGB": {"quality": 95, "keep_rgb": True}}.get(kind, {"quality": 95, "subsampling": 0})
    content = jpeg(PICTURE, **how)
    made = colours(PICTURE, kind, uid.JPEGBaseline8Bit, PixelData=encapsulate([content]))
    expected = np.asarray(Image.open(BytesIO(content)).convert("RGB"), np.float32)
    np.testing.assert_allclose(of(tmp_path, made), expected, atol=2)
    assert np.abs(expected - PICTURE).mean() < 4


@pytest.mark.parametrize(("kind", "lossless"), [("YBR_RCT", True), ("YBR_ICT", False)])
def test_a_jpeg_2000_stream_is_converted_by_its_decoder(tmp_path: Path, kind: str, lossless: bool) -> None:
    content = jpeg(PICTURE, "JPEG2000", irreversible=not lossless, no_jp2=True, mct=1)
    syntax = uid.JPEG2000Lossless if lossless else uid.JPEG2000
    made = colours(PICTURE, kind, syntax, PixelData=encapsulate([content]))
    np.testing.assert_allclose(of(tmp_path, made), PICTURE, atol=0 if lossless else 6)


def palette(bits: int) -> Dataset:
    numbers = np.arange(1280, dtype=np.uint32).reshape(32, 40) % 256
    made = dataset(numbers.astype(np.uint8), 8)
    made.PhotometricInterpretation = "PALETTE COLOR"
    for name, table in zip(("Red", "Green", "Blue"), tables(bits), strict=True):
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [256, 0, bits])
        setattr(made, f"{name}PaletteColorLookupTableData", table.tobytes())
    return made


def tables(bits: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 2**bits, (3, 256)).astype(np.uint8 if bits == 8 else np.uint16)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_is_looked_up(tmp_path: Path, bits: int) -> None:
    made = palette(bits)
    numbers = np.frombuffer(made.PixelData, np.uint8).reshape(32, 40)
    expected = tables(bits)[:, numbers].transpose(1, 2, 0) * (255 / (2**bits - 1))
    np.testing.assert_allclose(of(tmp_path, made), expected, atol=1e-3)


def test_under_the_grey_rule_colour_becomes_luminance(tmp_path: Path) -> None:
    found: list[Notice] = []
    grey = read_picture(written(tmp_path, colours(PICTURE, "RGB")), notice=found.append)
    np.testing.assert_allclose(grey, PICTURE @ np.array([0.299, 0.587, 0.114]), atol=1e-2)
    assert [notice.kind for notice in found] == ["colour"]


def test_grey_under_a_rule_of_colour_is_repeated(tmp_path: Path) -> None:
    found: list[Notice] = []
    shown = read_picture(written(tmp_path, dataset(BYTES, 8)), COLOUR, notice=found.append)
    assert (shown == BYTES[..., None]).all()
    assert [notice.kind for notice in found] == ["grey"]


@pytest.mark.parametrize(
    ("tags", "sentence"),
    [
        ({"NumberOfFrames": 2}, r"has 2 frames; save one image per file"),
        ({"PixelRepresentation": 1}, r"RGB pixels with a sign are not supported; save it as unsigned"),
        ({"PhotometricInterpretation": "CMYK"}, r"CMYK pixels with samples per pixel 3 are not supported; save it as"),
        ({"SamplesPerPixel": 4}, r"RGB pixels with samples per pixel 4 are not supported"),
    ],
)
def test_other_colours_are_refused(tmp_path: Path, tags: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=rf"a\.dcm: {sentence}"):
        of(tmp_path, colours(PICTURE, "RGB", **tags))


def test_a_damaged_table_that_decoding_does_not_need_is_one_sentence(tmp_path: Path) -> None:
    """pydicom reads the descriptor of red alone, and that of green only to copy it."""
    content = written(tmp_path, palette(8)).read_bytes()
    green = content.index(b"\x28\x00\x02\x11US")
    damaged = content[: green + 4] + b"\x55\xa3" + content[green + 6 :]
    with pytest.raises(InputError, match=r"its GreenPaletteColorLookupTableDescriptor is damaged \(Unknown Value"):
        pixels_only(damaged)


@pytest.mark.parametrize("kind", ["RGB", "planes", "YBR_FULL_422", "YBR_PARTIAL_422", "palette", "jpeg"])
def test_what_is_passed_on_shows_the_same_colours(tmp_path: Path, kind: str) -> None:
    pairs = np.repeat(PICTURE[:, ::2], 2, axis=1)
    made = {
        "RGB": lambda: colours(PICTURE, "RGB"),
        "planes": lambda: colours(np.ascontiguousarray(np.moveaxis(PICTURE, -1, 0)), "RGB", PlanarConfiguration=1),
        "YBR_FULL_422": lambda: colours(
            PICTURE, kind, PixelData=subsampled(convert_color_space(pairs, "RGB", "YBR_FULL"))
        ),
        "YBR_PARTIAL_422": lambda: colours(
            PICTURE, kind, PixelData=subsampled(convert_color_space(pairs, "RGB", "YBR_FULL")) + b"Doe^Jane"
        ),
        "palette": lambda: palette(16),
        "jpeg": lambda: colours(
            PICTURE, "YBR_FULL_422", uid.JPEGBaseline8Bit, PixelData=encapsulate([jpeg(PICTURE, subsampling=1)])
        ),
    }[kind]()
    made.PatientName = "Doe^Jane"
    path = written(tmp_path, made)
    reduced = pixels_only(path.read_bytes())
    assert b"Doe" not in reduced
    (tmp_path / "reduced.dcm").write_bytes(reduced)
    before, after = (read_picture(file, COLOUR, notice=ignore) for file in (path, tmp_path / "reduced.dcm"))
    np.testing.assert_array_equal(before, after)

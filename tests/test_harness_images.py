"""The one way a file becomes an array."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from harness.common.errors import InputError
from harness.images import loading

RAMP = np.arange(48 * 40, dtype=np.float32).reshape(40, 48)


def save(path: Path, pixels: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), pixels)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_eight_bits_stay_as_they_are(tmp_path: Path, suffix: str) -> None:
    pixels = (RAMP % 256).astype(np.uint8)
    found = loading.read_picture(save(tmp_path / f"a{suffix}", pixels))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, pixels)


def test_sixteen_bits_use_the_full_range(tmp_path: Path) -> None:
    pixels = np.array([[0, 65535, 257]], np.uint16)
    np.testing.assert_allclose(loading.read_picture(save(tmp_path / "a.png", pixels)), [[0, 255, 1]], rtol=1e-6)


def test_the_names_that_programs_of_others_import(tmp_path: Path) -> None:
    from harness import errors, images, model

    cv2.imwrite(str(tmp_path / "a.png"), np.arange(48, dtype=np.uint8).reshape(6, 8))
    assert np.array_equal(images.read_grey(tmp_path / "a.png"), images.read_picture(tmp_path / "a.png", images.GREY))
    assert images.load_grey(tmp_path / "a.png", (3, 4)).shape == (3, 4)
    assert images.channels_first(np.zeros((1, 3, 4))).shape == (1, 3, 3, 4)
    assert issubclass(errors.InputError, Exception)
    assert model.Model


def test_colour_becomes_grey_and_alpha_is_dropped(tmp_path: Path) -> None:
    equal = np.repeat((RAMP % 256).astype(np.uint8)[..., None], 4, axis=-1)
    np.testing.assert_array_equal(loading.read_picture(save(tmp_path / "a.png", equal)), equal[..., 0])


def test_shrinking_averages_areas() -> None:
    tiles = RAMP.reshape(20, 2, 24, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(loading.squash(RAMP, (20, 24)), tiles, rtol=1e-6)


def test_each_axis_follows_its_own_rule() -> None:
    shrunk_then_grown = loading.squash(loading.squash(RAMP, (20, 48)), (20, 96))
    np.testing.assert_allclose(loading.squash(RAMP, (20, 96)), shrunk_then_grown, rtol=1e-6)


def test_channels_are_equal_copies() -> None:
    greys = np.stack([RAMP, RAMP + 1])
    assert loading.channels_first(greys).shape == (2, 3, 40, 48)
    assert loading.channels_last(greys).shape == (2, 40, 48, 3)
    np.testing.assert_array_equal(loading.channels_first(greys)[:, 2], greys)
    np.testing.assert_array_equal(loading.channels_last(greys)[..., 1], greys)


def test_no_flip_and_no_rotation(tmp_path: Path) -> None:
    corner = np.zeros((64, 64), np.uint8)
    corner[:16, -16:] = 255  # top right
    found = loading.load_grey(save(tmp_path / "a.png", corner), (32, 32))
    assert found[:8, -8:].min() == 255
    assert found[8:].max() == 0
    assert found[:, :24].max() == 0


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", (RAMP % 251).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"a\.(jpg|png): the image is truncated"):
        loading.read_picture(path)


@pytest.mark.parametrize(
    ("content", "sentence"), [(b"", "not a readable image"), (b"not an image at all", "not a readable image")]
)
def test_no_image_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        loading.read_picture(tmp_path / "a.png")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"b\.png: no such file"):
        loading.read_picture(tmp_path / "b.png")


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", RAMP)
    with pytest.raises(InputError, match="float32 pixels are not supported"):
        loading.read_picture(path)


@pytest.mark.parametrize(
    "compression",
    [cv2.IMWRITE_TIFF_COMPRESSION_NONE, cv2.IMWRITE_TIFF_COMPRESSION_LZW, cv2.IMWRITE_TIFF_COMPRESSION_ADOBE_DEFLATE],
)
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_tiff_compressions_are_lossless(tmp_path: Path, compression: int, depth: type) -> None:
    pixels = (RAMP * 30 % np.iinfo(depth).max).astype(depth)
    path = tmp_path / "a.tif"
    assert cv2.imwrite(str(path), pixels, [cv2.IMWRITE_TIFF_COMPRESSION, compression])
    np.testing.assert_allclose(loading.read_picture(path), pixels * (255 / np.iinfo(depth).max), rtol=1e-6)


@pytest.mark.parametrize(("name", "options"), [("a.png", {}), ("a.tif", {}), ("b.tif", {"compression": "group4"})])
def test_one_bit_is_black_and_white(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    white = RAMP % 3 == 0
    Image.fromarray(white).save(tmp_path / name, **options)
    np.testing.assert_array_equal(loading.read_picture(tmp_path / name), 255 * white)


@pytest.mark.parametrize("depth", [np.float32, np.float64, np.int16, np.int8])
def test_other_tiff_pixels_are_refused(tmp_path: Path, depth: type) -> None:
    path = save(tmp_path / "a.tif", (RAMP % 100).astype(depth))
    with pytest.raises(InputError, match=rf"a\.tif: {np.dtype(depth)} pixels are not supported; save it with 8 or 16"):
        loading.read_picture(path)


def raw_tiff(path: Path, pixels: np.ndarray, photometric: int, orientation: int = 1) -> Path:
    """An uncompressed TIFF file of one strip, by TIFF 6.0."""
    height, width = pixels.shape
    content = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    tags = [(256, width), (257, height), (258, 8 * pixels.itemsize), (259, 1), (262, photometric), (273, 8),
            (274, orientation), (277, 1), (278, height), (279, len(content))]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8 + len(content)) + content + directory)
    return path


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("photometric", [0, 1])
def test_tiff_of_which_zero_is_white(tmp_path: Path, depth: type, photometric: int) -> None:
    pixels = np.linspace(0, np.iinfo(depth).max, 12).astype(depth).reshape(3, 4)
    shown = pixels if photometric else np.iinfo(depth).max - pixels
    expected = shown * (255 / np.iinfo(depth).max)
    found = loading.read_picture(raw_tiff(tmp_path / "a.tif", pixels, photometric))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_tiff_that_is_not_upright_is_refused(tmp_path: Path, orientation: int) -> None:
    path = raw_tiff(tmp_path / "a.tif", np.zeros((3, 4), np.uint8), 1, orientation)
    with pytest.raises(InputError, match=rf"a\.tif: has the TIFF orientation {orientation}; save it upright"):
        loading.read_picture(path)


def test_tiff_of_several_pages_is_refused(tmp_path: Path) -> None:
    page = (RAMP % 256).astype(np.uint8)
    assert cv2.imwritemulti(str(tmp_path / "a.tif"), [page, page, page])
    with pytest.raises(InputError, match=r"a\.tif: has 3 frames; save one image per file"):
        loading.read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("lost", [10, 200, 1000])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "group4"])
def test_truncated_tiff_is_refused_quietly(
    tmp_path: Path, compression: str, lost: int, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96)).astype(np.uint8)
    Image.fromarray(noise > 100 if compression == "group4" else noise).save(tmp_path / "a.tif", compression=compression)
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:-lost])
    with pytest.raises(InputError, match=r"a\.tif: not a readable image, or damaged"):
        loading.read_picture(tmp_path / "a.tif")
    assert capfd.readouterr() == ("", "")


def test_dicom_name_without_dicom_content_is_refused(tmp_path: Path) -> None:
    for name in ("a.dcm", "a.DICOM"):
        (tmp_path / name).write_bytes(b"x" * 500)
        with pytest.raises(InputError, match=rf"{name}: not a DICOM file \(no DICM at byte 128\); export it again"):
            loading.read_picture(tmp_path / name)


def test_pydicom_is_loaded_only_for_a_dicom_file() -> None:
    program = "import sys, harness.images.loading; sys.exit('pydicom' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)

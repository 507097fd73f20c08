"""The one way a file becomes an array."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from harness import images
from harness.errors import InputError

RAMP = np.arange(48 * 40, dtype=np.float32).reshape(40, 48)


def save(path: Path, pixels: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), pixels)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_eight_bits_stay_as_they_are(tmp_path: Path, suffix: str) -> None:
    pixels = (RAMP % 256).astype(np.uint8)
    found = images.read_grey(save(tmp_path / f"a{suffix}", pixels))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, pixels)


def test_sixteen_bits_use_the_full_range(tmp_path: Path) -> None:
    pixels = np.array([[0, 65535, 257]], np.uint16)
    np.testing.assert_allclose(images.read_grey(save(tmp_path / "a.png", pixels)), [[0, 255, 1]], rtol=1e-6)


def test_colour_becomes_grey_and_alpha_is_dropped(tmp_path: Path) -> None:
    equal = np.repeat((RAMP % 256).astype(np.uint8)[..., None], 4, axis=-1)
    np.testing.assert_array_equal(images.read_grey(save(tmp_path / "a.png", equal)), equal[..., 0])


def test_shrinking_averages_areas() -> None:
    tiles = RAMP.reshape(20, 2, 24, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(images.squash(RAMP, (20, 24)), tiles, rtol=1e-6)


def test_each_axis_follows_its_own_rule() -> None:
    shrunk_then_grown = images.squash(images.squash(RAMP, (20, 48)), (20, 96))
    np.testing.assert_allclose(images.squash(RAMP, (20, 96)), shrunk_then_grown, rtol=1e-6)


def test_channels_are_equal_copies() -> None:
    greys = np.stack([RAMP, RAMP + 1])
    assert images.channels_first(greys).shape == (2, 3, 40, 48)
    assert images.channels_last(greys).shape == (2, 40, 48, 3)
    np.testing.assert_array_equal(images.channels_first(greys)[:, 2], greys)
    np.testing.assert_array_equal(images.channels_last(greys)[..., 1], greys)


def test_no_flip_and_no_rotation(tmp_path: Path) -> None:
    corner = np.zeros((64, 64), np.uint8)
    corner[:16, -16:] = 255  # top right
    found = images.load_grey(save(tmp_path / "a.png", corner), (32, 32))
    assert found[:8, -8:].min() == 255
    assert found[8:].max() == 0
    assert found[:, :24].max() == 0


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", (RAMP % 251).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"a\.(jpg|png): the image is truncated"):
        images.read_grey(path)


@pytest.mark.parametrize(
    ("content", "sentence"), [(b"", "not a readable image"), (b"not an image at all", "not a readable image")]
)
def test_no_image_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        images.read_grey(tmp_path / "a.png")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"b\.png: no such file"):
        images.read_grey(tmp_path / "b.png")


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", RAMP)
    with pytest.raises(InputError, match="float32 pixels are not supported"):
        images.read_grey(path)

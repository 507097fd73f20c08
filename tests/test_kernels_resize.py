"""Bilinear resizing against its formula and OpenCV, and what it must not disturb."""

from __future__ import annotations

from math import floor

import cv2
import numpy as np
import pytest

from kernels.resize import upsample

SHAPES = [((7, 7), (224, 224)), ((8, 8), (299, 299)), ((5, 9), (40, 33)), ((1, 1), (6, 4)), ((1, 6), (5, 6)),
          ((20, 30), (7, 11)), ((12, 12), (12, 12))]  # fmt: skip


def literal(a_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Half-pixel centres, clamped edges, one output pixel at a time in float64."""
    result = np.empty(size)
    for i in np.ndindex(*size):
        axes = []
        for old, new, at in zip(a_map.shape, size, i, strict=True):
            x = min(max((at + 0.5) * old / new - 0.5, 0), old - 1)
            axes.append((floor(x), min(floor(x) + 1, old - 1), x - floor(x)))
        (top, bottom, down), (left, right, along) = axes
        upper = (1 - along) * a_map[top, left] + along * a_map[top, right]
        lower = (1 - along) * a_map[bottom, left] + along * a_map[bottom, right]
        result[i] = (1 - down) * upper + down * lower
    return result


def maps_of(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).random((2, *shape), np.float32)


@pytest.mark.parametrize(("shape", "size"), SHAPES[2:])
def test_equals_the_literal_formula(shape: tuple[int, int], size: tuple[int, int]) -> None:
    maps = maps_of(shape)
    assert upsample(maps, size)[1] == pytest.approx(literal(maps[1].astype(float), size), abs=3e-7)


@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_equals_opencv_within_rounding(shape: tuple[int, int], size: tuple[int, int]) -> None:
    maps = maps_of(shape)
    theirs = cv2.resize(maps[0], size[::-1], interpolation=cv2.INTER_LINEAR)
    # OpenCV computes the shares in float32: a few units in the last place of values below 1
    assert np.abs(upsample(maps, size)[0] - theirs.reshape(size)).max() <= 2e-6


def test_same_size_is_the_same_map() -> None:
    maps = maps_of((12, 9))
    assert np.array_equal(upsample(maps, (12, 9)), maps)


def test_a_constant_stays_constant_to_the_last_bit() -> None:
    assert np.unique(upsample(np.full((1, 7, 7), 0.1), (224, 224))).size == 1


def test_non_negative_stays_non_negative_and_within_bounds() -> None:
    maps = maps_of((7, 7)) * (maps_of((7, 7)) > 0.5)
    result = upsample(maps, (100, 100))
    assert result.min() >= 0
    assert result.max() <= maps.max()


def test_undefined_map_stays_undefined_and_alone() -> None:
    maps = maps_of((7, 7))
    maps[0] = np.nan
    result = upsample(maps, (20, 20))
    assert np.isnan(result[0]).all()
    assert np.isfinite(result[1]).all()


@pytest.mark.parametrize("kind", [np.float16, np.float64, ">f4"])
def test_form_and_threads_change_no_bit(kind: str) -> None:
    maps = maps_of((7, 7)).astype(np.float16)
    plain = upsample(maps.astype(np.float32), (50, 60))
    assert np.array_equal(upsample(np.asfortranarray(maps.astype(kind)), (50, 60), threads=3), plain)
    assert plain.dtype == np.float32


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"maps must have the shape \(N, h, w\), not \(7, 7\)"):
        upsample(maps_of((7, 7))[0], (20, 20))
    with pytest.raises(ValueError, match="the width in size must be at least 1, not 0"):
        upsample(maps_of((7, 7)), (20, 0))
    with pytest.raises(TypeError, match=r"the height in size must be a whole number, not 1\.5"):
        upsample(maps_of((7, 7)), (1.5, 20))


def test_shift_moves_the_picture_and_repeats_the_edge() -> None:
    maps = maps_of((7, 7))
    still, moved = upsample(maps, (28, 28)), upsample(maps, (28, 28), shift=(2 / 28, -1 / 28))
    # two rows up, one column right; shares are rounded differently where x is not the same number
    assert moved[:, :-2, 1:] == pytest.approx(still[:, 2:, :-1], abs=1e-6)
    assert np.array_equal(moved[:, -2:], np.repeat(moved[:, -3:-2], 2, axis=1))


def test_shift_undoes_a_shifted_picture() -> None:
    """A picture moved down by one pixel of 28 and averaged to 7 x 7 is put back in place, but for the averaging."""
    picture = np.zeros((28, 28), np.float32)
    picture[8:16, 12:20] = 1
    tiles = [a.reshape(7, 4, 7, 4).mean(axis=(1, 3)) for a in (picture, np.roll(picture, 1, axis=0))]
    here, there, back = (
        upsample(tiles[0][None], (28, 28))[0],
        upsample(tiles[1][None], (28, 28))[0],
        upsample(tiles[1][None], (28, 28), shift=(1 / 28, 0))[0],
    )
    rows = np.arange(28)[:, None]
    centre = [(a * rows).sum() / a.sum() for a in (here, there, back)]
    assert centre[1] - centre[0] == pytest.approx(1, abs=0.05)
    assert centre[2] == pytest.approx(centre[0], abs=0.05)

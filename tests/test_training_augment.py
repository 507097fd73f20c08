"""Augmentation: what each change does, and that nothing changes unasked."""

from __future__ import annotations

import numpy as np
import pytest

from training.augment import augment
from training.config import Augment


def spot() -> np.ndarray:
    grey = np.full((64, 64), 50, np.float32)
    grey[20:24, 10:14] = 200
    return grey


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def centre(grey: np.ndarray) -> tuple[float, float]:
    mass = grey - grey.min()
    rows, columns = np.mgrid[0:64, 0:64]
    return float((mass * rows).sum() / mass.sum()), float((mass * columns).sum() / mass.sum())


def test_default_changes_nothing() -> None:
    assert np.array_equal(augment(spot(), Augment(), rng()), spot())
    assert not Augment().active()


def test_same_generator_same_image() -> None:
    how = Augment(shift=0.1, rotate=10, contrast=0.2, brightness=5)
    assert np.array_equal(augment(spot(), how, rng(3)), augment(spot(), how, rng(3)))
    assert not np.array_equal(augment(spot(), how, rng(3)), augment(spot(), how, rng(4)))


def test_shift_stays_within_its_share() -> None:
    row, column = centre(spot())
    moves = np.array([centre(augment(spot(), Augment(shift=0.1), rng(seed))) for seed in range(60)]) - (row, column)
    assert np.abs(moves).max() <= 6.4 + 0.1
    assert np.abs(moves).max(axis=0) == pytest.approx([6.4, 6.4], abs=1.0)


def test_rotation_is_about_the_centre() -> None:
    row, column = np.array(centre(spot())) - 31.5
    for seed in range(20):
        turned_row, turned_column = np.array(centre(augment(spot(), Augment(rotate=10), rng(seed)))) - 31.5
        assert np.hypot(turned_row, turned_column) == pytest.approx(np.hypot(row, column), abs=0.2)
        turn = np.arctan2(turned_row, turned_column) - np.arctan2(row, column)
        assert abs(np.rad2deg((turn + np.pi) % (2 * np.pi) - np.pi)) <= 10.3


def test_contrast_keeps_the_mean_and_brightness_moves_it() -> None:
    grey = np.tile(np.linspace(60, 180, 64, dtype=np.float32), (64, 1))
    stretched = augment(grey, Augment(contrast=0.3), rng())
    assert stretched.mean() == pytest.approx(grey.mean(), abs=1e-3)
    assert stretched.std() != pytest.approx(grey.std(), rel=1e-3)
    assert abs(augment(grey, Augment(brightness=20), rng()).mean() - grey.mean()) <= 20


def test_grey_levels_stay_in_range() -> None:
    for seed in range(20):
        changed = augment(spot(), Augment(contrast=0.9, brightness=100), rng(seed))
        assert changed.min() >= 0
        assert changed.max() <= 255
        assert changed.dtype == np.float32


def test_flip_happens_only_when_asked() -> None:
    flipped = [np.array_equal(augment(spot(), Augment(flip=True), rng(seed)), spot()[:, ::-1]) for seed in range(40)]
    assert 8 < sum(flipped) < 32
    never = Augment(shift=0.02, rotate=2, contrast=0.1)
    assert all(centre(augment(spot(), never, rng(seed)))[1] < 32 for seed in range(40))

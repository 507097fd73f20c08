"""Attribution by several passes against literal versions in float64, on networks written in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from kernels.several_passes import (
    NOISE_SD,
    NOISES,
    SCORED_CHANNELS,
    Ablation,
    Attribution,
    IntegratedGradients,
    Occlusion,
    ScoreCam,
    SmoothGrad,
)

C, H, W = 5, 3, 4
RANDOM = np.random.default_rng(5)
WEIGHTS, OUTER = RANDOM.normal(size=(6, C, H, W)), RANDOM.normal(size=6)
LINEAR = RANDOM.normal(size=(C, H, W))
ACTIVATIONS = np.abs(RANDOM.normal(size=(C, H, W))).astype(np.float32)
PICTURE = RANDOM.uniform(0, 255, (3, 24, 32)).astype(np.float32)
Score = Callable[[np.ndarray], float]


def curved(a: np.ndarray) -> float:
    """A small network in float64: OUTER . softplus(WEIGHTS a)."""
    return float(OUTER @ np.logaddexp(0, np.tensordot(WEIGHTS, a.astype(np.float64), axes=3)))


def slope_of_curved(a: np.ndarray) -> np.ndarray:
    inner = np.tensordot(WEIGHTS, a.astype(np.float64), axes=3)
    return np.tensordot(OUTER / (1 + np.exp(-inner)), WEIGHTS, axes=1)


def linear(a: np.ndarray) -> float:
    return float((LINEAR * a.astype(np.float64)).sum()) + 0.7


def slope_of_linear(_a: np.ndarray) -> np.ndarray:
    return LINEAR


def ask(attribution: Attribution, score: Score, slope: Callable | None, like: np.ndarray, size: int = 7) -> np.ndarray:
    """Answer all points of an attribution in pieces of `size`; returns its map before relu."""
    for first in range(0, attribution.passes, size):
        points = np.full((min(size, attribution.passes - first), *like.shape), np.nan, np.float32)
        attribution.fill(first, points)
        gradients = np.stack([slope(point) for point in points]) if slope else None
        attribution.take(first, np.array([score(point) for point in points]), gradients)
    return attribution.total()


def test_ablation_replaces_one_position_by_the_mean() -> None:
    found = ask(Ablation(ACTIVATIONS, PICTURE), curved, None, ACTIVATIONS)
    mean = ACTIVATIONS.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)
    for row in range(H):
        for column in range(W):
            changed = ACTIVATIONS.copy()
            changed[:, row, column] = mean
            assert found[row, column] == pytest.approx(curved(ACTIVATIONS) - curved(changed), abs=1e-6)


def test_integrated_gradients_add_up_the_slopes_on_the_way_from_zero() -> None:
    found = ask(IntegratedGradients(ACTIVATIONS, PICTURE), curved, slope_of_curved, ACTIVATIONS)
    steps = 20_000
    slopes = sum(slope_of_curved((n + 0.5) / steps * ACTIVATIONS.astype(np.float64)) for n in range(steps)) / steps
    np.testing.assert_allclose(found, (ACTIVATIONS * slopes).sum(axis=0), atol=1e-6)


def test_integrated_gradients_are_complete() -> None:
    made = IntegratedGradients(ACTIVATIONS, PICTURE)
    found = ask(made, curved, slope_of_curved, ACTIVATIONS)
    change = curved(ACTIVATIONS) - curved(0 * ACTIVATIONS)
    assert found.sum() == pytest.approx(change, rel=1e-6)
    assert made.residual() == pytest.approx(abs(found.sum() - change) / abs(change), abs=1e-12)
    coarse = IntegratedGradients(ACTIVATIONS, PICTURE, steps=1)
    ask(coarse, curved, slope_of_curved, ACTIVATIONS)
    assert coarse.residual() > 1e-3


def test_no_way_has_no_residual() -> None:
    nothing = IntegratedGradients(0 * ACTIVATIONS, PICTURE)
    assert not ask(nothing, curved, slope_of_curved, ACTIVATIONS).any()
    assert np.isnan(nothing.residual())


def test_score_cam_weighs_channels_by_the_scores_of_masked_pictures() -> None:
    random = np.random.default_rng(0)
    activations = random.normal(size=(SCORED_CHANNELS + 9, 6, 8)).astype(np.float32)
    activations[4] = 2.5  # the same everywhere: no mask
    head = random.normal(size=PICTURE.shape) / 2e4

    def score(picture: np.ndarray) -> float:
        return float((head * picture.astype(np.float64)).sum())

    found = ask(ScoreCam(activations, PICTURE), score, None, PICTURE)
    spread = [np.std(channel.astype(np.float64)) for channel in activations]
    chosen = sorted(range(len(spread)), key=lambda k: -spread[k])[:SCORED_CHANNELS]
    scores = np.array([score(PICTURE * _enlarged_mask(activations[k])) for k in chosen])
    weights = np.exp(scores) / np.exp(scores).sum()
    wanted = sum(weight * activations[k].astype(np.float64) for weight, k in zip(weights, chosen, strict=True))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def _enlarged_mask(channel: np.ndarray) -> np.ndarray:
    """Bilinear, half-pixel centres, clamped edges, written out; then scaled to 0..1."""
    large = np.empty(PICTURE.shape[1:])
    for row in range(large.shape[0]):
        for column in range(large.shape[1]):
            places = []
            for at, small, big in ((row, channel.shape[0], large.shape[0]), (column, channel.shape[1], large.shape[1])):
                place = min(max((at + 0.5) * small / big - 0.5, 0), small - 1)
                low = min(int(place), small - 2)
                places.append((low, place - low))
            (r, dr), (c, dc) = places
            top = (1 - dc) * channel[r, c] + dc * channel[r, c + 1]
            bottom = (1 - dc) * channel[r + 1, c] + dc * channel[r + 1, c + 1]
            large[row, column] = (1 - dr) * top + dr * bottom
    return (large - large.min()) / (large.max() - large.min())


def test_score_cam_of_layers_without_variation_is_empty() -> None:
    made = ScoreCam(np.ones((3, 2, 2), np.float32), PICTURE)
    assert made.passes == 0
    assert not made.total().any()


def test_occlusion_means_over_the_patches_that_cover_a_pixel() -> None:
    head = np.random.default_rng(1).normal(size=PICTURE.shape)

    def score(picture: np.ndarray) -> float:
        return float((head * picture.astype(np.float64)).sum() / 1e3) ** 2

    made = Occlusion(PICTURE, PICTURE)
    found = ask(made, score, None, PICTURE)
    fill = PICTURE.mean(axis=(1, 2), keepdims=True, dtype=np.float64).astype(np.float32)
    effects: list[list[list[float]]] = [[[] for _ in range(32)] for _ in range(24)]
    for top in range(22):  # patches of 3 x 4, one down and two to the right apart
        for left in range(0, 29, 2):
            changed = PICTURE.copy()
            changed[:, top : top + 3, left : left + 4] = fill
            for row in range(top, top + 3):
                for column in range(left, left + 4):
                    effects[row][column].append(score(PICTURE) - score(changed))
    np.testing.assert_allclose(found, [[np.mean(cell) for cell in row] for row in effects], atol=1e-6, rtol=1e-6)


def test_smoothgrad_is_the_size_of_the_mean_slope_under_noise() -> None:
    inner = np.random.default_rng(2).normal(size=PICTURE.shape) / 255

    def slope(picture: np.ndarray) -> np.ndarray:
        return inner * np.cos((inner * picture.astype(np.float64)).sum())

    found = ask(SmoothGrad(PICTURE, PICTURE), lambda _: 0.0, slope, PICTURE)
    noises = [np.random.default_rng(n).standard_normal(PICTURE.shape[1:], np.float32) for n in range(NOISES)]
    slopes = sum(slope(PICTURE + np.float32(NOISE_SD) * noise) for noise in noises) / NOISES
    np.testing.assert_allclose(found, np.abs(slopes).sum(axis=0), atol=1e-6)


def test_behind_a_layer_all_is_linear_three_paradigms_are_one() -> None:
    """With 0 as the baseline ablation, integrated gradients and HiResCAM are equal; with the mean the first two are."""
    zero, mean = np.zeros(C), ACTIVATIONS.mean(axis=(1, 2), dtype=np.float64)
    hirescam = (LINEAR * ACTIVATIONS).sum(axis=0)
    ablated = ask(Ablation(ACTIVATIONS, PICTURE, zero), linear, None, ACTIVATIONS)
    path = ask(IntegratedGradients(ACTIVATIONS, PICTURE, zero), linear, slope_of_linear, ACTIVATIONS)
    np.testing.assert_allclose(ablated, hirescam, atol=1e-6)
    np.testing.assert_allclose(path, hirescam, atol=1e-6)
    ablated = ask(Ablation(ACTIVATIONS, PICTURE, mean), linear, None, ACTIVATIONS)
    path = ask(IntegratedGradients(ACTIVATIONS, PICTURE, mean), linear, slope_of_linear, ACTIVATIONS)
    np.testing.assert_allclose(ablated, path, atol=1e-6)
    assert np.abs(ablated - hirescam).max() > 0.1


@pytest.mark.parametrize("kind", [Ablation, IntegratedGradients])
def test_pieces_change_no_bit(kind: type[Attribution]) -> None:
    slope = slope_of_curved if kind.wants_gradients else None
    whole = ask(kind(ACTIVATIONS, PICTURE), curved, slope, ACTIVATIONS, 1000)
    assert np.array_equal(whole, ask(kind(ACTIVATIONS, PICTURE), curved, slope, ACTIVATIONS, 3))

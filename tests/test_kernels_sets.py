"""All pairs of a set of maps, and the consistency of a class."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from kernels.catalogue import METRICS
from kernels.pairwise import consistency, pairwise_mask_iou, pairwise_soft_iou
from kernels.reasons import Reason
from tests.map_samples import cam_like

# float32 sums over 1,024 pixels at a time
FLOAT32 = 1e-6


@pytest.mark.parametrize(("count", "size"), [(1, (5, 4)), (7, (9, 13)), (21, (40, 41)), (34, (8, 8))])
def test_soft_iou_of_all_pairs_equals_the_pair_metric(count: int, size: tuple[int, int]) -> None:
    maps = cam_like(count, size) + np.float32(1e-3)
    scores = pairwise_soft_iou(maps)
    first, second = np.indices((count, count)).reshape(2, -1)
    expected = METRICS["soft_iou"](maps[first], maps[second])[0].reshape(count, count)
    assert scores.values == pytest.approx(expected, abs=FLOAT32)
    assert (scores.values.diagonal() == 1).all()
    assert np.array_equal(scores.values, scores.values.T)


@pytest.mark.parametrize("count", [1, 6, 37])
@pytest.mark.parametrize("size", [(3, 5), (8, 16), (13, 11)])
def test_mask_iou_of_all_pairs_is_exact(count: int, size: tuple[int, int]) -> None:
    masks = np.random.default_rng(count).random((count, *size)) > 0.4
    expected = [[(a & b).sum() / (a | b).sum() for b in masks] for a in masks]
    assert np.array_equal(pairwise_mask_iou(masks), expected)


def test_mask_iou_of_empty_masks() -> None:
    masks = np.zeros((3, 4, 4))
    masks[2, 0, 0] = 7  # anything but 0 is inside
    values = pairwise_mask_iou(masks)
    assert np.isnan(values[0, 1])
    assert values[0, 2] == 0
    assert values[2, 2] == 1


@pytest.mark.parametrize(
    "function", [pairwise_mask_iou, lambda maps, threads=1: pairwise_soft_iou(maps, 2, threads).values]
)
def test_threads_and_neighbours_change_no_bit(function) -> None:
    maps = cam_like(50, (12, 12))
    whole = function(maps)
    assert np.array_equal(function(maps, threads=3), whole)
    assert np.array_equal(function(maps[10:30]), whole[10:30, 10:30])


def test_undefined_maps_are_marked_and_touch_no_other() -> None:
    maps = cam_like(5, (12, 12))
    clean = pairwise_soft_iou(maps)
    maps[1], maps[3] = 0, np.nan
    scores = pairwise_soft_iou(maps)
    assert scores.reasons.tolist() == [0, Reason.EMPTY_MAP, 0, Reason.NON_FINITE, 0]
    assert np.isnan(scores.values[[1, 3]]).all()
    assert np.isnan(scores.values[:, [1, 3]]).all()
    assert np.array_equal(scores.values[::2, ::2], clean.values[::2, ::2])


def literal_consistency(maps: np.ndarray, p: np.ndarray) -> float:
    squares = [(m / m.max()) ** 2 for m in maps.astype(float)]
    pairs = list(combinations(range(len(maps)), 2))
    soft = [np.minimum(squares[i], squares[j]).sum() / np.maximum(squares[i], squares[j]).sum() for i, j in pairs]
    return np.average(soft, weights=[p[i] * p[j] for i, j in pairs])


def test_consistency_equals_its_definition() -> None:
    maps, p = cam_like(9, (14, 10)), np.linspace(0.2, 1, 9)
    result = consistency(maps, p)
    assert result.value == pytest.approx(literal_consistency(maps, p), abs=FLOAT32)
    assert (result.reason, result.n) == (Reason.DEFINED, 9)


def test_consistency_leaves_out_undefined_maps_and_counts_them() -> None:
    maps, p = cam_like(9, (14, 10)), np.linspace(0.2, 1, 9)
    expected = consistency(np.delete(maps, [2, 5], axis=0), np.delete(p, [2, 5]))
    maps[2], maps[5] = 0, -1
    result = consistency(maps, p)
    assert result.value == pytest.approx(expected.value, abs=1e-12)
    assert result.n == 7
    assert result.reasons[[2, 5]].tolist() == [Reason.EMPTY_MAP, Reason.NEGATIVE]


def test_equal_maps_are_perfectly_consistent_and_disjoint_ones_not_at_all() -> None:
    one = cam_like(1, (14, 10))
    assert consistency(np.repeat(one, 5, axis=0), np.ones(5)).value == 1.0
    assert consistency(np.eye(6).reshape(6, 2, 3), np.ones(6)).value == 0.0


def test_consistency_of_many_is_that_of_a_seeded_draw() -> None:
    maps, p = cam_like(30, (9, 9)), np.ones(30)
    draws = [consistency(maps, p, limit=10, seed=seed) for seed in (0, 0, 1)]
    assert draws[0].n == 10
    assert draws[0].value == draws[1].value != draws[2].value


@pytest.mark.parametrize("p", [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
def test_consistency_needs_two_maps(p: list[float]) -> None:
    result = consistency(cam_like(3, (9, 9)), np.array(p))
    assert np.isnan(result.value)
    assert result.reason == Reason.TOO_FEW_MAPS


def test_refusals() -> None:
    maps = cam_like(3, (9, 9))
    with pytest.raises(ValueError, match=r"probabilities must have the shape \(3,\), one per map, not \(2,\)"):
        consistency(maps, np.ones(2))
    with pytest.raises(ValueError, match="apply softmax or sigmoid to logits first"):
        consistency(maps, np.array([1, 2, 3]))
    with pytest.raises(ValueError, match="between 0 and 1"):
        consistency(maps, np.array([1, np.nan, 1]))
    with pytest.raises(ValueError, match="limit must be at least 1"):
        consistency(maps, np.ones(3), limit=0)
    with pytest.raises(ValueError, match=r"masks must have the shape \(N, h, w\)"):
        pairwise_mask_iou(maps[0])

"""What holds for every pair of maps: identity, symmetry, bounds, scaling, permutation, and no trace of the batch."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernels.catalogue import METRICS
from kernels.metrics import pair_metrics
from kernels.reasons import Reason, undefined
from tests.map_samples import cam_like, related

PAIR = [record for record in METRICS.values() if record.kind == "pair"]
CONCENTRATION = [record for record in METRICS.values() if record.kind == "concentration"]
ORDER_FREE = {
    "iou_top20", "iou_top5", "iou_top10", "iou_top30", "iou_half", "iou_curve", "soft_iou", "pearson", "spearman",
    "js_divergence", "gini", "entropy", "area50",
}  # fmt: skip

# Sides from below to above the window of SSIM; any size of value, zeros and ties often, denormals too.
VALUES = st.one_of(
    st.floats(0, 1, width=32),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.floats(0, np.float32(1e30), width=32),
)
SHAPES = st.tuples(st.integers(1, 16), st.integers(1, 16))
MAPS = SHAPES.flatmap(lambda shape: arrays(np.float32, (2, *shape), elements=VALUES, fill=st.just(0.0)))
examples = settings(max_examples=80, deadline=None)  # the first example of all compiles


def scores_of(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    result = pair_metrics(maps[:1], maps[1:])
    return result.values[0], result.reasons[0]


@examples
@given(MAPS)
def test_nan_exactly_where_undefined_and_within_the_range_elsewhere(maps: np.ndarray) -> None:
    result = pair_metrics(maps[:1], maps[1:])
    assert np.array_equal(np.isnan(result.values), undefined(result.reasons))
    for record in METRICS.values():
        low, high = record.range
        for column in record.columns:
            value = result.column(column)[0][0]
            bounds = (low - high, high - low) if column.endswith("_change") else (low, high)
            assert np.isnan(value) or bounds[0] <= value <= bounds[1], column


@examples
@given(MAPS)
def test_a_map_against_itself_is_at_the_stable_end(maps: np.ndarray) -> None:
    result = pair_metrics(maps, maps, metrics=PAIR)
    for record in PAIR:
        values, reasons = result.column(record.name)
        best = record.range[1] if record.stable_is == "high" else record.range[0]
        rounding = {"ssim": 1e-12, "zone_overlap": 1e-15}.get(record.name, 0.0)  # the others are exact
        assert all(abs(v - best) <= rounding for v in values[~undefined(reasons)]), record.name


@examples
@given(MAPS)
def test_pair_metrics_are_symmetric_to_the_bit(maps: np.ndarray) -> None:
    forth, back = (
        pair_metrics(one, other, metrics=PAIR) for one, other in ((maps[:1], maps[1:]), (maps[1:], maps[:1]))
    )
    for record in PAIR:
        assert np.array_equal(forth.column(record.name), back.column(record.name), equal_nan=True), record.name


@examples
@given(MAPS, st.integers(-20, 20), st.integers(-20, 20))
def test_scaling_each_map_by_a_power_of_two_changes_no_bit(maps: np.ndarray, up: int, down: int) -> None:
    scaled = np.ldexp(maps, np.array([up, down])[:, None, None]).astype(np.float32)
    assume(np.array_equal(np.ldexp(scaled, np.array([-up, -down])[:, None, None]), maps))  # nothing lost
    assert np.array_equal(scores_of(scaled), scores_of(maps), equal_nan=True)


@examples
@given(MAPS, st.integers(0, 2**32 - 1))
def test_order_free_metrics_ignore_where_pixels_are(maps: np.ndarray, seed: int) -> None:
    places = np.random.default_rng(seed).permutation(maps[0].size)
    moved = maps.reshape(2, -1)[:, places].reshape(maps.shape)
    first, second = pair_metrics(maps[:1], maps[1:]), pair_metrics(moved[:1], moved[1:])
    for record in METRICS.values():
        for column in record.columns if record.name in ORDER_FREE else ():
            assert np.array_equal(first.column(column)[1], second.column(column)[1])
            one, other = first.column(column)[0], second.column(column)[0]
            assert np.allclose(one, other, rtol=0, atol=1e-12, equal_nan=True), column


@examples
@given(MAPS)
def test_turning_both_maps_upside_down_keeps_distances_and_structure(maps: np.ndarray) -> None:
    turned = maps[:, ::-1, ::-1]
    metrics = [METRICS[name] for name in ("centroid_shift", "peak_shift", "ssim")]
    straight, reversed_ = (pair_metrics(two[:1], two[1:], metrics=metrics).values for two in (maps, turned))
    assert np.allclose(straight, reversed_, rtol=0, atol=1e-9, equal_nan=True)


def mixed_batch() -> tuple[np.ndarray, np.ndarray]:
    """Ordinary maps, with empty, constant, negative and NaN ones among them."""
    before = cam_like(12, (33, 28))
    after = related(before)
    before[2], before[4], after[4], after[6] = 0, 0, 0, 1
    before[8, 3, 3], after[9, 5, 5] = -1, np.nan
    return before, after


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_thread_count_changes_no_bit(threads: int) -> None:
    one, many = pair_metrics(*mixed_batch()), pair_metrics(*mixed_batch(), threads=threads)
    assert np.array_equal(one.values, many.values, equal_nan=True)
    assert np.array_equal(one.reasons, many.reasons)


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_batch_split_changes_no_bit(cut: int) -> None:
    before, after = mixed_batch()
    whole = pair_metrics(before, after)
    parts = [pair_metrics(before[:cut], after[:cut]), pair_metrics(before[cut:], after[cut:], threads=2)]
    assert np.array_equal(whole.values, np.concatenate([p.values for p in parts]), equal_nan=True)
    assert np.array_equal(whole.reasons, np.concatenate([p.reasons for p in parts]))


def test_a_batch_is_not_changed_by_a_broken_map_in_it() -> None:
    before, after = cam_like(3, (20, 20)), related(cam_like(3, (20, 20)))
    clean = pair_metrics(before, after)
    before[1] = np.nan
    broken = pair_metrics(before, after)
    assert (broken.reasons[1] != Reason.DEFINED).any()
    assert np.array_equal(clean.values[[0, 2]], broken.values[[0, 2]])


def test_input_is_left_as_it_was() -> None:
    before, after = mixed_batch()
    pair_metrics(before, after)
    assert np.array_equal([before, after], mixed_batch(), equal_nan=True)


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_is_bounded_by_threads_times_map_size(threads: int) -> None:
    """Per thread two maps with ranks, one sort and the SSIM ring: 10 maps' worth, and the counters of the sort."""
    size, counters = (96, 96), 2**20
    maps = cam_like(64, size)
    pair_metrics(maps[:2], maps[:2], threads)
    tracemalloc.start()
    try:
        pair_metrics(maps, maps, threads)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < threads * (10 * maps[0].nbytes + counters) + 2**18

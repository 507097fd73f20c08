"""Which images moved: the threshold against a literal walk through the sorted noise, and the stored scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.results.moved_records import moved_records
from harness.results.part_files import Store
from harness.results.plan import read_scored, restore
from harness.results.reader import Reader, labels_of, read_collected
from harness.statistics.moved import jitter_threshold, moved_beyond
from tests import made_studies, tiny_graphs


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_studies.pair(tmp_path_factory.mktemp("pair"))


def reader_of(folder: Path) -> Reader:
    stored, samples = restore(read_scored(folder), folder)
    store = Store(folder, labels_of(stored))
    return Reader(stored.plan, read_collected(store, stored.plan, samples, 2), stored.select, store)


WORST = {1: -0.2, -1: 1.2}  # beyond every value that is tried


def literal_threshold(values: list[float], direction: int) -> float:
    """Walk from the drifted side until 5 % of the values are passed."""
    ordered = sorted((value for value in values if np.isfinite(value)), reverse=direction < 0)
    passed = 0
    while True:
        passed += 1
        if passed >= 0.05 * len(ordered):
            return ordered[passed - 1]


@pytest.mark.parametrize("count", [1, 19, 20, 21, 40, 997])
@pytest.mark.parametrize("direction", [1, -1])
def test_the_threshold_is_the_fifth_percentile_of_the_noise(count: int, direction: int) -> None:
    rng = np.random.default_rng(count)
    values = rng.choice([np.nan, 0.2, 0.5, *rng.random(40)], count)
    values[0] = 0.4
    assert jitter_threshold(values, direction) == literal_threshold(values.tolist(), direction)


@pytest.mark.parametrize("direction", [1, -1])
def test_of_the_noise_itself_fewer_than_five_in_a_hundred_move(direction: int) -> None:
    jitter = np.random.default_rng(0).random(400).round(1)  # many ties
    found = moved_beyond(jitter, jitter, direction, WORST[direction])
    assert found.moved.mean() < 0.05
    one_step = jitter - direction * 0.1
    assert moved_beyond(one_step, jitter, direction, WORST[direction]).moved.mean() >= 0.05


def test_moved_is_beyond_the_noise_and_undefined_is_not_known() -> None:
    values = np.array([0.49, 0.5, 0.9, 0.0, np.nan])
    found = moved_beyond(values, np.full((2, 50), 0.5), 1, 0)
    np.testing.assert_array_equal(found.rate, [1, 0, 0, 1, np.nan])
    np.testing.assert_array_equal(
        moved_beyond(values, np.full(50, 0.5), -1, 1).moved, [False, False, True, False, False]
    )


@pytest.mark.parametrize(("direction", "worst"), [(1, 0.0), (-1, 1.0)])
def test_where_noise_alone_reaches_the_worst_nothing_is_known(direction: int, worst: float) -> None:
    """As of Grad-CAM++ whose maps vanish under noise in 5 % of the images: 'not moved' would be said of everything."""
    jitter = np.full(100, 0.5)
    jitter[:4] = worst
    assert moved_beyond(np.array([worst, 0.5]), jitter, direction, worst).rate.tolist() == [1, 0]
    jitter[:5] = worst
    found = moved_beyond(np.array([worst, 0.5]), jitter, direction, worst)
    assert found.threshold == worst
    assert not found.known.any()
    assert not found.moved.any()


def test_without_noise_nothing_is_known() -> None:
    for jitter in (np.empty(0), np.full((2, 3), np.nan)):
        found = moved_beyond(np.array([0.0, 1.0]), jitter, 1, 0)
        assert np.isnan(found.threshold)
        assert not found.known.any()
        assert np.isnan(found.rate).all()


def test_a_direction_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"direction must be 1 .* or -1 .*, not 0"):
        jitter_threshold(np.ones(3), 0)


@pytest.mark.parametrize("method", ["layercam", "gradcam++"])
def test_records_that_moved_follow_the_stored_scores(pair: Path, method: str) -> None:
    """Witness: the rows of `scores/`, sorted by hand."""
    reader = reader_of(pair)
    where = {"method": method, "layer": "early", "metric": "iou_top20"}
    observed = {
        row["record"]: row["value"] for row in tiny_graphs.read_rows(pair, "scores", reference="observed", **where)
    }
    noise = [row["value"] for row in tiny_graphs.read_rows(pair, "scores", reference="jitter", **where)]
    found = moved_records(reader, reader.plan.drifts[0], "early", method)
    assert len(noise) == 2 * len(observed) == 96
    assert found.threshold == literal_threshold(noise, 1)
    assert {record for record, value in observed.items() if value < found.threshold} == set(np.flatnonzero(found.moved))
    assert 0 < found.moved.sum() < 48

"""The share of a map inside a region, by closed forms, a literal loop and made result folders."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from harness.common.errors import InputError
from harness.results.part_files import SCHEMAS, Store, coded, text
from kernels.resize import upsample
from scripts.study import anatomy

MAPS = arrays.arrays(np.float32, (2, 5, 4), elements=st.floats(0, 100, width=32))
REGIONS = arrays.arrays(np.float64, (2, 5, 4), elements=st.floats(0, 1))


def literal_share(a_map: np.ndarray, region: np.ndarray) -> float:
    inside = total = 0.0
    for y in range(a_map.shape[0]):
        for x in range(a_map.shape[1]):
            inside += float(a_map[y, x]) * float(region[y, x])
            total += float(a_map[y, x])
    return inside / total if total > 0 else float("nan")


@given(MAPS, REGIONS)
def test_share_is_the_literal_sum(maps: np.ndarray, regions: np.ndarray) -> None:
    expected = [literal_share(*pair) for pair in zip(maps, regions, strict=True)]
    assert anatomy.region_share(maps, regions) == pytest.approx(expected, nan_ok=True)


@given(MAPS, REGIONS)
def test_a_region_and_its_complement_share_the_whole(maps: np.ndarray, regions: np.ndarray) -> None:
    both = anatomy.region_share(maps, regions) + anatomy.region_share(maps, 1 - regions)
    assert both[np.isfinite(both)] == pytest.approx(1)


def test_an_even_map_has_the_share_of_the_area() -> None:
    region = np.zeros((1, 8, 8))
    region[0, :2] = 1
    assert anatomy.region_share(np.full((1, 8, 8), 3.0, np.float32), region) == pytest.approx(0.25)


def test_a_map_without_mass_has_no_share() -> None:
    assert np.isnan(anatomy.region_share(np.zeros((1, 3, 3), np.float32), np.ones((1, 3, 3)))).all()


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(InputError, match="give one region"):
        anatomy.region_share(np.ones((2, 3, 3)), np.ones((1, 3, 3)))


def test_a_region_outside_of_its_range_is_refused() -> None:
    with pytest.raises(InputError, match="divide a mask by its highest value"):
        anatomy.region_share(np.ones((1, 2, 2)), np.full((1, 2, 2), 255.0))


def test_the_area_of_a_box_is_kept_at_any_size() -> None:
    """Pixels at the edge are covered in part, so the mean is the exact area."""
    for size in ((224, 224), (100, 60), (256, 256)):
        assert anatomy.box_region([(43.0, 121.75, 75.0, 64.5)], size).mean() == pytest.approx(75 * 64.5 / 256**2)


def test_boxes_that_overlap_count_once() -> None:
    one, other = (0, 0, 128, 256), (64, 0, 128, 256)
    assert anatomy.box_region([one, other], (8, 8)).mean() == pytest.approx(192 / 256)
    assert anatomy.box_region([one, one], (8, 8)).mean() == pytest.approx(0.5)


def test_a_box_lies_where_it_is_drawn() -> None:
    region = anatomy.box_region([(192, 0, 64, 128)], (4, 4))  # right, top
    assert np.argwhere(region > 0).tolist() == [[0, 3], [1, 3]]


def test_a_mask_keeps_its_area_and_place(tmp_path: Path) -> None:
    mask = np.zeros((256, 256), np.uint8)
    mask[:128, :64] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    region = anatomy.mask_region(tmp_path / "mask.png", (224, 224))
    assert region.mean() == pytest.approx(1 / 8)
    assert region[:112, :56].min() == 1


def test_a_mask_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        anatomy.mask_region(tmp_path / "gone.png", (4, 4))


def made_folder(folder: Path, maps: dict[str, np.ndarray], draw: int = 0) -> Path:
    """A result folder with one map (h, w) per image; an image called `broken` has none."""
    count, (height, width) = len(maps), next(iter(maps.values())).shape
    reasons = ["defined" if name != "c/broken" else "singular_alpha" for name in maps]
    columns = {
        "checkpoint": text("before", count),
        "layer": text("penultimate", count),
        "method": text("layercam", count),
        "draw": np.full(count, draw, np.int32),
        "record": np.arange(count, dtype=np.int32),
        "image": coded(np.arange(count), [f"../x/{name}" for name in maps]),
        "class": text("c", count),
        "reason": coded(np.arange(count), reasons),
        "height": np.full(count, height, np.int32),
        "width": np.full(count, width, np.int32),
        "conditioning": [None] * count,
        "residual": [None] * count,
        "map": [a_map.ravel().tolist() for a_map in maps.values()],
    }

    store = Store(folder)
    store.clear(["maps"])
    store.write("maps", draw, [pa.table(columns, schema=SCHEMAS["maps"])])
    return folder


def test_shares_are_read_from_stored_maps(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    maps = {name: rng.random((3, 3), np.float32) for name in ("c/one", "c/broken", "c/other", "c/unmarked")}
    regions = {name: rng.random((12, 12)) for name in ("c/other", "c/one", "c/broken", "c/never-evaluated")}
    images, values = anatomy.shares(made_folder(tmp_path, maps), regions)
    assert images == ["c/broken", "c/one", "c/other"]
    found = values["before", "penultimate", "layercam"]
    assert np.isnan(found[0])
    for name, share in zip(images[1:], found[1:], strict=True):
        assert share == pytest.approx(literal_share(upsample(maps[name][None], (12, 12))[0], regions[name]))


def test_noisy_maps_are_not_read(tmp_path: Path) -> None:
    folder = made_folder(tmp_path, {"c/one": np.ones((2, 2), np.float32)}, draw=1)
    assert anatomy.shares(folder, {"c/one": np.ones((4, 4))}) == ([], {})


def test_reading_tells_a_rise_and_uses_images_defined_on_both_sides() -> None:
    n = 40
    rng = np.random.default_rng(1)
    before = rng.uniform(0.2, 0.3, n)
    after = {"a": before + 0.2, "b": before + 0.4}
    before[0] = np.nan
    after["a"][1] = after["b"][1] = np.nan
    after["a"][2] = np.nan  # the other replicate still speaks for this image
    cell = ("penultimate", "layercam")
    values = {("before", *cell): before, **{(key, *cell): found for key, found in after.items()}}
    (row,) = anatomy.reading(values, "before", ["a", "b"], np.full(n, 0.25), [f"p{i}" for i in range(n)])
    assert (row["n"], row["patients"]) == (38, 38)
    assert row["before"]["mean"] == pytest.approx(np.mean(before[2:]))
    assert row["change"]["mean"] == pytest.approx((37 * 0.3 + 0.4) / 38)
    assert row["change"]["low"] > 0.29
    assert row["area"]["mean"] == pytest.approx(0.25)
    assert row["beyond"]["mean"] == pytest.approx(row["after"]["mean"] - 0.25)
    assert row["p_change"] < 0.001
    assert row["p_area"] < 0.001


def test_reading_of_few_patients_has_no_interval() -> None:
    values = {(key, "last", "gradcam"): np.linspace(0.1, 0.4, 8) for key in ("before", "after")}
    (row,) = anatomy.reading(values, "before", ["after"], np.full(8, 0.2), [f"p{i}" for i in range(8)])
    assert np.isnan(row["change"]["low"])
    assert row["p_change"] == pytest.approx(1)  # no image changed: every pattern of signs is as extreme

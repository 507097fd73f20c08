"""Evidence inside of regions: closed forms, a literal walk through stored maps, refusals, table, gate and page."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from harness.common.errors import InputError
from harness.common.formatting import DASH
from harness.evaluation.regions import _Adjoint, reading
from harness.gate.judge import judge
from harness.gate.policy import Policy, parse_policy
from harness.images.dataset import Sample
from harness.images.regions import Region, RegionFiles, Regions, overlaps, parse_masks, read_mask
from harness.images.rule import GREY
from harness.images.view import Geometry
from harness.report import html_tables
from harness.report.gallery import Gallery
from harness.report.text_tables import WIDTH, drift_table
from harness.results.contradictions import first_contradiction
from harness.results.pseudonyms import Names
from harness.results.schema import Evaluation, RegionSummary
from kernels.resize import upsample
from tests import made_results, tiny_graphs

pytestmark = pytest.mark.usefixtures("in_brief")
WHOLE = Geometry((32, 32), (32, 32))


# Where a region lies in what a network sees


def test_cells_share_what_lies_between_edges() -> None:
    found = overlaps(0.0, 1.0, 4, np.array([0.0, 0.3, 1.0]))
    np.testing.assert_allclose(found, [[1, 0], [0.2, 0.8], [0, 1], [0, 1]], atol=1e-12)
    beyond = overlaps(-0.5, 2.0, 4, np.array([0.0, 1.0]))  # the first and last cell are padding
    np.testing.assert_allclose(beyond[:, 0], [0, 1, 1, 0])


@pytest.mark.parametrize("size", [(224, 224), (100, 60), (256, 256), (7, 9)])
def test_areas_are_kept_at_any_size(size: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random((40, 50)) < 0.3
    box = Region((256, 256), boxes=[(121.75 / 256, 43 / 256, 186.25 / 256, 118 / 256)])
    assert Region((40, 50), mask=mask).cover(WHOLE, size).mean() == pytest.approx(mask.mean(), rel=1e-5)
    assert box.cover(WHOLE, size).mean() == pytest.approx(64.5 * 75 / 256**2, rel=1e-5)


def test_a_mask_covers_as_an_average_of_finer_points() -> None:
    """Witness: 40 x 40 points in each pixel of the map, looked up in the mask; the view is a crop with padding."""
    mask = np.random.default_rng(1).random((30, 20)) < 0.5
    geometry = Geometry((32, 32), (40, 24), (10, -4))
    found = Region((30, 20), mask=mask).cover(geometry, (6, 5))
    top, left, height, width = geometry.window
    expected = np.zeros((6, 5))
    for row in range(6):
        for column in range(5):
            downs = (top + (row + (np.arange(40) + 0.5) / 40) / 6 * height) * 30
            rights = (left + (column + (np.arange(40) + 0.5) / 40) / 5 * width) * 20
            for down in downs:
                for right in rights:
                    inside = 0 <= down < 30 and 0 <= right < 20
                    expected[row, column] += inside and mask[int(down), int(right)]
    np.testing.assert_allclose(found, expected / 1600, atol=0.03)
    assert found[:, 0].max() < 1  # padding is in no region


def test_boxes_that_overlap_count_once() -> None:
    left, both = (0.0, 0.0, 1.0, 0.5), [(0.0, 0.0, 1.0, 0.5), (0.0, 0.25, 1.0, 0.75)]
    assert Region((8, 8), boxes=[left, left]).cover(WHOLE, (8, 8)).mean() == pytest.approx(0.5)
    assert Region((8, 8), boxes=both).cover(WHOLE, (8, 8)).mean() == pytest.approx(0.75)


def test_outlines_lie_where_the_region_is() -> None:
    mask = np.zeros((100, 200), bool)
    mask[20:60, 50:150] = True
    (line,) = Region((100, 200), mask=mask).outlines(100)
    points = np.array(line)
    np.testing.assert_allclose(points.min(axis=0), [0.2, 0.25], atol=0.02)
    np.testing.assert_allclose(points.max(axis=0), [0.6, 0.75], atol=0.02)
    assert Region((8, 8), boxes=[(0.1, 0.2, 0.3, 0.4)]).outlines(100) == [
        [(0.1, 0.2), (0.1, 0.4), (0.3, 0.4), (0.3, 0.2)]
    ]


# The reading of two maps


def test_the_reading_of_maps_by_hand() -> None:
    u, v = np.array([[0.5, 0.5], [0.0, 0.0]]), np.array([[0.25, 0.0], [0.5, 0.25]])
    region = np.array([[1.0, 0.0], [0.5, 0.0]])
    assert reading(u, v, region) == pytest.approx((0.375, 0.5, 0.5, 0.25, 0.25))


def test_what_is_gained_less_what_is_lost_is_the_change() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        u, v, region = rng.random((3, 6, 7))
        area, before, after, gained, lost = reading(u / u.sum(), v / v.sum(), region)
        assert gained - lost == pytest.approx(after - before)
        assert area == pytest.approx(region.mean())
        whole = reading(u / u.sum(), v / v.sum(), np.ones((6, 7)))
        assert whole[1:3] == pytest.approx((1, 1))


def test_an_undefined_side_has_no_reading() -> None:
    nothing = np.full((2, 2), np.nan)
    _, before, after, gained, lost = reading(np.full((2, 2), 0.25), nothing, np.ones((2, 2)))
    assert before == 1
    assert np.isnan([after, gained, lost]).all()


@pytest.mark.parametrize("shape", [(7, 7), (3, 5), (1, 1)])
def test_the_adjoint_is_that_of_enlargement(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    raw, region = rng.random(shape).astype(np.float32), rng.random((20, 30))
    direct = (upsample(raw[None], (20, 30))[0].astype(np.float64) * region).sum()
    assert raw.ravel() @ _Adjoint(shape, (20, 30))(region) == pytest.approx(direct, rel=1e-5)


# An evaluation with regions


class Made:
    """Two graphs, 48 images; 40 of them have a mask of twice their size, 10 have two boxes that are one."""

    def __init__(self, folder: Path) -> None:
        self.graphs = [
            tiny_graphs.write_graph(folder / f"{name}.onnx", 6, nudge=nudge, balanced=True, phase=name)
            for name, nudge in (("before", 0.0), ("after", 0.6))
        ]
        self.manifest = tiny_graphs.write_images(folder / "images", exposure=0.6)  # 48 x 40 pixels
        tiny_graphs.label_as(self.graphs[0], self.manifest)
        rng, self.masks = np.random.default_rng(4), folder / "left half"
        self.masks.mkdir()
        for number in range(40):
            mask = np.zeros((80, 96), np.uint8)
            mask[: rng.integers(20, 80), : rng.integers(20, 96)] = 255
            cv2.imwrite(str(self.masks / f"image-{number:03d}.png"), mask)
        self.boxes = folder / "boxes.csv"
        rows = [
            {"file": f"image-{n:03d}.png", "x": 4 + n % 3, "y": 2, "w": 20, "h": 30.5}
            for n in range(10)
            for _ in range(2)
        ]
        tiny_graphs.write_manifest(self.boxes, rows)
        self.asked = [
            "--before", self.graphs[0], "--after", self.graphs[1], "--data", self.manifest, "--map-size", 24,
            "--select", "all", "--jitter", 0, "--chance", 2, "--layer", "early", "--method", "layercam",
        ]  # fmt: skip
        self.given = ["--masks", f"half={self.masks}", "--boxes", self.boxes]
        self.out = folder / "out"
        self.result = tiny_graphs.evaluate(self.out, *self.asked, *self.given)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    with tiny_graphs.in_brief():
        return Made(tmp_path_factory.mktemp("regions"))


def literal(made: Made) -> list[dict[str, float]]:
    """Per image with a mask: its area and what lies inside, from stored maps and OpenCV's average of the mask."""
    sides = [tiny_graphs.maps_of(made.out, checkpoint=key, draw=0) for key in ("before", "after")]
    found = []
    for (image, _), raw in sides[0].items():
        path = made.masks / image
        other = next(found for (name, _), found in sides[1].items() if name == image)
        maps = [upsample(one[None], (24, 24))[0].astype(float) for one in (raw, other)]
        if not path.is_file() or not all(one.sum() > 0 for one in maps):
            continue
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        region = cv2.resize(mask.astype(np.float64) / 255, (24, 24), interpolation=cv2.INTER_AREA)
        inside = [(one / one.sum() * region).sum() for one in maps]
        found.append({"area": region.mean(), "before": inside[0], "after": inside[1]})
    return found


def test_shares_are_those_of_a_literal_walk(made: Made) -> None:
    rows = literal(made)
    (half,) = [item for item in made.result.pairs[0].regions if item.region == "half"]
    assert half.n == len(rows) > 30
    assert half.n + half.undefined == 40
    assert half.without == 8
    for name in ("area", "before", "after"):
        assert getattr(half, name).mean == pytest.approx(np.mean([row[name] for row in rows]), abs=1e-6)
    assert half.change.mean == pytest.approx(half.after.mean - half.before.mean)
    assert half.gained.mean - half.lost.mean == pytest.approx(half.change.mean)
    assert half.above_area.mean == pytest.approx(half.after.mean - half.area.mean)
    assert 15 < half.n_patients <= 20


def test_other_patients_are_the_chance_partners_in_the_same_region(made: Made) -> None:
    """Witness: every partner's map enlarged and read in the region of the image."""
    gallery = Gallery(made.out, Names(None))
    unrelated = gallery.reader.unrelated(gallery.plan.drifts[0].name, "layercam")
    after = tiny_graphs.maps_of(made.out, checkpoint="after", draw=0)
    maps = [upsample(one[None], (24, 24))[0].astype(float) for one in after.values()]
    before = [one.sum() > 0 for one in tiny_graphs.maps_of(made.out, checkpoint="before", draw=0).values()]
    found = []
    for n, record in enumerate(unrelated.records):
        cover = gallery.regions.covers(int(record), GREY, (32, 32), (24, 24)).get("half")
        if cover is None or not maps[record].sum() > 0 or not before[record]:
            continue
        others = [maps[unrelated.records[p]] for p in unrelated.partners[:, n]]
        shares = [(one * cover).sum() / one.sum() for one in others if one.sum() > 0]
        found += [np.mean(shares)] if shares else []
    (half,) = [item for item in made.result.pairs[0].regions if item.region == "half"]
    assert half.others.mean == pytest.approx(np.mean(found), rel=1e-5)


def test_boxes_are_measured_in_pixels_of_the_picture(made: Made) -> None:
    (boxes,) = [item for item in made.result.pairs[0].regions if item.region == "boxes"]
    assert boxes.n + boxes.undefined == 10
    assert boxes.area.mean == pytest.approx(20 * 30.5 / (48 * 40), rel=1e-4)
    assert boxes.after.reason == "few_patients"


def test_sources_are_recorded(made: Made) -> None:
    assert [(item.name, item.images) for item in made.result.regions] == [("half", 40), ("boxes", 10)]
    assert all(len(item.digest) == 64 for item in made.result.regions)
    assert not Evaluation.read(made.out).regions[0].source.startswith("/root")


def test_regions_change_no_other_number_and_may_come_later(made: Made, tmp_path: Path) -> None:
    tiny_graphs.evaluate(tmp_path / "plain", *made.asked)
    plain = Evaluation.read(tmp_path / "plain")
    assert (plain.regions, plain.pairs[0].regions) == ([], [])
    assert plain.pairs[0].metrics == made.result.pairs[0].metrics
    tiny_graphs.evaluate(tmp_path / "plain", "--from", tmp_path / "plain", *made.given)  # in place
    assert Evaluation.read(tmp_path / "plain").pairs == made.result.pairs
    assert Gallery(tmp_path / "plain", Names(None)).regions.names == ["half", "boxes"]
    again = tiny_graphs.evaluate(tmp_path / "again", "--from", tmp_path / "plain")
    assert again.pairs == made.result.pairs


def test_a_study_file_names_masks_and_boxes(made: Made, tmp_path: Path) -> None:
    lines = [
        f"data = {json.dumps(str(made.manifest))}", f"boxes = {json.dumps(str(made.boxes))}", "map_size = 24",
        'select = "all"', "jitter = 0", "chance = 2", 'layers = ["early"]', 'methods = ["layercam"]', "[masks]",
        f"half = {json.dumps(str(made.masks))}", "[[architecture]]", f"before = {json.dumps(str(made.graphs[0]))}",
        f"after = {json.dumps(str(made.graphs[1]))}",
    ]  # fmt: skip
    (tmp_path / "study.toml").write_text("\n".join(lines))
    result = tiny_graphs.evaluate(tmp_path / "out", tmp_path / "study.toml")
    assert result.pairs[0].regions == made.result.pairs[0].regions
    with pytest.raises(InputError, match="--masks cannot be given beside the study"):
        tiny_graphs.evaluate(tmp_path / "two", tmp_path / "study.toml", *made.given)


def test_the_gallery_draws_the_outlines(made: Made) -> None:
    data = Gallery(made.out, Names(None)).data()
    assert data["regions"] == ["half", "boxes"]
    image = next(
        int(image) for image in data["outlines"] if int(image) < 10
    )  # with a mask and two boxes, which are one
    lines = data["outlines"][str(image)]
    assert [line[0] for line in lines] == [0, 1, 1]
    assert lines[1][1][:2] == pytest.approx([2 / 40, (4 + image % 3) / 48], abs=1e-4)
    without = [lines for image, lines in data["outlines"].items() if int(image) >= 40]
    assert without
    assert not any(without)


def test_a_gallery_without_the_files_shows_none(made: Made, tmp_path: Path) -> None:
    out = Path(shutil.copytree(made.out, tmp_path / "out"))
    content = json.loads((out / "plan.json").read_text())
    content["data"]["masks"] = {"half": "gone"}
    (out / "plan.json").write_text(json.dumps(content))
    assert Gallery(out, Names(None)).regions.names == []


# Refusals


def samples(*names: str) -> list[Sample]:
    return [Sample(name, Path(name), None, name) for name in names]


def folder_of(path: Path, *names: str, value: int = 255) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path / name), np.full((4, 4), value, np.uint8))
    return path


def test_masks_belong_to_images_by_the_ends_of_their_paths(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a.png", "two/b.png")
    found = Regions(RegionFiles({"r": folder}), samples("../x/one/a.jpg", "../x/two/b.jpg", "../x/three/b.jpg"))
    assert sorted(found.images("r")) == [0, 1]
    with pytest.raises(InputError, match=r"'b.png' may belong to 2 images; name it by more of their paths"):
        Regions(RegionFiles({"r": folder_of(tmp_path / "flat", "b.png")}), samples("two/b.jpg", "three/b.jpg"))
    with pytest.raises(InputError, match="is a second mask of one image"):
        Regions(RegionFiles({"r": folder_of(tmp_path / "twice", "a.png", "one/a.png")}), samples("one/a.jpg"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (RegionFiles({"r": Path("gone")}), "gone: no such folder of masks"),
        (RegionFiles({"r": Path("masks")}), "masks: has a mask for none of the images"),
        (RegionFiles({}, Path("boxes.csv")), "boxes.csv: has boxes for none of the images"),
        (RegionFiles({"boxes": Path("own")}, Path("mine.csv")), "two regions are called 'boxes'"),
    ],
)
def test_regions_that_cannot_be_used_are_refused(
    files: RegionFiles, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "masks", "other.png")
    folder_of(tmp_path / "own", "a.png")
    for name, file in (("boxes", "z.png"), ("mine", "a.png")):
        (tmp_path / f"{name}.csv").write_text(f"file,x,y,w,h\n{file},1,1,2,2\n")
    with pytest.raises(InputError, match=message):
        Regions(files, samples("one/a.jpg"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("file,x,y,width,h\na,1,1,2,2\n", "has no column `w`"),
        ("file,x,y,w,h\na,1,1,0,2\n", "line 2: a box has a width and a height above 0"),
        ("file,x,y,w,h\na,1,1,2,2\na,1,nan,2,2\n", "line 3: y is 'nan'; expected a number"),
        ("file,x,y,w,h\na,1,wide,2,2\n", "line 2: y is 'wide'; expected a number"),
    ],
)
def test_boxes_that_make_no_sense_are_refused(rows: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text(rows)
    with pytest.raises(InputError, match=message):
        Regions(RegionFiles({}, tmp_path / "boxes.csv"), samples("a.png"))


def test_boxes_may_have_names_and_a_size_of_their_own(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((50, 100), np.uint8))
    rows = [
        {"file": "a.png", "x": 512, "y": 0, "w": 512, "h": 512, "region": "finding", "width": 1024, "height": 1024},
        {"file": "a.png", "x": 0, "y": 0, "w": 256, "h": 256, "region": "", "width": 1024, "height": 1024},
    ]
    tiny_graphs.write_manifest(tmp_path / "boxes.csv", rows)
    found = Regions(RegionFiles({}, tmp_path / "boxes.csv"), [Sample("a.png", tmp_path / "a.png", None, "p")])
    assert found.names == ["finding", "boxes"]
    covers = found.covers(0, GREY, (32, 32), (8, 8))
    assert np.argwhere(covers["finding"]).min(axis=0).tolist() == [0, 4]
    assert covers["finding"].mean() == pytest.approx(0.25)
    assert covers["boxes"].mean() == pytest.approx(1 / 16)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.arange(16, dtype=np.uint8).reshape(4, 4), "has the levels 0, 1, 2 ..., so what is inside is not known"),
        (np.full((4, 4, 3), 255, np.uint8), "is no mask; give a PNG of one channel"),
    ],
)
def test_what_is_no_mask_is_refused(mask: np.ndarray, message: str, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "m.png"), mask)
    with pytest.raises(InputError, match=message):
        read_mask(tmp_path / "m.png")
    (tmp_path / "m.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="is no mask"):
        read_mask(tmp_path / "m.png")


def test_a_mask_of_another_field_of_view_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((50, 100), np.uint8))
    found = Regions(
        RegionFiles({"r": folder_of(tmp_path / "m", "a.png")}), [Sample("a.png", tmp_path / "a.png", None, "p")]
    )
    with pytest.raises(InputError, match="has 4 x 4 pixels, and its picture 100 x 50: not the same field of view"):
        found.of_image(0, GREY)


def test_a_mask_that_marks_nothing_is_no_region(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((50, 50), np.uint8))
    folder = folder_of(tmp_path / "m", "a.png", value=0)
    assert Regions(RegionFiles({"r": folder}), [Sample("a.png", tmp_path / "a.png", None, "p")]).of_image(0, GREY) == {}


def test_names_of_masks_on_the_command_line(tmp_path: Path) -> None:
    assert parse_masks([f"{tmp_path}/lungs", f"heart={tmp_path}/h"]) == {
        "lungs": tmp_path / "lungs", "heart": tmp_path / "h",
    }  # fmt: skip
    with pytest.raises(InputError, match="two regions are called 'lungs'"):
        parse_masks(["a/lungs", "lungs=b"])
    with pytest.raises(InputError, match="no region is called ''"):
        parse_masks(["=b"])


# What is made of it


def with_region(**changed: Any) -> Evaluation:
    fields: dict[str, Any] = {
        "region": "lungs", "layer": made_results.LAYER, "method": made_results.METHOD, "n": 90, "n_patients": 70,
        "without": 10, "undefined": 0,
        **{
            name: made_results.estimate(mean, 0.03)
            for name, mean in (
                ("area", 0.3), ("before", 0.6), ("after", 0.5), ("change", -0.1), ("gained", 0.05), ("lost", 0.15),
                ("above_area", 0.2), ("others", 0.45), ("above_others", 0.05),
            )
        },
    }  # fmt: skip
    result = made_results.evaluation()
    result.pairs[0].regions = [RegionSummary(**{**fields, **changed})]
    return result


def test_tables_hold_the_shares() -> None:
    (row,) = html_tables.regions(with_region())
    assert row.texts[1:6] == ("lungs", "penultimate", "layercam", "0.600 (0.570 to 0.630)", "0.500 (0.470 to 0.530)")
    assert row.texts[7:] == ("0.050", "0.150", "0.300", "0.450", "90")
    (row,) = html_tables.regions(with_region(others=None, above_others=None))
    assert row.texts[10] == DASH
    text = drift_table(with_region())
    assert "share of the evidence inside of regions" in text
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "0.500 (0.470 .. 0.530)" in drift_table(with_region(), wide=True)
    assert "regions" not in drift_table(made_results.evaluation())


PLACE = {"method": made_results.METHOD, "layer": made_results.LAYER}


@pytest.mark.parametrize(
    ("rule", "changed", "outcome"),
    [
        ({"min_inside": 0.46}, {}, "pass"),  # the interval begins at 0.47
        ({"min_inside": 0.48}, {}, "fail"),
        ({"min_inside": 0.48, "mode": "point"}, {}, "pass"),
        ({"max_inside": 0.54}, {}, "pass"),
        ({"max_inside": 0.52}, {}, "fail"),
        ({"min_inside": 0.46}, {"undefined": 5, "without": 5}, "skipped"),
        ({"min_inside": 0.46}, {"n": 20, "n_patients": 20}, "skipped"),
        ({"min_inside": 0.46, "region": "heart"}, {}, "error"),
        ({"min_inside": 0.46, "layer": "last"}, {}, "error"),
    ],
)
def test_the_gate_bounds_the_evidence_inside(rule: dict[str, Any], changed: dict[str, Any], outcome: str) -> None:
    policy = Policy.model_validate({"format": 1, "rule": [{"region": "lungs", **PLACE, **rule}]})
    (case,) = judge(with_region(**changed), policy).cases
    assert case.outcome == outcome
    assert case.title.startswith(f"inside {policy.rule[0].region} (layercam")


def test_the_gate_holds_regions_against_a_baseline() -> None:
    policy = Policy.model_validate(
        {"format": 1, "rule": [{"region": "lungs", **PLACE, "max_worsening": 0.05, "mode": "point"}]}
    )
    assert judge(with_region(), policy, with_region(after=made_results.estimate(0.53))).outcome == "pass"
    assert judge(with_region(), policy, with_region(after=made_results.estimate(0.58))).outcome == "fail"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('metric = "iou_top20"\nregion = "lungs"\nmin_inside = 0.1', "neither metric, min nor max"),
        ('region = "lungs"\nmin = 0.1', "neither metric, min nor max"),
        ('metric = "accuracy"\nmin_inside = 0.1', "belong to a rule with a `region`"),
        ('region = "lungs"\nmin_inside = 0.1', "names its method and its layer"),
        ('region = "lungs"\nmethod = "layercam"\nlayer = "x"\nmin_inside = 1.2', "min = 1.2 is impossible"),
        ('metric = "inside"\nmethod = "layercam"\nlayer = "x"\nmin = 0.1', "unknown metric 'inside'"),
    ],
)
def test_rules_on_regions_that_make_no_sense_are_refused(lines: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_policy(f"format = 1\n[[rule]]\n{lines}\n", "policy.toml")


def test_a_result_without_regions_says_how_to_have_them() -> None:
    policy = Policy.model_validate({"format": 1, "rule": [{"region": "lungs", **PLACE, "min_inside": 0.1}]})
    (case,) = judge(made_results.evaluation(), policy).cases
    assert case.message == "the result has no regions; evaluate with --masks or --boxes"


@pytest.mark.parametrize(
    ("changed", "said"), [({}, False), ({"without": 11}, True), ({"area": made_results.estimate(1.2)}, True)]
)
def test_shares_that_are_none_are_refused(changed: dict[str, Any], said: bool) -> None:
    assert bool(first_contradiction(with_region(**changed))) == said


def test_boxes_of_the_example_have_the_columns_that_are_read(made: Made) -> None:
    with made.boxes.open(newline="") as stream:
        assert next(csv.reader(stream)) == ["file", "x", "y", "w", "h"]

"""The committed page of the study is what its numbers say, and its sentences follow from them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import jinja2
import pytest

from scripts.study import page, plots, tables
from scripts.study.__main__ import DOCS

ROOT = Path(__file__).parent.parent
NUMBERS = json.loads((ROOT / DOCS / page.NUMBERS).read_text(encoding="utf-8"))
TEXT = (ROOT / DOCS / page.PAGE).read_text(encoding="utf-8")


def test_the_page_is_rendered_from_its_numbers() -> None:
    assert page.render(NUMBERS) == TEXT, "run `python -m scripts.study`; edit the template, not the page"


def changed(value: Any) -> Any:
    """The same structure with every number moved."""
    if isinstance(value, dict):
        return {key: changed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [changed(inner) for inner in value]
    return value + 0.137 if isinstance(value, float) else value


def test_other_numbers_make_another_page() -> None:
    """The comparison above can fail; and what stays the same in every table is no number with decimals."""
    other = page.render(changed(NUMBERS))
    rows = [line for line in TEXT.splitlines() if line.startswith("|") and re.search(r"\d\.\d{3}", line)]
    kept = [line for line in rows if line in other.splitlines()]
    assert not kept


def test_a_number_that_is_missing_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="drift"):
        page.render({key: value for key, value in NUMBERS.items() if key != "drift"})


def test_nothing_of_the_radiographs_is_published() -> None:
    """Plots and numbers only: no picture but the two plots, and no image's name."""
    assert {path.name for path in (ROOT / DOCS).iterdir()} == {
        "README.md",
        "numbers.json",
        "training.png",
        "stability.png",
    }
    published = TEXT + json.dumps(NUMBERS)
    assert not re.search(r"\w+\.(jpe?g|dcm)|hannover-|ieee8023-|nih-0|person\d", published)


def test_paragraphs_are_filled_and_tables_left_alone() -> None:
    lines = TEXT.splitlines()
    prose = [line for line in lines if not line.startswith(("|", "#", "<", "!", "`"))]
    assert max(map(len, prose)) <= page.WIDTH
    assert page._filled("- one\n  two\n- three") == "- one two\n- three"
    assert page._filled("| a |\n| b |") == "| a |\n| b |"


@pytest.mark.parametrize(
    ("filtered", "expected"),
    [
        (tables.number(None), "-"),
        (tables.number(0.12345, 2), "0.12"),
        (tables.spanned({"mean": 0.5, "low": 0.4, "high": 0.6}, 1), "0.5 (0.4 .. 0.6)"),
        (tables.spanned({"mean": 0.5, "low": None, "high": None}), "0.500"),
        (tables.percent(0.256), "26 %"),
        (tables.probability(0.0004), "< 0.001"),
        (tables.probability(0.04), "0.040"),
    ],
)
def test_numbers_are_written_plainly(filtered: str, expected: str) -> None:
    assert filtered == expected


def test_the_plots_are_drawn_from_numbers_alone(tmp_path: Path) -> None:
    plots.along_training(NUMBERS["training"], tmp_path / "training.png")
    plots.stability(NUMBERS["references"], tmp_path / "stability.png")
    for name in ("training.png", "stability.png"):
        drawn = cv2.imread(str(tmp_path / name))
        assert drawn.shape == cv2.imread(str(ROOT / DOCS / name)).shape
        assert drawn.std() > 10


# What the sentences of the template claim; where a new run breaks one, the template needs another sentence


def reference(layer: str, method: str) -> dict[str, Any]:
    return next(row for row in NUMBERS["references"] if (row["layer"], row["method"]) == (layer, method))


def test_accuracy_rose_and_auc_is_equivalent() -> None:
    for pair in NUMBERS["pairs"]:
        assert pair["change"]["accuracy"]["low"] > 0
        assert pair["equivalent"]["auc"]


def test_no_change_within_a_source_is_shown() -> None:
    for row in NUMBERS["within_source"]:
        assert row["change"]["low"] < 0 < row["change"]["high"]


def test_layercam_kept_about_half_of_what_two_trainings_share() -> None:
    index = reference("penultimate", "layercam")["iou_top20"]["index"]
    assert 0.4 <= index["mean"] <= 0.6
    assert 0 < index["low"] < index["high"] < 1


def test_coarse_measures_lie_between_chance_and_floor() -> None:
    found = reference("penultimate", "layercam")
    shift, zones = found["centroid_shift"], found["zone_overlap"]
    assert shift["chance"] > shift["mean"] > shift["floor"]
    assert zones["chance"] < zones["mean"] < zones["floor"]
    assert shift["index"]["high"] < 0.75


def test_only_xgradcam_has_no_index() -> None:
    missing = [
        (row["layer"], row["method"]) for row in NUMBERS["references"] if row["iou_top20"]["index"]["mean"] is None
    ]
    assert missing == [("penultimate", "xgradcam")]


def test_three_methods_coincide_at_the_last_layer() -> None:
    rows = [row for row in NUMBERS["drift"] if row["layer"] == "last"]
    same = [{**row, "method": ""} for row in rows if row["method"] in ("gradcam", "hirescam", "xgradcam")]
    assert same[0] == same[1] == same[2]


def test_evidence_vanishes_under_gradcam_plus_plus_alone() -> None:
    vanished = {(row["layer"], row["method"]) for row in NUMBERS["references"] if row["vanished"] > 0.01}
    assert vanished == {("penultimate", "gradcam++")}


def test_the_papers_methods_disagree_at_one_layer_only() -> None:
    found = [row for row in NUMBERS["methods"] if (row["first"], row["second"]) == ("layercam", "gradcam++")]
    assert [(row["layer"], row["p_holm"] < 0.05) for row in found] == [("penultimate", True), ("last", False)]


def test_only_the_trained_network_reverses_and_miniatures_have_learned_next_to_nothing() -> None:
    assert NUMBERS["miniatures"]["called"] > 0
    assert NUMBERS["miniatures"]["called_among_miniatures"] == 0
    small = [row for row in NUMBERS["miniatures"]["checkpoints"] if row["architecture"] != "MobileNetV2"]
    assert len(small) == 6
    assert all(row["accuracy"]["mean"] < 0.45 for row in small)


def test_the_first_epoch_goes_most_of_the_way_and_accuracy_falls() -> None:
    start, first, second, *_, last = NUMBERS["training"]
    overlap, chance = (NUMBERS["training"][1]["layercam"]["first"][name] for name in ("mean", "chance"))
    assert overlap < 0.5
    assert abs(overlap - last["layercam"]["first"]["mean"]) < 0.15
    assert overlap > chance
    assert first["accuracy"]["mean"] < start["accuracy"]["mean"]
    assert first["auc"]["mean"] < start["auc"]["mean"]
    assert second["layercam"]["previous"]["mean"] < last["layercam"]["previous"]["mean"]
    assert last["accuracy"]["mean"] > start["accuracy"]["mean"]


def test_neither_region_has_patients_enough_for_an_interval() -> None:
    for found in NUMBERS["anatomy"].values():
        assert found["patients"] < 20
        assert all(row["change"]["low"] is None for row in found["rows"])


def test_the_change_inside_boxes_depends_on_the_layer() -> None:
    inner, outer = [row for row in NUMBERS["anatomy"]["boxes"]["rows"] if row["method"] == "layercam"]
    assert inner["change"]["mean"] > 0 > outer["change"]["mean"]
    assert max(inner["p_change"], outer["p_change"]) < 0.05


def test_the_maps_lie_outside_of_the_boxes() -> None:
    area = NUMBERS["anatomy"]["boxes"]["area"]
    assert all(row["after"]["mean"] < area for row in NUMBERS["anatomy"]["boxes"]["rows"])


def test_no_change_inside_the_lungs_is_shown() -> None:
    rows = NUMBERS["anatomy"]["lungs"]["rows"]
    assert all(min(row["p_change"], row["p_area"]) > 0.05 for row in rows)

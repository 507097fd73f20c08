"""The committed page of the study is what its numbers say, and its sentences follow from them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import jinja2
import pytest

from scripts.study import claims, page, plots, tables
from scripts.study.__main__ import DOCS
from scripts.study.starts import SEEDS, STARTS

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


def references(layer: str, method: str) -> list[dict[str, Any]]:
    return [row for row in NUMBERS["references"] if (row["layer"], row["method"]) == (layer, method)]


def test_five_networks_with_three_trainings_each() -> None:
    assert [row["name"] for row in NUMBERS["starts"]] == [start.name for start in STARTS]
    assert len(NUMBERS["checkpoints"]) == len(STARTS) * (1 + SEEDS)
    assert len(NUMBERS["pairs"]) == len(STARTS) * SEEDS


def test_in_no_network_did_the_evidence_stay() -> None:
    """Overlap under LayerCAM is less than what two trainings of phase 2 have in common."""
    assert all(row["iou_top20"]["mean"] < row["iou_top20"]["floor"] for row in references("penultimate", "layercam"))


def test_a_frozen_backbone_of_drawn_radiographs_hardly_beats_the_source() -> None:
    source = NUMBERS["shortcuts"]["source"]["accuracy"]
    frozen = {row["architecture"]: row["accuracy"] for row in NUMBERS["checkpoints"] if row["phase"] == "transfer"}
    assert all(frozen[name]["low"] < source for name in claims.ARCHITECTURES)


def test_three_methods_coincide_at_the_last_layer() -> None:
    for network in {row["architecture"] for row in NUMBERS["drift"]}:
        rows = [row for row in NUMBERS["drift"] if (row["layer"], row["architecture"]) == ("last", network)]
        same = [row["iou_top20"] for row in rows if row["method"] in ("gradcam", "hirescam", "xgradcam")]
        assert len(same) == 3
        assert all(other == pytest.approx(same[0], abs=1e-3) for other in same[1:])


def test_coarse_measures_are_passed_by_unrelated_radiographs() -> None:
    assert all(row["zone_overlap"]["chance"] > 0.5 for row in references("penultimate", "layercam"))


def test_neither_region_has_patients_enough_for_an_interval() -> None:
    for found in NUMBERS["anatomy"].values():
        assert found["patients"] < 20
        assert all(row["change"]["low"] is None for row in found["rows"])


def test_methods_of_several_passes_saw_the_sample() -> None:
    assert NUMBERS["data"]["sample"] == 64


def test_reversals_are_called_at_one_layer_only_and_come_with_vanished_maps() -> None:
    called = {item["layer"]: item["called"] for item in NUMBERS["ranking"]["every"]["comparisons"]}
    assert called["penultimate"] > 0 == called["last"]
    assert sum(row["called"] for row in claims.reversals(NUMBERS["ranking"]["every"]["comparisons"])) > 0
    vanished = {row["architecture"]: row["vanished"] for row in references("penultimate", "gradcam++")}
    assert sorted(vanished, key=lambda name: -vanished[name])[:2] == ["ResNet50V2", "DenseNet201"]


def test_the_documents_quote_the_trainings_of_the_study() -> None:
    """Of MobileNetV2: the accuracies in other pages are those of the run that the study compares."""
    (start,) = [row for row in NUMBERS["starts"] if row["name"] == "MobileNetV2"]
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    for phase in start["phases"]:
        assert f"| {phase['accuracy']:.3f} [" in text
    first = next(phase["accuracy"] for phase in start["phases"] if phase["name"] == "finetune")
    assert f"accuracy (float32: {first:.3f})" in (ROOT / "docs/compression.md").read_text(encoding="utf-8")
    assert f"{first:.3f} (" in (ROOT / "docs/evaluate.md").read_text(encoding="utf-8")

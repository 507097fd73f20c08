"""Evaluate end to end on tiny graphs: numbers, files, independence of batches, orientation, refusals."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from harness.api.evaluation import Settings, evaluate_again, evaluate_plan
from harness.common.errors import CannotEvaluateError, InputError
from harness.evaluation.study_file import ArchitectureConfig, make_plan
from harness.images.loading import load_grey, load_view
from harness.images.rule import GREY
from harness.models.session import Model
from harness.report import heatmaps, sheet
from harness.report.text_tables import drift_table
from harness.results import part_files
from harness.results.options import Options
from harness.results.plan import Data
from harness.results.schema import Evaluation, MetricSummary
from harness.results.vocabulary import STABILITY
from kernels.cam import cam, conditioning
from kernels.metrics import pair_metrics
from tests import tiny_graphs

OPTIONS = Options(select="all", map_size=(32, 32))


@dataclass(frozen=True)
class Inputs:
    before: Path
    after: Path
    data: Path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("tiny")
    before = tiny_graphs.write_graph(folder / "before.onnx", seed=0)
    after = tiny_graphs.write_graph(folder / "after.onnx", seed=1, phase="finetune")
    return Inputs(before, after, tiny_graphs.write_images(folder / "images"))


@pytest.fixture(scope="module")
def finished(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result folder of both graphs, to be read and copied, never changed."""
    out = tmp_path_factory.mktemp("finished") / "out"
    evaluated(inputs, out)
    return out


def evaluated(inputs: Inputs, out: Path, options: Options = OPTIONS, **settings: Any) -> Evaluation:
    pair = ArchitectureConfig(before=inputs.before, after=inputs.after)
    plan = make_plan([pair], Data(inputs.data), options)
    return evaluate_plan(plan, Settings(out, progress=False, report=False, resamples=300, **settings)).evaluation


def rows_of(out: Path, kind: str) -> list[dict]:
    folder = part_files.Store(out)
    return folder.read(kind, range(len(list((out / kind).iterdir())))).to_pylist()


def metrics_of(result: Evaluation, scope: str = "all") -> dict[tuple[str, str], MetricSummary]:
    return {(item.method, item.metric): item for item in result.pairs[0].metrics if item.scope == scope}


def test_scores_equal_a_literal_walk_through_the_stages(inputs: Inputs, finished: Path) -> None:
    rows = {
        (row["image"], row["method"], row["metric"]): row["value"]
        for row in rows_of(finished, "scores")
        if row["reference"] == "observed"
    }
    models = [Model.open(path) for path in (inputs.before, inputs.after)]
    for number in (0, 7):
        name = f"image-{number:03d}.png"
        grey = load_grey(inputs.data.parent / name, (32, 32))
        image = np.repeat(grey[None, None], 3, axis=1)
        target = np.array([number % 3])
        maps = []
        for model in models:
            activations, gradients = model.explain(image, target, ["early"]).layers["early"]
            maps.append(cam("layercam", activations, gradients)[0])
        scores = pair_metrics(*maps, size=(32, 32))
        for metric, value in zip(scores.names, scores.values[0], strict=True):
            np.testing.assert_equal(rows[name, "layercam", metric], value)


def test_result_holds_means_of_the_stored_scores(finished: Path) -> None:
    result = Evaluation.read(finished)
    values = [
        row["value"]
        for row in rows_of(finished, "scores")
        if (row["method"], row["metric"], row["reference"]) == ("gradcam++", "iou_top20", "observed")
    ]
    found = metrics_of(result)["gradcam++", "iou_top20"]
    assert found.estimate.mean == pytest.approx(np.nanmean(values))
    assert found.n == np.isfinite(values).sum()
    assert found.n + sum(found.undefined.values()) == 48
    assert found.estimate.low < found.estimate.mean < found.estimate.high


def test_conditioning_is_stored_with_every_map_and_summed_up(inputs: Inputs, finished: Path) -> None:
    """Witness: the kernel on activations and gradients of single images."""
    model, found = Model.open(inputs.before), {}
    for number in range(48):
        grey = load_grey(inputs.data.parent / f"image-{number:03d}.png", (32, 32))
        tensors = model.explain(np.repeat(grey[None, None], 3, axis=1), np.array([number % 3]), ["early"]).layers[
            "early"
        ]
        found[f"image-{number:03d}.png"] = conditioning("gradcam++", *tensors)[0]
    key, layer = Evaluation.read(finished).checkpoints[0].key, "early"
    rows = [
        row for row in rows_of(finished, "maps") if (row["checkpoint"], row["layer"], row["draw"]) == (key, layer, 0)
    ]
    stored = {row["image"]: row["conditioning"] for row in rows if row["method"] == "gradcam++"}
    assert stored == pytest.approx(found, rel=1e-6)
    assert {row["conditioning"] for row in rows if row["method"] == "layercam"} == {None}
    (summed,) = [one for one in Evaluation.read(finished).checkpoints[0].conditioning if one.layer == layer]
    assert (summed.method, summed.n) == ("gradcam++", 48)
    assert summed.mean == pytest.approx(np.mean([*found.values()]), rel=1e-6)


def test_parts_of_earlier_versions_have_no_conditioning(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "old")
    for part in (tmp_path / "old" / "maps").iterdir():
        table = pq.read_table(part)
        pq.write_table(table.drop_columns(["conditioning"]), part)
    again = evaluate_again(tmp_path / "old", Settings(tmp_path / "new", progress=False, report=False, resamples=300))
    assert [item.conditioning for item in again.evaluation.checkpoints] == [[], []]
    assert again.evaluation.pairs == Evaluation.read(finished).pairs


def test_batch_size_and_threads_change_nothing(inputs: Inputs, tmp_path: Path) -> None:
    """And what is returned is what was written."""
    one = evaluated(inputs, tmp_path / "one", batch=1, threads=1)
    many = evaluated(inputs, tmp_path / "many", batch=13, threads=2)
    for kind in part_files.SCHEMAS:
        assert repr(rows_of(tmp_path / "one", kind)) == repr(rows_of(tmp_path / "many", kind))
    assert one.pairs == many.pairs
    assert one.checkpoints == many.checkpoints
    assert Evaluation.read(tmp_path / "one") == one


@pytest.mark.filterwarnings("ignore:.*nothing is compared")
def test_a_checkpoint_against_itself_has_not_drifted(inputs: Inputs, tmp_path: Path) -> None:
    result = evaluated(replace(inputs, after=inputs.before), tmp_path, OPTIONS.changed(jitter=4, chance=20))
    found = {name: item for (method, name), item in metrics_of(result).items() if method == "layercam"}
    still = {"low": 0, "high": 1}
    for name in STABILITY:
        assert found[name].estimate.mean == pytest.approx(still[found[name].stable_is], abs=1e-9), name
        assert found[name].index.reason in (None, "floor_not_separated")
        assert found[name].index.value is None or found[name].index.value >= 1
    assert found["iou_top20"].index.value >= 1
    assert found["gini_change"].estimate.mean == 0
    assert result.pairs[0].agreement.mean == 1
    assert result.pairs[0].change["accuracy"].mean == 0


@pytest.mark.filterwarnings("ignore:.*nothing is compared")
def test_true_positives_are_those_that_both_classify_correctly(inputs: Inputs, tmp_path: Path) -> None:
    same = replace(inputs, after=inputs.before)
    result = evaluated(same, tmp_path, OPTIONS.changed(select="true-positive"))
    assert result.pairs[0].selected == round(result.checkpoints[0].quality["accuracy"].mean * result.images)
    assert 0 < result.pairs[0].selected < result.images


def test_heat_maps_lie_on_the_radiograph_the_right_way_round(tmp_path: Path) -> None:
    """A bright patch at the upper right: the map of a graph that sums brightness must be hot there and nowhere else."""
    picture = np.zeros((64, 96), np.uint8)
    picture[8:16, 72:84] = 255
    assert cv2.imwrite(str(tmp_path / "a.png"), picture)
    seen = load_view(tmp_path / "a.png", GREY, (32, 32))
    activations = seen.pixels.reshape(8, 4, 8, 4).mean(axis=(1, 3))[
        None, None
    ]  # a layer that holds the brightness of tiles
    raw, _ = cam("layercam", activations, np.ones_like(activations))
    shown = heatmaps.panels(heatmaps.Case("", picture, seen.geometry, raw[0], np.zeros_like(raw[0])))
    heat = np.abs(shown[1][1] - shown[0][1]).sum(axis=-1)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 8 <= row < 16
    assert 72 <= column < 84
    assert heat[32:].max() == 0
    assert heat[:, :48].max() == 0


def test_a_sheet_keeps_pictures_upright_in_proportion_and_in_their_order(tmp_path: Path) -> None:
    """A red corner at the upper left stays there, and a picture twice as wide as high stays so."""
    first, second = np.full((20, 20, 3), 0.5), np.full((10, 20, 3), (0.0, 0.0, 1.0))
    first[:10, :10] = (1, 0, 0)
    heatmaps.grid("title", [[("first", first), ("second", second)]], tmp_path / "sheet.png")
    blue, green, red = np.moveaxis(cv2.imread(str(tmp_path / "sheet.png")).astype(int), -1, 0)
    corner, grey = (red > 250) & (blue < 5), (abs(red - 127) < 3) & (abs(blue - 127) < 3) & (abs(green - 127) < 3)
    (top, left), (bottom, right) = (np.argwhere(corner).min(axis=0), np.argwhere(corner).max(axis=0))
    quarter = bottom - top + 1
    assert abs(quarter - (right - left + 1)) <= 1
    assert grey[bottom + quarter // 2, left + quarter // 2]
    assert grey[top + quarter // 2, right + quarter // 2]
    rows, columns = np.nonzero((blue > 250) & (red < 5))
    assert columns.min() > right + quarter
    assert abs(np.ptp(columns) + 1 - 2 * (np.ptp(rows) + 1)) <= 2


def test_a_sheet_without_the_letters_of_matplotlib_is_drawn_with_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Distributors leave the font out of the package."""
    picture = [[("a", np.zeros((4, 4, 3)))]]
    heatmaps.grid("title", picture, tmp_path / "usual.png")
    monkeypatch.setattr(sheet, "find_spec", lambda _: None)
    monkeypatch.setattr(sheet, "_font", sheet._font.__wrapped__)
    heatmaps.grid("title", picture, tmp_path / "other.png")
    usual, other = (cv2.imread(str(tmp_path / name)) for name in ("usual.png", "other.png"))
    assert usual.shape == other.shape
    assert (usual != other).any()


def test_unreadable_images_are_named_and_left_out(inputs: Inputs, tmp_path: Path) -> None:
    manifest = tiny_graphs.write_images(tmp_path / "images")
    (manifest.parent / "image-003.png").write_bytes(b"nothing")
    broken = replace(inputs, data=manifest)
    result = evaluated(broken, tmp_path / "out")
    assert list(result.unreadable) == ["image-003.png"]
    assert "not a readable image" in result.unreadable["image-003.png"]
    assert result.pairs[0].selected == 47
    assert "1 unreadable" in drift_table(result)
    with pytest.raises(InputError, match=r"image-003\.png: not a readable image"):
        evaluated(broken, tmp_path / "strict", strict=True)


def test_few_patients_have_no_interval(inputs: Inputs, tmp_path: Path) -> None:
    few = replace(inputs, data=tiny_graphs.write_images(tmp_path / "images", patients=5, each=4))
    result = evaluated(few, tmp_path / "out")
    assert result.pairs[0].metrics[0].estimate.low is None
    assert result.pairs[0].metrics[0].estimate.reason == "few_patients"
    assert "few_patients" in drift_table(result)
    assert "NaN" not in (tmp_path / "out" / "evaluation.json").read_text()


def test_result_folder_is_replaced_but_foreign_files_are_safe(inputs: Inputs, finished: Path, tmp_path: Path) -> None:
    out = shutil.copytree(finished, tmp_path / "out")
    (out / "evaluation.json").write_text("from before")
    assert evaluated(inputs, out) == Evaluation.read(out)
    (out / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match=r"holds 'thesis\.txt', which no evaluation wrote"):
        evaluated(inputs, out)
    assert (out / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"classes": ["dark", "bright", "other"]}, "different classes: dark, bright, left and dark, bright, other"),
        ({"input_size": [64, 64]}, "different input sizes"),
        ({"score_kind": "multilabel"}, "different score kinds"),
        ({"image_rule": "grey-squash/0"}, "exported under image rule 'grey-squash/0'"),
        ({"layers": [{"name": "x", "activations": "a", "gradients": "g"}]}, "no CAM layer in common"),
    ],
)
def test_graphs_that_cannot_be_compared_are_refused(
    inputs: Inputs, tmp_path: Path, changed: dict, sentence: str
) -> None:
    other = tiny_graphs.write_graph(tmp_path / "other.onnx", seed=1, **changed)
    with pytest.raises(InputError, match=sentence):
        evaluated(replace(inputs, after=other), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_selected_says_what_to_do(inputs: Inputs, tmp_path: Path) -> None:
    rows = [{"file": "image-000.png", "class": name, "group": "0"} for name in tiny_graphs.CLASSES]
    predicted = Model.open(inputs.before)
    grey = load_grey(inputs.data.parent / "image-000.png", (32, 32))
    logits = predicted.explain(np.repeat(grey[None, None], 3, axis=1), np.array([-1]), ["early"]).logits
    wrong = tiny_graphs.CLASSES[(int(logits.argmax()) + 1) % 3]
    manifest = tiny_graphs.write_manifest(
        inputs.data.parent / "one.csv", [row for row in rows if row["class"] == wrong]
    )
    with pytest.raises(CannotEvaluateError, match="choose --select agree or all"):
        evaluated(replace(inputs, data=manifest), tmp_path, OPTIONS.changed(select="true-positive"))


def test_every_score_row_names_its_reason(finished: Path) -> None:
    for row in rows_of(finished, "scores"):
        assert (row["reason"] in ("defined", "vanished")) == np.isfinite(row["value"])


def test_written_json_is_strict(finished: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads((finished / "evaluation.json").read_text(), parse_constant=refuse)

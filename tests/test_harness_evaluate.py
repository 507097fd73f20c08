"""Evaluate end to end on tiny graphs: numbers, files, independence of batches, orientation, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from harness import command, pictures, store
from harness.errors import CannotEvaluateError, InputError
from harness.evaluate import Options
from harness.images import load_grey
from harness.model import Model
from harness.results import Evaluation
from harness.table import drift_table
from kernels.cam import cam
from kernels.metrics import pair_metrics
from tests import tiny_graphs

OPTIONS = Options(select="all", map_size=(32, 32))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> command.Inputs:
    folder = tmp_path_factory.mktemp("tiny")
    before = tiny_graphs.write_graph(folder / "before.onnx", seed=0)
    after = tiny_graphs.write_graph(folder / "after.onnx", seed=1, phase="finetune")
    return command.Inputs(before, after, tiny_graphs.write_images(folder / "images"))


def evaluated(inputs: command.Inputs, out: Path, options: Options = OPTIONS) -> Evaluation:
    return command.evaluate(inputs, options, out, seed=0, provider="cpu", quiet=True)


def rows_of(out: Path, kind: str) -> list[dict]:
    return store.read(out, kind).to_pylist()


def test_scores_equal_a_literal_walk_through_the_stages(inputs: command.Inputs, tmp_path: Path) -> None:
    evaluated(inputs, tmp_path)
    rows = {
        (row["image"], row["method"], row["metric"]): row["value"] for row in store.read(tmp_path, "scores").to_pylist()
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


def test_result_holds_means_of_the_stored_scores(inputs: command.Inputs, tmp_path: Path) -> None:
    result = evaluated(inputs, tmp_path)
    assert Evaluation.read(tmp_path) == result
    values = [
        row["value"]
        for row in store.read(tmp_path, "scores").to_pylist()
        if (row["method"], row["metric"]) == ("gradcam++", "iou_top20")
    ]
    found = next(
        item for item in result.metrics if (item.method, item.metric, item.scope) == ("gradcam++", "iou_top20", "all")
    )
    assert found.estimate.mean == pytest.approx(np.nanmean(values))
    assert found.n == np.isfinite(values).sum()
    assert found.n + sum(found.undefined.values()) == 48
    assert found.estimate.low < found.estimate.mean < found.estimate.high


def test_batch_size_and_threads_change_nothing(inputs: command.Inputs, tmp_path: Path) -> None:
    one = evaluated(inputs, tmp_path / "one", replace(OPTIONS, batch=1))
    many = evaluated(inputs, tmp_path / "many", replace(OPTIONS, batch=13, threads=2))
    for kind in store.SCHEMAS:
        assert repr(rows_of(tmp_path / "one", kind)) == repr(rows_of(tmp_path / "many", kind))
    assert one.metrics == many.metrics


def test_a_checkpoint_against_itself_has_not_drifted(inputs: command.Inputs, tmp_path: Path) -> None:
    result = evaluated(replace(inputs, after=inputs.before), tmp_path)
    means = {(item.metric): item.estimate.mean for item in result.metrics if item.scope == "all" and item.n}
    assert means["iou_top20"] == 1
    assert means["centroid_shift"] == 0
    assert means["pearson"] == pytest.approx(1)
    assert means["gini_change"] == 0
    assert result.agreement.mean == 1


def test_true_positives_are_those_that_both_classify_correctly(inputs: command.Inputs, tmp_path: Path) -> None:
    same = replace(inputs, after=inputs.before)
    result = evaluated(same, tmp_path, replace(OPTIONS, select="true-positive"))
    assert result.selected == round(result.before.accuracy.mean * result.images)
    assert 0 < result.selected < result.images


def test_heat_maps_lie_on_the_radiograph_the_right_way_round(tmp_path: Path) -> None:
    """A bright patch at the upper right: the map of a graph that sums brightness must be hot there and nowhere else."""
    picture = np.zeros((64, 96), np.uint8)
    picture[8:16, 72:84] = 255
    assert cv2.imwrite(str(tmp_path / "a.png"), picture)
    grey = load_grey(tmp_path / "a.png", (32, 32))
    activations = grey.reshape(8, 4, 8, 4).mean(axis=(1, 3))[None, None]  # a layer that holds the brightness of tiles
    raw, _ = cam("layercam", activations, np.ones_like(activations))
    shown = pictures.panels(pictures.Case("", grey, raw[0], np.zeros_like(raw[0])))
    heat = np.abs(shown[1][1] - shown[0][1]).sum(axis=-1)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 3 <= row <= 8
    assert 23 <= column <= 28
    assert heat[16:].max() == 0
    assert heat[:, :16].max() == 0


def test_unreadable_images_are_named_and_left_out(inputs: command.Inputs, tmp_path: Path) -> None:
    manifest = tiny_graphs.write_images(tmp_path / "images")
    (manifest.parent / "image-003.png").write_bytes(b"nothing")
    broken = replace(inputs, data=manifest)
    result = evaluated(broken, tmp_path / "out")
    assert list(result.unreadable) == ["image-003.png"]
    assert "not a readable image" in result.unreadable["image-003.png"]
    assert result.selected == 47
    assert "1 unreadable" in drift_table(result)
    with pytest.raises(InputError, match=r"image-003\.png: not a readable image"):
        evaluated(broken, tmp_path / "strict", replace(OPTIONS, strict=True))


def test_few_patients_have_no_interval(inputs: command.Inputs, tmp_path: Path) -> None:
    few = replace(inputs, data=tiny_graphs.write_images(tmp_path / "images", patients=5, each=4))
    result = evaluated(few, tmp_path / "out")
    assert result.metrics[0].estimate.low is None
    assert result.metrics[0].estimate.interval_reason == "few_patients"
    assert "few_patients" in drift_table(result)
    assert "NaN" not in (tmp_path / "out" / "evaluation.json").read_text()


def test_result_folder_is_replaced_but_foreign_files_are_safe(inputs: command.Inputs, tmp_path: Path) -> None:
    evaluated(inputs, tmp_path)
    evaluated(inputs, tmp_path)
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match=r"holds 'thesis\.txt', which no evaluation wrote"):
        evaluated(inputs, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


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
    inputs: command.Inputs, tmp_path: Path, changed: dict, sentence: str
) -> None:
    other = tiny_graphs.write_graph(tmp_path / "other.onnx", seed=1, **changed)
    with pytest.raises(InputError, match=sentence):
        evaluated(replace(inputs, after=other), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_selected_says_what_to_do(inputs: command.Inputs, tmp_path: Path) -> None:
    rows = [{"file": "image-000.png", "class": name} for name in tiny_graphs.CLASSES]
    predicted = Model.open(inputs.before)
    grey = load_grey(inputs.data.parent / "image-000.png", (32, 32))
    logits = predicted.explain(np.repeat(grey[None, None], 3, axis=1), np.array([-1]), ["early"]).logits
    wrong = tiny_graphs.CLASSES[(int(logits.argmax()) + 1) % 3]
    manifest = tiny_graphs.write_manifest(
        inputs.data.parent / "one.csv", [row for row in rows if row["class"] == wrong]
    )
    with pytest.raises(CannotEvaluateError, match="choose --select agree or all"):
        evaluated(replace(inputs, data=manifest), tmp_path, replace(OPTIONS, select="true-positive"))


def test_every_score_row_names_its_reason(inputs: command.Inputs, tmp_path: Path) -> None:
    evaluated(inputs, tmp_path)
    for row in store.read(tmp_path, "scores").to_pylist():
        assert (row["reason"] in ("defined", "vanished")) == np.isfinite(row["value"])


def test_written_json_is_strict(inputs: command.Inputs, tmp_path: Path) -> None:
    evaluated(inputs, tmp_path)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=refuse)

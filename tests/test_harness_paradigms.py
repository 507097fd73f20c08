"""Methods of several passes from end to end: the tail of a graph, the sample of images, what a result says of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from harness.common.errors import InputError
from harness.images.view import channels_first
from harness.models.metadata import PICTURE, LayerOutputs
from harness.models.parts import part_of
from harness.models.session import Model
from harness.models.several_passes import _batches, maps_of
from tests import tiny_graphs

METHODS = ("layercam", "ablation", "integrated-gradients", "eigencam", "scorecam")
LAYERS = ["early", "late"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paradigms")
    for name, nudge in (("before", 0.0), ("after", 0.3)):
        tiny_graphs.write_graph(folder / f"{name}.onnx", 0, nudge=nudge, balanced=True)
    tiny_graphs.label_as(folder / "before.onnx", tiny_graphs.write_images(folder / "images", exposure=0.6))
    return folder


@pytest.fixture(scope="module")
def evaluated(folder: Path) -> Path:
    asked = ["--before", folder / "before.onnx", "--after", folder / "after.onnx"]
    asked += ["--data", folder / "images" / "manifest.csv", "--jitter", 1, "--chance", 3, "--map-size", 32]
    asked += [word for name in METHODS for word in ("--method", name)]
    with tiny_graphs.in_brief():
        tiny_graphs.evaluate(folder / "out", *asked, "--select", "all", "--sample", 24)
    return folder / "out"


def pictures(count: int = 3) -> np.ndarray:
    greys = np.random.default_rng(7).uniform(0, 255, (count, tiny_graphs.SIZE, tiny_graphs.SIZE))
    return channels_first(greys.astype(np.float32))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", ["softmax", "multilabel", "binary"])
def test_a_tail_says_what_the_whole_graph_says(kind: str, layer: str, tmp_path: Path) -> None:
    model = Model.open(tiny_graphs.write_graph(tmp_path / "m.onnx", score_kind=kind))
    target = np.array([0, 1, 1])
    found = model.explain(pictures(), target, LAYERS)
    activations, gradients = found.layers[layer]
    logits, slopes = model.behind(layer, activations, target, pictures(), gradients=True)
    np.testing.assert_allclose(logits, found.logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slopes, gradients, rtol=1e-5, atol=1e-6)
    assert model.behind(layer, activations, target, pictures())[1] is None


@pytest.mark.parametrize(("kind", "sign"), [("softmax", 1), ("binary", -1)])
def test_ablation_equals_its_equation_from_end_to_end(kind: str, sign: int, tmp_path: Path) -> None:
    """Written out with one call of the tail per position."""
    model = Model.open(tiny_graphs.write_graph(tmp_path / "m.onnx", score_kind=kind))
    target = np.zeros(2, np.int64)
    activations, _ = model.explain(pictures(2), target, LAYERS).layers["early"]
    maps, residuals = maps_of(model, "early", "ablation", activations, pictures(2), target)

    def score(n: int, changed: np.ndarray) -> float:
        return sign * float(model.behind("early", changed[None], target[n : n + 1], pictures(2)[n : n + 1])[0][0, 0])

    for n, a in enumerate(activations):
        for row, column in ((0, 0), (3, 5), (7, 7)):
            changed = a.copy()
            changed[:, row, column] = a.mean(axis=(1, 2))
            assert maps[n, row, column] == pytest.approx(max(score(n, a) - score(n, changed), 0), abs=1e-6)
    assert np.isnan(residuals).all()


@pytest.mark.parametrize("method", ["ablation", "integrated-gradients", "scorecam"])
def test_batches_and_neighbours_change_no_bit(method: str, folder: Path) -> None:
    model = Model.open(folder / "after.onnx")
    target = np.array([2, 0, 1])
    activations, _ = model.explain(pictures(), target, LAYERS).layers["late"]
    together, residuals = maps_of(model, "late", method, activations, pictures(), target)
    alone, own = maps_of(model, "late", method, activations[1:2], pictures()[1:2], target[1:2], batch=5)
    assert np.array_equal(together[1:2], alone)
    assert np.array_equal(residuals[1:2], own, equal_nan=True)
    assert together.any()


def test_batches_hold_every_point_once() -> None:
    counts = [3, 0, 7, 1, 5]
    batches = list(_batches(counts, 4))
    assert [sum(count for _, _, count in batch) for batch in batches] == [4, 4, 4, 4]
    points = [(row, point) for batch in batches for row, first, count in batch for point in range(first, first + count)]
    assert points == [(row, point) for row, count in enumerate(counts) for point in range(count)]


def graph_with_a_way_around() -> onnx.ModelProto:
    """logits = sum(relu(image)) per channel + sum(image): the layer is not all that they depend on."""
    nodes = [
        helper.make_node("Relu", ["image"], ["activations"]),
        helper.make_node("ReduceSum", ["activations", "axes"], ["own"], keepdims=0),
        helper.make_node("ReduceSum", ["image", "axes"], ["around"], keepdims=0),
        helper.make_node("Add", ["own", "around"], ["logits"]),
        helper.make_node("Mul", ["activations", "two"], ["gradients"]),
    ]
    tensor = helper.make_tensor_value_info
    shape = ["N", 3, 2, 2]
    graph = helper.make_graph(
        nodes,
        "around",
        [tensor("image", onnx.TensorProto.FLOAT, shape), tensor("target", onnx.TensorProto.INT64, ["N"])],
        [
            tensor("logits", onnx.TensorProto.FLOAT, ["N", 3]),
            *(tensor(name, onnx.TensorProto.FLOAT, shape) for name in ("activations", "gradients")),
        ],
        [numpy_helper.from_array(np.array([2, 3]), "axes"), numpy_helper.from_array(np.float32(2), "two")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_what_goes_around_the_layer_still_counts() -> None:
    whole = graph_with_a_way_around().SerializeToString()
    content = part_of(Path("x.onnx"), whole, ("logits", "gradients"), behind="activations")
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert {item.name for item in session.get_inputs()} == {"image", "activations"}
    image, points = np.full((1, 3, 2, 2), -1, np.float32), np.full((1, 3, 2, 2), 5, np.float32)
    logits, gradients = session.run(["logits", "gradients"], {"image": image, "activations": points})
    assert logits.tolist() == [[16, 16, 16]]  # 4 x 5 - 4 x 1
    assert (gradients == 10).all()


def test_a_layer_without_influence_is_refused() -> None:
    model = graph_with_a_way_around()
    model.graph.node[1].input[0] = "image"
    model.graph.node[4].input[0] = "image"
    with pytest.raises(InputError, match=r"x\.onnx: its logits do not depend on 'activations'; export it again"):
        part_of(Path("x.onnx"), model.SerializeToString(), ("logits", "gradients"), behind="activations")


def test_scores_alone_need_no_backward_nodes() -> None:
    """ONNX Runtime computes all nodes of a session, so the session for scores must not have them."""
    whole = graph_with_a_way_around()
    scores = onnx.ModelProto.FromString(part_of(Path("x.onnx"), whole.SerializeToString(), ("logits",), "activations"))
    both = onnx.ModelProto.FromString(
        part_of(Path("x.onnx"), whole.SerializeToString(), ("logits", "gradients"), "activations")
    )
    assert [item.name for item in scores.graph.output] == ["logits"]
    assert len(scores.graph.node) < len(both.graph.node)
    assert "gradients" not in {name for node in scores.graph.node for name in node.output}


def test_the_forward_pass_alone_gives_the_logits_of_both(folder: Path) -> None:
    model = Model.open(folder / "before.onnx")
    both = model.explain(pictures(), np.full(3, -1), LAYERS).logits
    np.testing.assert_allclose(model.logits(pictures()), both, rtol=1e-5, atol=1e-6)


def test_gradients_at_the_picture_are_not_made_for_who_asks_for_another_layer(folder: Path) -> None:
    """They cost a backward pass through the whole network. The tiny graph's `early` stands for the picture."""
    asked = pictures(), np.zeros(3, np.int64), ["late"]
    whole, cut = (Model.open(folder / "before.onnx") for _ in range(2))
    early, late = whole.graph.layers["early"], whole.graph.layers["late"]
    as_picture = early.model_copy(update={"name": PICTURE, "role": None})
    metadata = cut.metadata.model_copy(update={"layers": [as_picture, late]})
    cut.graph = replace(cut.graph, metadata=metadata)
    for one, other in zip(whole.explain(*asked).layers["late"], cut.explain(*asked).layers["late"], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    (session,) = cut._parts.values()
    assert {item.name for item in session.get_outputs()} == {"logits", late.activations, late.gradients}
    assert PICTURE in cut.explain(*asked[:2], [PICTURE]).layers
    assert len(cut._parts) == 1


def test_a_method_of_several_passes_has_its_sample_and_no_other_method_has(evaluated: Path) -> None:
    content = json.loads((evaluated / "evaluation.json").read_text())
    compared = {
        item["method"]: item["n"] + sum(item["undefined"].values())
        for item in content["pairs"][0]["metrics"]
        if (item["layer"], item["scope"], item["metric"]) == ("early", "all", "iou_top20")
    }
    assert compared == {"layercam": 48, "ablation": 24, "integrated-gradients": 24, "eigencam": 48, "scorecam": 24}
    assert content["sample"] == 24


def test_the_sample_has_as_many_images_of_each_class_or_all_that_there_are(evaluated: Path) -> None:
    rows = tiny_graphs.read_rows(evaluated, "maps", method="ablation", draw=0, checkpoint="before")
    classes = [row["class"] for row in rows]
    everything = [row["labels"][0] for row in tiny_graphs.read_rows(evaluated, "predictions", checkpoint="before")]
    assert {name: classes.count(name) for name in tiny_graphs.CLASSES} == {"dark": 10, "bright": 10, "left": 4}
    assert everything.count("left") == 4


def test_completeness_is_stored_per_image_and_told_per_checkpoint(evaluated: Path) -> None:
    content = json.loads((evaluated / "evaluation.json").read_text())
    (told,) = content["checkpoints"][1]["completeness"]
    stored = tiny_graphs.read_rows(evaluated, "maps", method="integrated-gradients", draw=0, checkpoint="after")
    residuals = [row["residual"] for row in stored]
    assert told["median"] == pytest.approx(np.median(residuals))
    assert 0 < told["median"] < 0.01
    assert {row["residual"] for row in tiny_graphs.read_rows(evaluated, "maps", method="ablation")} == {None}


def test_tables_say_that_it_is_a_sample(evaluated: Path) -> None:
    from harness.report.text_tables import drift_table
    from harness.results.schema import Evaluation

    text = " ".join(drift_table(Evaluation.read(evaluated)).split())
    assert "ablation, integrated-gradients, scorecam: on a sample of at most 24 images, as many of each class" in text
    assert "integrated-gradients: sums of maps off by 0.0" in text


def test_another_sample_needs_other_maps(evaluated: Path) -> None:
    for change in (["--sample", 12], ["--seed", 1]):
        with pytest.raises(
            InputError, match=r"the maps of ablation are of a sample that was drawn with --(sample|seed)"
        ):
            tiny_graphs.evaluate(evaluated, "--from", evaluated, *change)


def test_costs_are_said_before_the_work_starts(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.api.evaluation import Settings, evaluate_plan
    from harness.evaluation.study_file import ArchitectureConfig, make_plan
    from harness.results.options import Options
    from harness.results.plan import Data

    item = ArchitectureConfig(before=folder / "before.onnx", after=folder / "after.onnx")
    options = Options(methods=["layercam", "ablation"], select="all", sample=6, jitter=2, chance=1, map_size=32)
    plan = make_plan([item], Data(folder / "images" / "manifest.csv"), options)
    steps: list[str] = []

    def progress(step: str, _done: int, _total: int) -> None:
        steps.append(f"{step} after {capsys.readouterr().err}")

    evaluate_plan(plan, Settings(tmp_path / "out", report=False, resamples=50, progress=progress))
    said = "ablation takes h w + 1 forward passes of the tail per map: up to 36 maps (6 sampled images, 2 checkpoints, "
    said += "24 noisy copies)"
    assert said in steps[0]


@pytest.mark.parametrize(
    ("method", "layer", "message"),
    [
        ("occlusion", "early", r"occlusion is a method for the picture itself \(--layer image\), not for 'early'"),
        ("ablation", "image", "ablation is a method for CAM layers, not for 'image'"),
    ],
)
def test_a_method_at_the_wrong_layer_is_refused(method: str, layer: str, message: str) -> None:
    from harness.models.metadata import require_applicable

    with pytest.raises(InputError, match=message):
        require_applicable([LayerOutputs(name=layer, activations="a", gradients="g")], [method])

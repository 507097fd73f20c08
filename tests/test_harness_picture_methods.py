"""Methods at the picture itself, from a foreign file exported with `--layer image` to an evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from export.sources.onnx import Preprocessing, export_onnx
from export.write import Request
from harness.images.view import channels_first
from harness.models.session import Model
from harness.models.several_passes import maps_of
from harness.results.schema import Evaluation
from tests import tiny_graphs

METHODS = ("input-x-gradient", "smoothgrad", "integrated-gradients", "occlusion")
SIZE = tiny_graphs.SIZE


def classifier(path: Path, seed: int) -> Path:
    """Convolution 3 x 3, rectifier, pooling, three logits."""
    rng = np.random.default_rng(seed)
    tensor = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Conv", ["pixels", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["features"]),
        helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head"], ["scores"]),
    ]
    weights = {"w": rng.normal(size=(4, 3, 3, 3)), "head": rng.normal(size=(4, 3))}
    graph = helper.make_graph(
        nodes,
        "picture",
        [tensor("pixels", onnx.TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [tensor("scores", onnx.TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    out = path.with_suffix(".exported.onnx")
    export_onnx(path, Request(["image"], out, classes=tiny_graphs.CLASSES), Preprocessing(scale=1 / 255), None, None)
    return out


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("picture")
    return [classifier(folder / f"{seed}.onnx", seed) for seed in range(2)]


def pictures(count: int = 2) -> np.ndarray:
    return channels_first(np.random.default_rng(3).uniform(0, 255, (count, SIZE, SIZE)).astype(np.float32))


def test_the_tail_behind_the_picture_is_the_whole_network(graphs: list[Path]) -> None:
    model, target = Model.open(graphs[0]), np.array([2, 0])
    found = model.explain(pictures(), target, ["image"])
    activations, gradients = found.layers["image"]
    assert np.array_equal(activations, pictures())
    logits, slopes = model.behind("image", pictures(), target, pictures(), gradients=True)
    np.testing.assert_allclose(logits, found.logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slopes, gradients, rtol=1e-5, atol=1e-9)


def test_integrated_gradients_from_black_are_complete(graphs: list[Path]) -> None:
    """Without biases the network is positively homogeneous: the slopes on the way from black are those at the end."""
    model, target = Model.open(graphs[0]), np.array([2, 0])
    gradients = model.explain(pictures(), target, ["image"]).layers["image"][1]
    maps, residuals = maps_of(model, "image", "integrated-gradients", pictures(), pictures(), target)
    wanted = np.maximum((gradients.astype(np.float64) * pictures()).sum(axis=1), 0)
    np.testing.assert_allclose(maps, wanted, rtol=1e-3, atol=1e-4 * wanted.max())
    assert (residuals < 1e-3).all()


def test_occlusion_asks_the_whole_network(graphs: list[Path]) -> None:
    model, target = Model.open(graphs[0]), np.array([2, 0])
    maps, _ = maps_of(model, "image", "occlusion", pictures(), pictures(), target)
    corner = pictures().copy()
    corner[:, :, :4, :4] = corner.mean(axis=(2, 3), keepdims=True)
    logits = [model.explain(batch, target, ["image"]).logits[np.arange(2), target] for batch in (pictures(), corner)]
    np.testing.assert_allclose(maps[:, 0, 0], np.maximum(logits[0] - logits[1], 0), rtol=1e-3, atol=1e-6)


def test_all_of_them_are_evaluated(graphs: list[Path], tmp_path: Path) -> None:
    manifest = tiny_graphs.write_images(tmp_path / "images", patients=22, each=1)
    asked = [word for name in METHODS for word in ("--method", name)]
    with tiny_graphs.in_brief():
        words = ["--before", graphs[0], "--after", graphs[1], "--data", manifest, "--map-size", SIZE, *asked]
        tiny_graphs.evaluate(tmp_path / "out", *words, "--layer", "image", "--select", "all", "--sample", 6)
    result = Evaluation.read(tmp_path / "out")
    counts = {method: tiny_graphs.metric(result, "iou_top20", method).n for method in METHODS}
    assert counts == {"input-x-gradient": 22, "smoothgrad": 6, "integrated-gradients": 6, "occlusion": 6}

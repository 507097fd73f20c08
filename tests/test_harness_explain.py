"""`harness explain`: numbers against the kernels, the picture, refusals."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from harness.api.explanation import explain
from harness.common.errors import InputError
from harness.images.loading import channels_first, load_grey
from harness.models.session import Model
from harness.report.explain_image import draw, explanation_table
from kernels.cam import cam
from kernels.catalogue import METHODS, of_one_pass
from tests import tiny_graphs


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return Model.open(tiny_graphs.write_graph(tmp_path / "graph.onnx"))


AT_LAYERS = [name for name in of_one_pass(METHODS) if METHODS[name].applies_to(picture=False)]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    tiny_graphs.write_images(tmp_path / "images")
    return tmp_path / "images" / "image-003.png"


def test_maps_are_those_of_the_kernels(model: Model, image: Path) -> None:
    found = explain(model, image, "left", [])
    assert [(a_map.layer, a_map.method) for a_map in found.maps] == [
        (layer, method) for layer in ("early", "late") for method in AT_LAYERS
    ]
    batch = channels_first(load_grey(image, (32, 32))[None])
    layers = model.explain(batch, np.array([2]), ["late"]).layers
    expected, _ = cam("hirescam", *layers["late"])
    (hirescam,) = [a_map for a_map in found.maps if (a_map.layer, a_map.method) == ("late", "hirescam")]
    assert np.array_equal(hirescam.raw, expected[0], equal_nan=True)


def test_without_a_class_the_predicted_one_is_explained(model: Model, image: Path) -> None:
    found = explain(model, image, None, ["early"])
    assert found.target == found.probabilities.argmax()
    assert found.probabilities.sum() == pytest.approx(1)
    text = explanation_table(found, (32, 32))
    assert f"explained: {found.classes[found.target]}" in text
    assert all(method in text for method in AT_LAYERS)


def test_picture_has_a_row_per_layer(model: Model, image: Path, tmp_path: Path) -> None:
    draw(explain(model, image, None, []), "a $title$ <b>", tmp_path / "two.png")
    draw(explain(model, image, None, ["late"]), "", tmp_path / "one.png")
    two, one = (cv2.imread(str(tmp_path / name)) for name in ("two.png", "one.png"))
    assert two.shape[0] > 1.5 * one.shape[0]
    assert two.std() > 10


def test_the_picture_is_written_where_it_was_asked_for(model: Model, image: Path, tmp_path: Path) -> None:
    for name in ("plain", "odd.xyz"):
        draw(explain(model, image, None, ["late"]), "", tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(IsADirectoryError):
        draw(explain(model, image, None, ["late"]), "", tmp_path)


@pytest.mark.parametrize(
    ("target", "layers", "sentence"),
    [
        ("cat", [], "no class 'cat'; it has: dark, bright, left"),
        (None, ["middle"], "no CAM layer 'middle'; it has: early, late"),
    ],
)
def test_unknown_names_are_refused(model: Model, image: Path, target: str, layers: list[str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        explain(model, image, target, layers)


def test_methods_of_several_passes_are_made_where_they_are_asked_for(model: Model, image: Path) -> None:
    found = explain(model, image, None, ["late"], ["ablation", "layercam", "integrated-gradients"])
    assert [a_map.method for a_map in found.maps] == ["ablation", "layercam", "integrated-gradients"]
    again = explain(model, image, found.classes[found.target], ["late"], ["ablation"])
    assert np.array_equal(again.maps[0].raw, found.maps[0].raw)
    with pytest.raises(InputError, match="occlusion is a method for the picture itself"):
        explain(model, image, None, ["late"], ["occlusion"])

"""Twelve classifiers as tutorials write them, and eight of keras.applications as they are: exported, equal to Keras.

`pytest -m slow -s tests/test_export_keras_tutorials.py` prints the table.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="the Keras front end needs the extra `train`")

import keras

from export.proof.parity import Difference, summary
from export.sources.keras import export_checkpoint, find_checkpoints
from export.write import Request
from harness.images.loading import channels_first, channels_last
from harness.models.session import Model
from tests.keras_models import base, nested, scores, sequential, transferred, with_lively_statistics

pytestmark = pytest.mark.slow

GRADIENTS = 1e-3  # relative L2 error; or a cosine of 0.9999 where single elements have switched
PIXELS = 96
layers, applications = keras.layers, keras.applications


def three() -> Any:
    return layers.Dense(3, activation="softmax")


# name -> (model, a layer on the way, or its end, score kind)
TUTORIALS: dict[str, tuple[Callable[[], Any], str, str]] = {
    "sequential": (sequential, "conv2d", "softmax"),
    "nested": (lambda: nested(base()), "base/conv2d", "softmax"),
    "augmented": (
        lambda: keras.Sequential([
            keras.Input((32, 32, 3)),
            keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomRotation(0.1), layers.RandomZoom(0.1)]),
            base(), layers.GlobalAveragePooling2D(), layers.Dropout(0.2), scores(3),
        ]),
        "base/conv2d",
        "softmax",
    ),
    "EfficientNetB0": (lambda: transferred("EfficientNetB0", three()), "block4c_add", "softmax"),
    "MobileNetV3Small": (lambda: transferred("MobileNetV3Small", three()), "expanded_conv_9_add", "softmax"),
    "ConvNeXtTiny": (lambda: transferred("ConvNeXtTiny", three()), "convnext_tiny_stage_2_block_6_identity", "softmax"),
    "ResNet50V2": (
        lambda: transferred("ResNet50V2", three(), preprocess=applications.resnet_v2.preprocess_input),
        "conv4_block5_out",
        "softmax",
    ),
    "DenseNet121": (
        lambda: transferred("DenseNet121", three(), preprocess=applications.densenet.preprocess_input),
        "conv4_block24_concat",
        "softmax",
    ),
    "InceptionV3": (
        lambda: transferred("InceptionV3", three(), preprocess=applications.inception_v3.preprocess_input),
        "mixed5",
        "softmax",
    ),
    "Xception": (
        lambda: transferred("Xception", three(), preprocess=layers.Rescaling(1 / 127.5, -1)),
        "block8_sepconv2_bn",
        "softmax",
    ),
    "binary": (
        lambda: transferred("MobileNetV2", layers.Dense(1, activation="sigmoid"), preprocess=layers.Rescaling(1 / 255)),
        "block_9_add",
        "binary",
    ),
    "multi-label": (lambda: transferred("EfficientNetV2B0", scores(4, "sigmoid")), "block5b_add", "multilabel"),
}  # fmt: skip
# name -> an early and a middle layer, beside the last; of the other families: test_backbone_equals_keras
DEFAULTS: dict[str, tuple[str, ...]] = {
    "ResNet50V2": (),
    "DenseNet121": (),
    "InceptionV3": (),
    "Xception": ("block3_sepconv1_bn", "block8_sepconv2_bn"),
    "MobileNetV3Small": ("expanded_conv_2_add", "expanded_conv_9_add"),
    "EfficientNetB0": ("block2b_add", "block4c_add"),
    "ConvNeXtTiny": ("convnext_tiny_stage_1_block_1_identity", "convnext_tiny_stage_2_block_6_identity"),
    "NASNetMobile": ("normal_concat_0", "normal_concat_6"),
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    keras.utils.clear_session()
    keras.utils.set_random_seed(3)


def assert_exported(name: str, model: Any, folder: Path, asked: list[str]) -> tuple[Model, dict[str, Difference]]:
    """Export, print the row of the table, and compare with `predict`; the graph, and CAM layer -> its gradients."""
    source, out = folder / "m.keras", folder / "m.onnx"
    model.save(source)
    worst = {item.output: item for item in summary(export_checkpoint(find_checkpoints(source)[0], Request(asked, out)))}
    graph = Model.open(out)
    gradients = {layer.name: worst[layer.gradients] for layer in graph.metadata.layers}
    for layer, gradient in gradients.items():
        print(f"\n| {name} | {layer} | {graph.metadata.score_kind} | {worst['logits'].relative_l2:.1e} | "
              f"{gradient.relative_l2:.1e} | {gradient.cosine:.7f} |", end="")  # fmt: skip
        assert gradient.relative_l2 <= GRADIENTS or gradient.cosine >= 0.9999
    assert_predicts(graph, model)
    return graph, gradients


def assert_predicts(graph: Model, model: Any) -> None:
    pictures = np.random.default_rng(1).uniform(0, 255, (2, *graph.metadata.input_size)).astype(np.float32)
    label = graph.metadata.layers[0].label
    logits = graph.explain(channels_first(pictures), np.full(2, -1), [label]).logits
    found = graph.metadata.probabilities(logits)
    predicted = model.predict(channels_last(pictures), verbose=0)
    bare = graph.metadata.score_kind == "softmax" and not np.allclose(predicted.sum(axis=1), 1)
    found = logits if bare else found[:, 1:] if graph.metadata.score_kind == "binary" else found
    np.testing.assert_allclose(found, predicted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_model_of_a_tutorial_is_exported(name: str, tmp_path: Path) -> None:
    made, early, kind = TUTORIALS[name]
    graph, _ = assert_exported(name, made(), tmp_path, ["auto", early])
    assert graph.metadata.score_kind == kind
    assert [layer.role for layer in graph.metadata.layers] == ["last", None]


@pytest.mark.parametrize("architecture", DEFAULTS)
@pytest.mark.filterwarnings("ignore:.*has no Rescaling or Normalization")
def test_an_application_as_it_is_by_default(architecture: str, tmp_path: Path) -> None:
    """With its own head of a thousand classes; every layer with a map, under its own name, can be named.

    Where several layers are asked for: gradients to a cosine of 0.9999, the last to 1e-4.
    """
    whole = getattr(applications, architecture)(weights=None, input_shape=(PIXELS, PIXELS, 3))
    asked = [*DEFAULTS[architecture], "auto"]
    graph, gradients = assert_exported(architecture, with_lively_statistics(whole), tmp_path, asked)
    (last,) = (layer.name for layer in graph.metadata.layers if layer.role == "last")
    if DEFAULTS[architecture]:
        assert min(item.cosine for item in gradients.values()) >= 0.9999
        assert gradients[last].relative_l2 <= 1e-4
    from export.sources.keras.network import open_network

    network = open_network(tmp_path / "m.keras", whole)
    maps = [layer.name for layer in whole.layers[1:] if len(layer.output.shape) == 4]
    assert [name for name in maps if name not in network.layers] == []

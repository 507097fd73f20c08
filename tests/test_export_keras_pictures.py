"""Logits beside those of Keras' own pipeline, from file to score; a run that is trained on colour."""

from __future__ import annotations

import shutil
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from export.cli import cli
from export.sources.keras import export_checkpoint, find_checkpoints
from export.write import Request
from harness.common.errors import InputError
from harness.images.loading import load_view
from harness.images.notices import ignore
from harness.images.presets import find_preset
from harness.images.rule import ImageRule, restored
from harness.images.view import channels_first
from harness.models.metadata import Graph
from harness.models.session import Model
from tests.real_pictures import by_pillow, write_pictures
from tests.training_runs import record, tiny
from training import run
from training.framework import keras

# Family of the rule, one for each way to scale pixels -> network, its input, and the momentum with which BatchNorm
# takes over the statistics of the pictures: with 0, MobileNetV2 amplifies rounding beyond what a proof allows.
NETWORKS = {
    "mobilenet_v2": ("MobileNetV2", (128, 160), 0.02),
    "vgg16": ("VGG16", (64, 64), 0.0),
    "densenet": ("DenseNet121", (160, 192), 0.0),
    "efficientnet": ("EfficientNetB0", (160, 192), 0.0),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pictures(tmp_path_factory.mktemp("real"))


def as_keras_reads_it(path: Path, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) of `load_img` with its default interpolation; the picture is turned upright before."""
    stream = BytesIO()
    by_pillow(path).save(stream, "PNG")
    return keras.utils.img_to_array(keras.utils.load_img(stream, target_size=size))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::harness.common.errors.EvaluationWarning")
@pytest.mark.parametrize("family", NETWORKS)
def test_logits_are_those_of_kerass_pipeline(pictures: list[Path], family: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    keras.backend.clear_session()
    name, size, momentum = NETWORKS[family]
    module = getattr(keras.applications, family)
    build = getattr(module, name)
    base = build(include_top=False, weights=None, pooling="avg", input_shape=(*size, 3))
    model = keras.Model(base.input, keras.layers.Dense(10)(base.output), name=base.name)  # the own head of VGG is large
    images = np.stack([as_keras_reads_it(path, size) for path in pictures])
    normalise_by(model, module.preprocess_input(images.copy()), momentum)
    model.save(tmp_path / "m.keras")
    parts = [module.preprocess_input(part.copy()) for part in np.split(images, 10)]
    expected = np.concatenate([model.predict(part, verbose=0) for part in parts])
    proof = [part for path in pictures[:2] for part in ("--images", str(path))]
    rule, out = f"keras.applications:{family}", str(tmp_path / "x.onnx")
    done = CliRunner().invoke(cli, ["keras", str(tmp_path / "m.keras"), "--image-rule", rule, "--out", out, *proof])
    assert done.exit_code == 0, done.output
    found = logits_of(Model.open(tmp_path / "x.onnx"), pictures)
    for mine, theirs, path in zip(found, expected, pictures, strict=True):
        assert np.linalg.norm(mine - theirs) <= 1e-3 * np.linalg.norm(theirs), path.name
    assert np.linalg.norm(found - expected) < 0.05 * np.linalg.norm(expected - expected.mean(axis=0))


def normalise_by(model: Any, ready: np.ndarray, momentum: float) -> None:
    """Give BatchNorm the statistics of the pictures: with those of a new network, the deep ones give zeros."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum
    model(ready, training=True)


def logits_of(model: Model, pictures: list[Path]) -> np.ndarray:
    metadata, layer = model.metadata, list(model.graph.layers)[:1]
    views = [load_view(path, metadata.rule, metadata.input_size, notice=ignore).pixels for path in pictures]
    assert all(view.shape == (*metadata.input_size, 3) for view in views)
    return np.concatenate([model.explain(channels_first(view[None]), np.array([-1]), layer).logits for view in views])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch on drawn pictures, under a rule of colour."""
    folder = tmp_path_factory.mktemp("colour")
    config = tiny(folder, pretrain=1, transfer=1, finetune=1)
    text = config.read_text(encoding="utf-8").split("[phases.transfer]")[0]
    config.write_text(text.replace("input_size = [32, 32]", 'input_size = [32, 32]\nimage_rule = "ours.toml"'))
    (folder / "ours.toml").write_text('fit = "letterbox"\npad = 114\nsize = [32, 32]\n', encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # grey pictures under a rule of colour
        return run.fit(config, folder / "run", quiet=True)


@pytest.mark.slow
def test_a_run_records_its_rule_and_the_export_carries_it(trained: Path, tmp_path: Path) -> None:
    rule = ImageRule(name="ours", fit="letterbox", pad=114, size=(32, 32))
    assert restored(record(trained)["image_rule"]) == rule
    (checkpoint,) = find_checkpoints(trained)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_checkpoint(checkpoint, Request(["penultimate"], tmp_path / "x.onnx"))
    assert Graph.read(tmp_path / "x.onnx").metadata.rule == rule
    asked = Request(["penultimate"], tmp_path / "y.onnx", rule=find_preset("radiograph").rule)
    with pytest.raises(InputError, match=r"run\.json says by which image rule it was trained; leave --image-rule out"):
        export_checkpoint(checkpoint, asked)


@pytest.mark.slow
def test_a_run_whose_rule_was_edited_is_not_resumed_unseen(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained.parent, tmp_path / "copy")
    folder = tmp_path / "copy" / "run"
    (folder.parent / "ours.toml").write_text('fit = "crop"\nsize = [32, 32]\n', encoding="utf-8")
    config = folder.parent / "tiny.toml"
    config.write_text(config.read_text(encoding="utf-8") + "[phases.transfer]\nepochs = 1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"image rule is ours/1: RGB, shorter side .*, was ours/1: RGB, longer"):
        run.resume(folder, quiet=True)


def test_a_rule_of_another_size_is_refused_before_any_training(tmp_path: Path) -> None:
    config: Any = tiny(tmp_path)
    text = config.read_text(encoding="utf-8")
    config.write_text(
        text.replace("input_size = [32, 32]", 'input_size = [32, 32]\nimage_rule = "torchvision:resnet18"')
    )
    with pytest.raises(
        InputError, match=r"model\.image_rule: image rule torchvision:resnet18/1 gives 224 x 224, the net"
    ):
        run.fit(config, tmp_path / "run", quiet=True)

"""Image rules beside the transforms of torchvision and timm, and logits beside those of torchvision's own pipeline.

They want a process of their own, as tests/test_export_torch.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from export.cli import cli
from harness.images.loading import load_view
from harness.images.notices import ignore
from harness.images.presets import Normalisation, find_preset
from harness.images.view import channels_first
from harness.models.session import Model
from tests.real_pictures import by_pillow, write_pictures

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore"),  # of the exporter
]
MOST, ON_AVERAGE = 2, 0.05  # levels
NETWORKS = ("resnet18", "mobilenet_v3_large", "vit_b_16", "swin_t", "convnext_tiny")
CONFIGURATIONS = (
    "resnet50.a1_in1k",
    "vit_base_patch16_clip_224.openai",
    "efficientnet_b3.ra2_in1k",
    "convnext_tiny.fb_in1k",
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pictures(tmp_path_factory.mktemp("real"))


def levels(tensor: Any, preset: Any) -> np.ndarray:
    """(H, W, 3) levels 0..255 of what a transform made of a picture, its normalisation undone."""
    normal = preset.normalisation
    pixels = (tensor.numpy().transpose(1, 2, 0) * np.array(normal.std) + np.array(normal.mean)) / normal.scale
    return pixels.astype(np.float64)


def require_alike(found: np.ndarray, expected: np.ndarray, what: str) -> None:
    apart = np.abs(found - expected)
    assert apart.max() <= MOST, what
    assert apart.mean() <= ON_AVERAGE, what


def test_every_weights_transform_has_its_rule(torch: Any, pictures: list[Path]) -> None:
    """All classifiers of torchvision by what their transform says, and each of its transforms by what it does."""
    import torchvision

    assert torch
    models, seen = torchvision.models, set()
    for name in models.list_models(module=models):
        for weights in models.get_model_weights(name):
            transform, preset = weights.transforms(), find_preset(f"torchvision:{name}:{weights.name}")
            said = (preset.rule.shorter, preset.rule.size[0], preset.rule.interpolation)
            assert said == (*transform.resize_size, *transform.crop_size, transform.interpolation.value)
            assert preset.normalisation == Normalisation(1 / 255, tuple(transform.mean), tuple(transform.std))
            some = [] if (said, preset.normalisation) in seen else pictures[:: 1 if preset.rule.shorter < 270 else 5]
            for path in some:
                found = load_view(path, preset.rule, preset.rule.size, notice=ignore).pixels
                require_alike(found, levels(transform(by_pillow(path)), preset), f"{weights} {path.name}")
            seen.add((said, preset.normalisation))
            if weights is type(weights).DEFAULT:
                assert find_preset(f"torchvision:{name}").rule.recipe == preset.rule.recipe
    assert len(seen) > 20


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_timms_configuration_has_its_rule(torch: Any, pictures: list[Path], name: str, tmp_path: Path) -> None:
    import timm

    assert torch
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    (tmp_path / "config.json").write_text(json.dumps(config))
    preset = find_preset("timm:config.json", tmp_path)
    transform = timm.data.create_transform(**config, is_training=False)
    for path in pictures:
        found = load_view(path, preset.rule, preset.rule.size, notice=ignore).pixels
        require_alike(found, levels(transform(by_pillow(path)), preset), f"{name} {path.name}")


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_torchvisions_pipeline(torch: Any, pictures: list[Path], name: str, tmp_path: Path) -> None:
    """From file to logits: a picture decoded by Pillow, transformed and classified by torchvision, and ours."""
    import torchvision

    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=10).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():  # a head that starts at zero gives the same logits to all
            torch.nn.init.normal_(parameter, std=0.1)
    transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    ready = torch.stack([transform(by_pillow(path)) for path in pictures])
    normalise_by(torch, model, ready)
    with torch.no_grad():
        expected = np.concatenate([model(one[None]).numpy() for one in ready])
    torch.onnx.export(
        model, (torch.zeros(2, 3, 224, 224),), str(tmp_path / "m.onnx"),
        dynamo=True, dynamic_shapes=({0: "batch"},), external_data=False, verbose=False,
    )  # fmt: skip
    del model
    out = tmp_path / "x.onnx"
    done = CliRunner().invoke(
        cli, ["onnx", str(tmp_path / "m.onnx"), "--image-rule", f"torchvision:{name}", "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    opened = Model.open(out)
    metadata = opened.metadata
    assert metadata.rule == find_preset(f"torchvision:{name}").rule
    found = np.concatenate([logits_of(opened, path) for path in pictures])
    for mine, theirs, path in zip(found, expected, pictures, strict=True):
        assert np.linalg.norm(mine - theirs) <= 1e-3 * np.linalg.norm(theirs), path.name
    assert np.linalg.norm(found - expected) < 0.05 * np.linalg.norm(expected - expected.mean(axis=0))  # told apart


def normalise_by(torch: Any, model: Any, ready: Any) -> None:
    """Give BatchNorm the statistics of the pictures: with those of a new network, the deep ones give zeros."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        model.train()(ready)
    model.eval()


def logits_of(model: Model, path: Path) -> np.ndarray:
    metadata = model.metadata
    view = load_view(path, metadata.rule, metadata.input_size, notice=ignore)
    return model.explain(channels_first(view.pixels[None]), np.array([-1]), list(model.graph.layers)[:1]).logits


def test_a_reader_that_turns_nothing_is_copied_by_a_file(torch: Any, pictures: list[Path], tmp_path: Path) -> None:
    """torchvision.datasets.folder opens without turning."""
    import torchvision

    assert torch
    (tmp_path / "folder.toml").write_text('like = "torchvision:resnet18"\norientation = "ignore"\n')
    preset = find_preset("folder.toml", tmp_path)
    turned = next(path for path in pictures if path.name == "turned-6.jpg")
    picture = torchvision.datasets.folder.default_loader(str(turned))
    expected = torchvision.models.ResNet18_Weights.DEFAULT.transforms()(picture)
    found = load_view(turned, preset.rule, (224, 224), notice=ignore).pixels
    require_alike(found, levels(expected, preset), "turned-6.jpg")
    assert isinstance(picture, Image.Image)

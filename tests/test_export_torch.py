"""Real PyTorch models through torch.onnx, against autograd; and the code blocks of docs/pytorch.md.

They want a process of their own: Triton, which PyTorch loads, crashes beside TensorFlow's LLVM.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.sources.onnx import Preprocessing, export_onnx
from export.write import Request
from harness.evaluation.demonstration import FOLDER
from harness.models.session import Model

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore"),  # of the exporter
]
PAGE = Path(__file__).parent.parent / "docs" / "pytorch.md"
SIZE = 64
# torchvision's networks, transformers with fewer and narrower blocks -> modules, an early one and the last map
MODELS = {
    "resnet18": ("layer2", "layer4"),
    "convnext_tiny": ("features.3", "features.7"),
    "VisionTransformer": ("encoder.layers.encoder_layer_1.ln_1", "encoder.layers.encoder_layer_3.ln_1"),
    "SwinTransformer": ("features.1", "norm"),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "VisionTransformer": {
        "image_size": SIZE, "patch_size": 16, "num_layers": 4, "num_heads": 3, "hidden_dim": 192, "mlp_dim": 768,
    },
    "SwinTransformer": {
        "patch_size": [4, 4], "embed_dim": 48, "depths": [2, 2], "num_heads": [2, 4], "window_size": [4, 4],
    },
}  # fmt: skip


def network(torch: Any, name: str) -> Any:
    import torchvision

    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=5, **OPTIONS.get(name, {})).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():  # a head that starts at zero has no gradient
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def by_autograd(torch: Any, model: Any, modules: tuple[str, ...], pixels: np.ndarray, target: np.ndarray) -> Any:
    """(logits, {module: (activations, gradients)})."""
    kept: dict[str, Any] = {}

    def keep(name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            output.retain_grad()
            kept[name] = output

        return hook

    for name in modules:
        model.get_submodule(name).register_forward_hook(keep(name))
    logits = model(torch.tensor(pixels))
    logits.gather(1, torch.tensor(target)[:, None]).sum().backward()
    return logits.detach().numpy(), {name: (y.detach().numpy(), y.grad.numpy()) for name, y in kept.items()}


def as_map(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Tokens (N, 1 + h w, C), or channels last, as (N, C, h, w)."""
    if values.ndim == 3:
        return values[:, 1:].transpose(0, 2, 1).reshape(like.shape)
    return values if values.shape == like.shape else values.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("name", MODELS)
def test_model_equals_autograd(torch: Any, name: str, tmp_path: Path) -> None:
    model, modules = network(torch, name), MODELS[name]
    torch.onnx.export(
        model, (torch.zeros(2, 3, SIZE, SIZE),), str(tmp_path / "m.onnx"),
        dynamo=True, dynamic_shapes=({0: "batch"},), external_data=False, verbose=False,
    )  # fmt: skip
    layers = [f"penultimate={modules[0]}", f"last={modules[1]}"]
    export_onnx(tmp_path / "m.onnx", Request(layers, tmp_path / "x.onnx"), Preprocessing(1 / 255))
    images = np.random.default_rng(0).uniform(0, 255, (3, 1, SIZE, SIZE)).astype(np.float32).repeat(3, axis=1)
    target = np.array([1, 3, 0])
    logits, expected = by_autograd(torch, model, modules, images / np.float32(255), target)
    found = Model.open(tmp_path / "x.onnx").explain(images, target, ["penultimate", "last"])
    np.testing.assert_allclose(found.logits, logits, rtol=1e-4, atol=1e-5)
    for role, module in zip(("penultimate", "last"), modules, strict=True):
        for mine, theirs in zip(found.layers[role], expected[module], strict=True):
            theirs = as_map(theirs, mine)
            assert np.linalg.norm(mine - theirs) <= 1e-4 * np.linalg.norm(theirs), (module, name)


def test_the_pages_code_runs(torch: Any, tmp_path: Path) -> None:
    assert torch
    shutil.copytree(FOLDER / "images", tmp_path / "images")
    shutil.copy(FOLDER / "manifest.csv", tmp_path / "test.csv")
    text = PAGE.read_text(encoding="utf-8")
    for name, code in re.findall(r"<!-- python: (\S+) -->\n```python\n(.*?)```", text, re.DOTALL):
        (tmp_path / name).write_text(code, encoding="utf-8")
    blocks = re.findall(r"<!-- shell: \d -->\n```sh\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == text.count("```sh"), "every shell block of the page is executed"
    outputs = [shell(block, tmp_path) for block in blocks]
    assert "layer4" in outputs[0]
    assert "verdict: PASS" in outputs[1]
    assert (tmp_path / "drift" / "report.html").is_file()


def shell(code: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(PAGE.parent.parent)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code], cwd=folder, env=environment, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout

"""The networks that are timed: pairs of checkpoints with random weights from fixed seeds, as Keras files and exported.

They are made once and kept in `.benchmarks/networks/`, in a folder whose name changes with whatever they depend on.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
CLASSES = ("bacterial_pneumonia", "covid19", "normal", "pneumonia_nih", "viral_pneumonia")
SIZES = {"ResNet50V2": 224, "DenseNet201": 224, "InceptionV3": 299}
LIGHT = {"MobileNetV2": 224}  # so fast that what is around it shows
LAYERS = {
    "MobileNetV2": "block_16_project_BN",
    "ResNet50V2": "conv5_block2_out",
    "DenseNet201": "conv5_block31_concat",
    "InceptionV3": "mixed9",
}
PHASES = ("transfer", "finetune")
NUDGE = 0.05  # by which the weights of the second checkpoint differ, as a share of their standard deviation


@dataclass(frozen=True)
class Checkpoints:
    """The folder of two checkpoints of one architecture, and the CAM layer that is compared."""

    folder: Path
    architecture: str
    layer: str

    def keras(self, phase: str) -> Path:
        return self.folder / f"{phase}.keras"

    def onnx(self, phase: str) -> Path:
        return self.folder / f"{phase}.onnx"

    @property
    def written(self) -> bool:
        return self.folder.is_dir()


def checkpoints(architecture: str) -> Checkpoints:
    """The pair of `architecture`, made where it is not there yet (a minute or two, parity included).

    TensorFlow works in a process of its own, and leaves neither threads nor memory behind in this one.
    """
    found = _place(architecture)
    if not found.written:
        subprocess.run([sys.executable, "-m", "benchmarks.networks", architecture], cwd=ROOT, check=True)
    return found


def _place(architecture: str) -> Checkpoints:
    return Checkpoints(ROOT / ".benchmarks" / "networks" / _key() / architecture, architecture, LAYERS[architecture])


def _make(architecture: str) -> None:
    from tests.keras_models import backbone

    write(_place(architecture), backbone(architecture, {**SIZES, **LIGHT}[architecture], len(CLASSES)), CLASSES)


def write(into: Checkpoints, model: Any, classes: tuple[str, ...]) -> None:
    """Save and export `model`, and once more with nudged weights; the folder is there whole or not at all."""
    partial = Checkpoints(into.folder.with_name(into.folder.name + ".partial"), into.architecture, into.layer)
    shutil.rmtree(partial.folder, ignore_errors=True)
    partial.folder.mkdir(parents=True)
    for phase in PHASES:
        model.save(partial.keras(phase))
        _export(partial, phase, classes)
        _nudge(model)
    partial.folder.rename(into.folder)


def _export(into: Checkpoints, phase: str, classes: tuple[str, ...]) -> None:
    from export.sources.keras import CheckpointRecord, export_checkpoint
    from export.write import Request

    facts = {"architecture": into.architecture, "cam_layers": {"penultimate": into.layer}, "score": "softmax"}
    record = CheckpointRecord(into.keras(phase), phase, facts)
    export_checkpoint(record, Request(["penultimate"], into.onnx(phase), classes=classes))


def _nudge(model: Any) -> None:
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        value = weight.numpy()
        weight.assign(value + NUDGE * value.std() * rng.standard_normal(value.shape))


def _key() -> str:
    """Changes with the export's sources, with this file's, and with the packages that make the files."""
    sources = [*(ROOT / "export").rglob("*.py"), ROOT / "tests" / "keras_models.py", Path(__file__)]
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(path.read_bytes())
    for package in ("tensorflow", "keras", "tf2onnx", "onnx", "onnx-ir"):
        digest.update(f"{package} {version(package)}".encode())
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    _make(sys.argv[1])

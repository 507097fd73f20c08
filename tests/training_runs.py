"""Small runs that the training tests share: three convolutions at 32 pixels on a few drawn radiographs.

A network of this size keeps the seconds that TensorFlow takes to trace a step small; the real backbones have tests
of their own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent

MODEL = """
[model]
backbone = "custom"
path = "small.keras"
scale = [0.01, 0.01, 0.01]
penultimate = "second_out"
last = "third_out"
weights = "none"
input_size = [32, 32]
dropout = 0.3
"""

TINY = """
seed = {seed}
[data]
phantoms = {{ images = 100, patients = 80, seed = 2, size = 48 }}
{model}
[phases.pretrain]
epochs = {pretrain}
[phases.transfer]
epochs = {transfer}
[phases.finetune]
epochs = {finetune}
batch_size = 8
[phases.finetune.augment]
shift = 0.05
rotate = 5
contrast = 0.1
"""


def tiny(
    folder: Path, *, seed: int = 0, pretrain: int = 1, transfer: int = 2, finetune: int = 2, more: str = ""
) -> Path:
    """Write a configuration and return its path; `more` is appended as it is (to the table finetune.augment)."""
    path = folder / "tiny.toml"
    write_backbone(folder)
    text = TINY.format(model=MODEL, seed=seed, pretrain=pretrain, transfer=transfer, finetune=finetune)
    path.write_text(text + more, encoding="utf-8")
    return path


def write_backbone(folder: Path) -> None:
    """`folder/small.keras`: three convolutions with BatchNorm and ReLU, named first, second and third."""
    from training.framework import keras

    x = image = keras.Input((32, 32, 3))
    keras.utils.set_random_seed(0)
    for name, strides in (("first", 4), ("second", 2), ("third", 1)):
        x = keras.layers.Conv2D(8, 3, strides, padding="same", name=f"{name}_conv")(x)
        x = keras.layers.BatchNormalization(name=f"{name}_bn")(x)
        x = keras.layers.Activation("relu", name=f"{name}_out")(x)
    keras.Model(image, x).save(folder / "small.keras")


MORE = """
[phases.late]
trainable = "third_conv"
learning_rate = 1e-3
epochs = 2
seeds = [0, 7]
checkpoint_every = 1
class_weights = true
label_smoothing = 0.1
weight_decay = 1e-3
early_stopping = 5
"""


def finish(folder: Path) -> Path:
    """The run that all tests share (fixture `finished_training`): `folder/run`, complete.

    Beside it lies `cut`, a copy from the middle of its phase finetune. Tests that change anything use `copied`.
    """
    from training import run

    write_history = run.Run._write_history

    def copy_in_the_middle(self: Any, progress: Any) -> None:
        write_history(self, progress)
        if (progress.stem, progress.epoch) == ("finetune", 1):
            shutil.copytree(self.folder, folder / "cut")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.Run, "_write_history", copy_in_the_middle)
        return run.fit(tiny(folder, more=MORE), folder / "run")


def copied(finished: Path, folder: Path, name: str = "cut") -> Path:
    """A copy of the complete run or of the cut one, with its configuration beside it."""
    folder.mkdir(exist_ok=True)
    shutil.copytree(finished.parent / name, folder / name)
    for file in ("tiny.toml", "small.keras"):
        shutil.copy(finished.parent / file, folder)
    return folder / name


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def digests(folder: Path) -> dict[str, str]:
    """Weights digest of every finished checkpoint."""
    return {stem: phase["weights_digest"] for stem, phase in record(folder)["phases"].items()}


def command_line(*arguments: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """`python -m training ...` in a process of its own, from the project's root."""
    return subprocess.run(
        [sys.executable, "-m", "training", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, **more
    )


def environment() -> dict[str, str]:
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}


def as_started_by_a_user() -> dict[str, str]:
    """The environment without what the tests set: CUDA looks for a GPU, and nothing lowers TensorFlow's voice."""
    return {k: v for k, v in os.environ.items() if k not in ("CUDA_VISIBLE_DEVICES", "TF_CPP_MIN_LOG_LEVEL")}

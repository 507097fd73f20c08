"""The embedded demonstration: synthetic radiographs and two small checkpoints that ship with the package."""

from __future__ import annotations

from pathlib import Path

from harness.command import Inputs

FOLDER = Path(__file__).parent / "demo"


def inputs() -> Inputs:
    """The demonstration as inputs of an evaluation; `scripts/make_demonstration.py` made its files."""
    return Inputs(FOLDER / "transfer.onnx", FOLDER / "finetune.onnx", FOLDER / "manifest.csv")

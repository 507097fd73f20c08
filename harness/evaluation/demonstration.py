"""The embedded demonstration: synthetic radiographs and two small checkpoints that ship with the package."""

from __future__ import annotations

from pathlib import Path

from harness.evaluation.study_file import ArchitectureConfig, make_plan
from harness.results.options import Options
from harness.results.plan import Data, Plan

FOLDER = Path(__file__).parent.parent / "demo"


def plan(options: Options) -> Plan:
    """The demonstration as a plan; `scripts/make_demonstration.py` made its files."""
    pair = ArchitectureConfig(before=FOLDER / "transfer.onnx", after=FOLDER / "finetune.onnx")
    return make_plan([pair], Data(FOLDER / "manifest.csv"), options)

"""The embedded demonstrations: drawn pictures and two small checkpoints of each kind that ship with the package."""

from __future__ import annotations

from pathlib import Path

from harness.evaluation.study_file import ArchitectureConfig, make_plan
from harness.results.options import Options
from harness.results.plan import Data, Plan

FOLDER = Path(__file__).parent.parent / "demo"
# Name -> folder, earlier and later checkpoint; scripts/make_*demonstration.py made them.
_FILES = {
    "radiographs": (FOLDER, "transfer", "finetune"),
    "colour": (FOLDER.with_name("demo_colour"), "pretrain", "finetune"),
}
NAMES = tuple(_FILES)


def plan(options: Options, name: str = "radiographs") -> Plan:
    """The demonstration of that name, one of NAMES, as a plan."""
    folder, before, after = _FILES[name]
    pair = ArchitectureConfig(before=folder / f"{before}.onnx", after=folder / f"{after}.onnx")
    return make_plan([pair], Data(folder / "manifest.csv"), options)

"""What a run directory says about its checkpoints: `run.json`, as `python -m training fit` writes it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.common.errors import InputError
from harness.images.columns import FILE, SPLIT
from harness.images.manifest import read_manifest


@dataclass(frozen=True)
class CheckpointRecord:
    """One checkpoint with what is known of it; the dictionaries are empty for one outside a run directory.

    `name` is the phase, with the seed of a replicate (`finetune.seed1`). `beside` is the run.json that lies beside a
    checkpoint without listing it: of that, only what holds for the architecture is used.
    """

    path: Path
    name: str
    facts: dict[str, Any] = field(default_factory=dict)  # run.json
    phase: dict[str, Any] = field(default_factory=dict)  # its entry in run.json
    beside: dict[str, Any] = field(default_factory=dict)

    @property
    def cam_layers(self) -> dict[str, str]:
        """Role -> layer, of the architecture that the run trains."""
        return (self.facts or self.beside).get("cam_layers", {})

    @property
    def classes(self) -> list[str]:
        return self.phase.get("classes") or self.facts.get("classes", [])

    @property
    def data_digest(self) -> str:
        return self.phase.get("data_digest") or self.facts.get("data", {}).get("digest", "")

    def test_images(self, count: int) -> list[Path]:
        """Up to `count` images of the run's test split that can still be read, spread over the list."""
        split = self.path.parent / "split.csv"
        if not self.facts or not split.is_file():
            return []
        manifest = read_manifest(split, split="test", wanted=(FILE, SPLIT))
        files = [Path(str(row.path)) for row in manifest.rows]
        found = [path for path in files if path.is_file()]
        return found[:: max(1, len(found) // count)][:count]


def find_checkpoints(source: Path) -> list[CheckpointRecord]:
    """The checkpoints behind a path: itself, or the last of every phase that a run directory lists.

    Raises InputError where there is none.
    """
    if (source / "saved_model.pb").is_file():
        raise InputError(_about_saved_model(source))
    folder = source if source.is_dir() else source.parent
    facts = _facts(folder)
    listed = [_record(folder, name, facts, phase) for name, phase in facts.get("phases", {}).items()]
    if not source.is_dir():
        known = [record for record in (*listed, *_along(folder, facts)) if record.path.name == source.name]
        return known or [CheckpointRecord(source, source.stem, beside=facts)]
    if not listed:
        raise InputError(f"{source}: no run.json that lists a checkpoint; give a run directory or a .keras file")
    return listed


def _about_saved_model(folder: Path) -> str:
    file = f"{folder.name}.onnx"
    return (
        f"{folder}: is a SavedModel, which does not hold its layers; convert it with `python -m tf2onnx.convert "
        f"--saved-model {folder} --opset 18 --output {file}`, then run `python -m export onnx {file} --layout nhwc`"
    )


def _record(folder: Path, name: str, facts: dict[str, Any], phase: dict[str, Any]) -> CheckpointRecord:
    return CheckpointRecord(folder / phase["checkpoint"], name, facts, phase)


def _along(folder: Path, facts: dict[str, Any]) -> list[CheckpointRecord]:
    """The checkpoints that phases kept on the way (`checkpoint_every`), each with the facts of its phase."""
    return [
        _record(folder, f"{name}.epoch{entry['epoch']:03d}", facts, phase | entry)
        for name, phase in facts.get("phases", {}).items()
        for entry in phase.get("along", [])
    ]


def _facts(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not valid JSON (line {error.lineno}); train again or restore the file") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not UTF-8 text; train again or restore the file") from error
    if not _is_record(facts):
        raise InputError(f"{path}: not the record of a training; move it away to export the checkpoints beside it")
    return facts


def _is_record(facts: Any) -> bool:
    phases = facts.get("phases", {}) if isinstance(facts, dict) else None
    return isinstance(phases, dict) and all(
        isinstance(phase, dict) and isinstance(phase.get("checkpoint"), str) for phase in phases.values()
    )

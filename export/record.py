"""What a run directory says about its checkpoints: `run.json`, as `python -m training fit` writes it."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import InputError


@dataclass(frozen=True)
class CheckpointRecord:
    """One checkpoint with what is known of it; `facts` is empty for a checkpoint outside a run directory."""

    path: Path
    phase: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def cam_layers(self) -> dict[str, str]:
        return self.facts.get("cam_layers", {})

    @property
    def stored_digest(self) -> str | None:
        return self.facts.get("phases", {}).get(self.phase, {}).get("weights_digest")

    @property
    def seed(self) -> int | None:
        return self.facts.get("phases", {}).get(self.phase, {}).get("seed")

    def test_images(self, count: int) -> list[Path]:
        """Up to `count` images of the run's test split that can still be read, spread over the list."""
        split = self.path.parent / "split.csv"
        root = self.facts.get("data_root")
        if root is None or not split.is_file():
            return []
        with split.open(newline="", encoding="utf-8") as stream:
            files = [Path(root) / row["file"] for row in csv.DictReader(stream) if row["split"] == "test"]
        found = [path for path in files if path.is_file()]
        return found[:: max(1, len(found) // count)][:count]


def find_checkpoints(source: Path) -> list[CheckpointRecord]:
    """The checkpoints behind a path: itself, or one per phase of a run directory.

    Raises InputError where there is none.
    """
    if source.is_dir():
        facts = _facts(source)
        if not facts:
            raise InputError(f"{source}: no run.json in this folder; give a run directory or a .keras file")
        phases = facts.get("phases", {})
        return [CheckpointRecord(source / phases[name]["checkpoint"], name, facts) for name in phases]
    facts = _facts(source.parent)
    for name, phase in facts.get("phases", {}).items():
        if phase["checkpoint"] == source.name:
            return [CheckpointRecord(source, name, facts)]
    return [CheckpointRecord(source, source.stem)]


def _facts(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not valid JSON (line {error.lineno}); train again or restore the file") from error

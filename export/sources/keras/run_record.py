"""What a run directory says about its checkpoints: `run.json`, as `python -m training fit` writes it."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.common.errors import InputError


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
        with split.open(newline="", encoding="utf-8") as stream:
            files = [split.parent / row["file"] for row in csv.DictReader(stream) if row["split"] == "test"]
        found = [path for path in files if path.is_file()]
        return found[:: max(1, len(found) // count)][:count]


def find_checkpoints(source: Path) -> list[CheckpointRecord]:
    """The checkpoints behind a path: itself, or all that a run directory lists.

    Raises InputError where there is none.
    """
    folder = source if source.is_dir() else source.parent
    facts = _facts(folder)
    listed = [
        CheckpointRecord(folder / phase["checkpoint"], name, facts, phase)
        for name, phase in facts.get("phases", {}).items()
    ]
    if not source.is_dir():
        known = [record for record in listed if record.path.name == source.name]
        return known or [CheckpointRecord(source, source.stem, beside=facts)]
    if not listed:
        raise InputError(f"{source}: no run.json that lists a checkpoint; give a run directory or a .keras file")
    return listed


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

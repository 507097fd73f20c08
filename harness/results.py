"""`evaluation.json`: the result that table, pictures, report and gate read.

Undefined numbers are null, with a reason.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import InputError
from harness.model import GraphMetadata

FORMAT = 1
FILE = "evaluation.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Estimate(_Record):
    """A mean over images with its 95 % patient-bootstrap interval."""

    mean: float | None
    low: float | None
    high: float | None
    interval_reason: str | None = None


class MetricSummary(_Record):
    """One metric of one method and layer over the selected images of one scope (`all`, or a class)."""

    layer: str
    method: str
    scope: str
    metric: str
    reference: str
    stable_is: str
    n: int
    n_patients: int
    undefined: dict[str, int]
    vanished: int
    estimate: Estimate
    sd: float | None
    q25: float | None
    median: float | None
    q75: float | None


class CheckpointResult(_Record):
    """One of the two checkpoints: which file, and how well it classifies."""

    file: str
    digest: str
    metadata: GraphMetadata
    accuracy: Estimate


class Evaluation(_Record):
    """Everything that an evaluation found."""

    format: int = FORMAT
    command: list[str]
    before: CheckpointResult
    after: CheckpointResult
    agreement: Estimate
    data: str
    data_digest: str
    images: int
    patients: int
    selected: int
    selection: str
    unreadable: dict[str, str]  # image -> what is wrong with it
    map_size: tuple[int, int]
    seed: int
    environment: dict[str, Any]
    seconds: float
    metrics: list[MetricSummary]

    def write(self, folder: Path) -> Path:
        """Write `evaluation.json`, whole or not at all."""
        path = folder / FILE
        partial = path.with_suffix(".partial")
        partial.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
        return path

    @classmethod
    def read(cls, path: Path) -> Evaluation:
        """Read a result folder or file; raises InputError where it is none of format 1."""
        file = path / FILE if path.is_dir() else path
        try:
            return cls.model_validate_json(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror}); run `python -m harness evaluate`") from None
        except ValidationError as error:
            raise InputError(f"{file}: not an evaluation of format {FORMAT} ({error.errors()[0]['msg']})") from error


def number(value: float) -> float | None:
    """A finite number, or None: JSON has no NaN."""
    return float(value) if math.isfinite(value) else None

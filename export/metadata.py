"""What an exported graph says about itself: ONNX `metadata_props`, prefix `evidence_drift.`, every value as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import onnx_ir as ir

FORMAT = 1
PREFIX = "evidence_drift."
TOOLS = ("tensorflow", "keras", "tf2onnx", "onnx", "onnx-ir", "onnxruntime-gpu", "onnxruntime")


@dataclass(frozen=True)
class Metadata:
    """One field per property. `layers` lists {name, activations, gradients}: a CAM layer and its two outputs."""

    architecture: str
    phase: str
    classes: list[str]
    preprocessing: Any
    image_rule: str
    input_size: list[int]
    input_range: list[float]
    score_kind: str
    layers: list[dict[str, str]]
    weights_digest: str
    data_digest: str
    seed: int | None
    git_commit: str | None


def stamp(model: ir.Model, metadata: Metadata) -> None:
    """Write the metadata into the model."""
    fields = {"format": FORMAT, **asdict(metadata), "tools": tool_versions()}
    model.metadata_props.update({PREFIX + key: json.dumps(value) for key, value in fields.items()})


def tool_versions() -> dict[str, str]:
    """Versions of the packages that took part in an export, as far as they are installed."""
    found = {}
    for tool in TOOLS:
        try:
            found[tool] = version(tool)
        except PackageNotFoundError:
            continue
    return found

"""What an exported graph says about itself: ONNX `metadata_props`, prefix `evidence_drift.`, every value as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import onnx_ir as ir

FORMAT = 1
PREFIX = "evidence_drift."
TOOLS = ("tensorflow", "keras", "tf2onnx", "onnx", "onnx-ir", "onnxruntime-gpu", "onnxruntime")


@dataclass(frozen=True)
class Metadata:
    """One field per property. `layers` lists {name, role, activations, gradients, maps}: a CAM layer and its outputs.

    thresholds: per class, the probability from which a multi-label model says yes; None means 0.5 everywhere
    preserved: one record for each phase up to this checkpoint that was trained to preserve evidence (docs/preserve.md)
    """

    architecture: str
    phase: str
    classes: list[str]
    preprocessing: Any
    image_rule: Any  # `harness.images.rule.stored`
    input_size: list[int]
    score_kind: str
    weights_digest: str
    data_digest: str = ""
    seed: int | None = None
    git_commit: str | None = None
    input_range: tuple[float, float] = (0.0, 255.0)
    thresholds: list[float] | None = None
    explained: str = "logit"  # or `probability`: what the gradients are of
    layers: list[dict[str, Any]] = field(default_factory=list)
    preserved: list[dict[str, Any]] = field(default_factory=list)


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

"""Opening an exported graph: what it says about itself, and one call that explains a batch of images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from pydantic import BaseModel, ValidationError

from harness import images
from harness.errors import CannotEvaluateError, InputError, first_line

FORMAT = 1
PREFIX = "evidence_drift."
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
PROVIDER_OPTIONS: dict[str, dict[str, str]] = {"cuda": {"use_tf32": "0"}}


class LayerOutputs(BaseModel):
    """A CAM layer and the graph outputs that carry its activations and gradients, both (N, C, h, w).

    `maps`: CAM method -> output that carries its map (N, h, w), where the graph explains itself.
    """

    name: str
    activations: str
    gradients: str
    maps: dict[str, str] = {}


class GraphMetadata(BaseModel):
    """What an exported graph says about itself; format 1."""

    format: Literal[1]
    architecture: str
    phase: str
    classes: list[str]
    preprocessing: Any
    image_rule: str
    input_size: tuple[int, int]
    input_range: tuple[float, float]
    score_kind: Literal["softmax", "multilabel", "binary"]
    explained: Literal["logit", "probability"]
    layers: list[LayerOutputs]
    weights_digest: str
    data_digest: str
    tools: dict[str, str]
    seed: int | None
    git_commit: str | None


@dataclass(frozen=True)
class Explanation:
    """What one call returns. `layers` maps a CAM layer to (activations, gradients), both (N, C, h, w)."""

    logits: np.ndarray  # (N, K)
    layers: dict[str, tuple[np.ndarray, np.ndarray]]


class Model:
    """An exported graph in an ONNX Runtime session."""

    def __init__(self, path: Path, metadata: GraphMetadata, session: ort.InferenceSession, digest: str) -> None:
        self.path = path
        self.metadata = metadata
        self.digest = digest
        self._session = session

    @classmethod
    def open(cls, path: Path, provider: str = "cpu", threads: int = 1) -> Model:
        """Load a graph that `python -m export` wrote.

        :raises InputError: no such file, no ONNX, not one of ours, or of a format or image rule unknown here.
        :raises CannotEvaluateError: the provider is not available.
        """
        content = _read(path)
        session = _session(path, content, provider, threads)
        metadata = _metadata(path, session.get_modelmeta().custom_metadata_map)
        return cls(path, metadata, session, hashlib.sha256(content).hexdigest())

    @property
    def layer_names(self) -> list[str]:
        return [layer.name for layer in self.metadata.layers]

    @property
    def providers(self) -> dict[str, Any]:
        """The providers really in use, with their options."""
        return self._session.get_provider_options()

    def explain(self, batch: np.ndarray, target: np.ndarray, layers: Sequence[str]) -> Explanation:
        """One forward and backward pass.

        :param batch: (N, 3, H, W) float32, grey levels 0..255.
        :param target: (N,) int64, the class to explain, -1 the predicted one.
        :raises InputError: a target outside -1..K-1.
        """
        self._check_target(target)
        wanted = {layer.name: layer for layer in self.metadata.layers if layer.name in layers}
        names = ["logits", *(n for layer in wanted.values() for n in (layer.activations, layer.gradients))]
        found = dict(zip(names, self._session.run(names, {"image": batch, "target": target}), strict=True))
        pairs = {name: (found[wanted[name].activations], found[wanted[name].gradients]) for name in layers}
        return Explanation(found["logits"], pairs)

    def predictions(self, logits: np.ndarray) -> np.ndarray:
        """The predicted class of each image: (N, K) logits to (N,) indices."""
        if self.metadata.score_kind == "binary":
            return (logits[:, 0] > 0).astype(np.int64)
        return logits.argmax(axis=1)

    def _check_target(self, target: np.ndarray) -> None:
        classes = self.metadata.classes
        wrong = target[(target < -1) | (target >= len(classes))]
        if wrong.size:
            raise InputError(f"target {wrong[0]} is out of range; {self.path} has classes 0..{len(classes) - 1}")


def require_comparable(before: Model, after: Model) -> None:
    """Raise InputError, naming the difference, where two graphs cannot be compared image by image."""
    for field, what in (
        ("classes", "classes"),
        ("input_size", "input sizes"),
        ("image_rule", "image rules"),
        ("score_kind", "score kinds"),
        ("explained", "explained scores"),
    ):
        a, b = getattr(before.metadata, field), getattr(after.metadata, field)
        if a != b:
            raise InputError(
                f"{before.path} and {after.path} have different {what}: {_brief(a)} and {_brief(b)}; "
                "export both from runs of one configuration"
            )


def common_layers(before: Model, after: Model, asked: Sequence[str]) -> list[str]:
    """The CAM layers to compare: those asked for, else the first that both graphs carry."""
    common = [name for name in before.layer_names if name in after.layer_names]
    unknown = [name for name in asked if name not in common]
    if unknown or not common:
        known = ", ".join(common) or "none"
        what = repr(unknown[0]) if unknown else "in common"
        raise InputError(
            f"no CAM layer {what} in {before.path} and {after.path}; both have: {known}; export with --layer NAME"
        )
    return list(asked) or common[:1]


def _read(path: Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give an exported .onnx file") from None


def _session(path: Path, content: bytes, provider: str, threads: int) -> ort.InferenceSession:
    name = PROVIDERS.get(provider)
    if name is None:
        raise InputError(f"unknown provider {provider!r}; choose one of {', '.join(PROVIDERS)}")
    if name not in ort.get_available_providers():
        raise CannotEvaluateError(f"provider {provider!r} was asked for, but this ONNX Runtime has no {name}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Two sessions take turns: threads that spin while waiting for work would slow the other one down.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(content, options, providers=[(name, PROVIDER_OPTIONS.get(provider, {}))])
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        raise InputError(f"{path}: not an ONNX file that ONNX Runtime can run ({first_line(error)})") from error
    if session.get_providers()[0] != name:
        raise CannotEvaluateError(
            f"provider {provider!r} was asked for, but ONNX Runtime fell back to {session.get_providers()[0]}"
        )
    return session


def _metadata(path: Path, properties: Mapping[str, str]) -> GraphMetadata:
    ours = {key.removeprefix(PREFIX): value for key, value in properties.items() if key.startswith(PREFIX)}
    if "format" not in ours:
        raise InputError(f"{path}: not a graph of this project (no metadata); make one with `python -m export`")
    if ours["format"] != str(FORMAT):
        raise InputError(f"{path}: format {ours['format']} is not known here (known: {FORMAT}); export it again")
    try:
        metadata = GraphMetadata.model_validate({key: json.loads(value) for key, value in ours.items()})
    except (ValidationError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: its metadata is damaged ({first_line(error)}); export it again") from error
    if metadata.image_rule != images.RULE:
        raise InputError(
            f"{path}: exported under image rule {metadata.image_rule!r}, this is {images.RULE!r}; export it again"
        )
    return metadata


def _brief(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."

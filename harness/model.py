"""Opening an exported graph: what it says about itself, and one call that explains a batch of images."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from pydantic import BaseModel, ValidationError
from scipy.special import expit, softmax

from harness import images
from harness.digests import bytes_digest
from harness.errors import CannotEvaluateError, InputError, first_line
from harness.places import Place, place
from harness.predictions import decisions

FORMAT = 1
PREFIX = "evidence_drift."
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
NO_FOLDER = "/nowhere/weights-lie-outside-the-file"
LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
PROVIDER_OPTIONS: dict[str, dict[str, str]] = {"cuda": {"use_tf32": "0"}}


class LayerOutputs(BaseModel):
    """A CAM layer and the graph outputs that carry its activations and gradients, both (N, C, h, w).

    `role`: `penultimate` or `last`, which means the same in any network; None for any other layer.
    `maps`: CAM method -> output that carries its map (N, h, w), where the graph explains itself.
    """

    name: str
    role: str | None = None
    activations: str
    gradients: str
    maps: dict[str, str] = {}

    @property
    def label(self) -> str:
        """What results call the layer: its role, so that architectures can be compared, else its name."""
        return self.role or self.name


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
    thresholds: list[float] | None = None  # multi-label: the probability from which the answer is yes
    layers: list[LayerOutputs]
    weights_digest: str
    data_digest: str
    tools: dict[str, str]
    seed: int | None
    git_commit: str | None

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """(N, K) probabilities of the classes; a binary graph has one logit, the log-odds of class 1."""
        if self.score_kind == "softmax":
            return softmax(logits, axis=1)
        sigmoid = expit(logits)
        return np.concatenate([1 - sigmoid, sigmoid], axis=1) if self.score_kind == "binary" else sigmoid

    def decisions(self, logits: np.ndarray) -> np.ndarray:
        """(N, K) bool, the classes that the model says yes to: one per image, or (multi-label) any number."""
        return decisions(self.probabilities(logits), self.score_kind, self.thresholds)


@dataclass(frozen=True)
class Graph:
    """An exported file: what it says about itself, and sha256 of its bytes."""

    path: Place
    metadata: GraphMetadata
    digest: str

    @classmethod
    def read(cls, path: Place) -> Graph:
        """Read the metadata of a graph that `python -m export` wrote, without preparing it to run.

        :raises InputError: no such file, no ONNX, not one of ours, or of a format or image rule unknown here.
        """
        content = read_graph_file(path)
        session = _session(path, content, "cpu", threads=1, level="disabled")
        return cls(path, _metadata(path, session.get_modelmeta().custom_metadata_map), bytes_digest(content))

    @property
    def layers(self) -> dict[str, LayerOutputs]:
        """The CAM layers by label."""
        return {layer.label: layer for layer in self.metadata.layers}

    def layer(self, name: str) -> LayerOutputs:
        """The CAM layer of that role or name; InputError names those that there are."""
        for layer in self.metadata.layers:
            if name in (layer.label, layer.name):
                return layer
        raise InputError(f"{self.path}: no CAM layer {name!r}; it has: {', '.join(self.layers)}")


@dataclass(frozen=True)
class Explanation:
    """What one call returns. `layers` maps a CAM layer, as it was asked for, to (A, G), both (N, C, h, w)."""

    logits: np.ndarray  # (N, K)
    layers: dict[str, tuple[np.ndarray, np.ndarray]]


class Model:
    """A graph in an ONNX Runtime session. `seconds` counts the time spent inside of it."""

    def __init__(self, graph: Graph, session: ort.InferenceSession) -> None:
        self.graph = graph
        self.metadata = graph.metadata
        self.seconds = 0.0
        self._session = session

    @classmethod
    def open(cls, path: Place, provider: str = "cpu", threads: int = 1, level: str = "all") -> Model:
        """Load a graph that `python -m export` wrote.

        :param level: ONNX Runtime's graph optimisation, one of LEVELS.
        :raises InputError: as `Graph.read`.
        :raises CannotEvaluateError: the provider is not available.
        """
        return cls.load(path, read_graph_file(path), provider, threads, level)

    @classmethod
    def load(cls, path: Place, content: bytes, provider: str = "cpu", threads: int = 1, level: str = "all") -> Model:
        """`open` for bytes that have been read already; `path` names them in messages."""
        session = _session(path, content, provider, threads, level)
        metadata = _metadata(path, session.get_modelmeta().custom_metadata_map)
        return cls(Graph(path, metadata, bytes_digest(content)), session)

    @property
    def providers(self) -> dict[str, Any]:
        """The providers really in use, with their options."""
        return self._session.get_provider_options()

    def explain(self, batch: np.ndarray, target: np.ndarray, layers: Sequence[str]) -> Explanation:
        """One forward and backward pass.

        :param batch: (N, 3, H, W) float32, grey levels 0..255.
        :param target: (N,) int64, the class to explain, -1 the predicted one.
        :param layers: CAM layers by role or name.
        :raises InputError: a target outside -1..K-1, a layer that the graph has not.
        """
        self._check_target(target)
        wanted = {name: self.graph.layer(name) for name in layers}
        names = ["logits", *(name for layer in wanted.values() for name in (layer.activations, layer.gradients))]
        started = time.perf_counter()
        found = dict(zip(names, self._session.run(names, {"image": batch, "target": target}), strict=True))
        self.seconds += time.perf_counter() - started
        pairs = {name: (found[layer.activations], found[layer.gradients]) for name, layer in wanted.items()}
        return Explanation(found["logits"], pairs)

    def _check_target(self, target: np.ndarray) -> None:
        classes = self.metadata.classes
        wrong = target[(target < -1) | (target >= len(classes))]
        if wrong.size:
            raise InputError(f"target {wrong[0]} is out of range; {self.graph.path} has classes 0..{len(classes) - 1}")


def require_comparable(before: Graph, after: Graph, across_networks: bool = False) -> None:
    """Raise InputError, naming the difference, where two graphs cannot be compared image by image.

    across_networks: two architectures of one study may differ in the size of their input
    """
    for field, what in (
        ("classes", "classes"),
        ("image_rule", "image rules"),
        ("score_kind", "score kinds"),
        ("explained", "explained scores"),
        ("thresholds", "thresholds"),
        ("input_size", "input sizes"),
    ):
        a, b = getattr(before.metadata, field), getattr(after.metadata, field)
        if a != b and not (across_networks and field == "input_size"):
            raise InputError(
                f"{before.path} and {after.path} have different {what}: {_brief(a)} and {_brief(b)}; "
                "export both from runs of one configuration"
            )


def layer_labels(graphs: Sequence[Graph]) -> dict[str, str]:
    """Name of each CAM layer -> its label."""
    return {layer.name: layer.label for graph in graphs for layer in graph.metadata.layers}


def common_layers(graphs: Sequence[Graph], asked: Sequence[str]) -> list[str]:
    """Labels of the CAM layers to compare: those asked for (by role or name), else the first that all graphs carry.

    :raises InputError: a layer that one of the graphs has not.
    """
    labels = layer_labels(graphs)
    wanted = list(dict.fromkeys(labels.get(name, name) for name in asked))
    common = [label for label in graphs[0].layers if all(label in graph.layers for graph in graphs)]
    unknown = [label for label in wanted if label not in common]
    if unknown or not common:
        what = repr(unknown[0]) if unknown else "in common"
        where = " and ".join(dict.fromkeys(str(graph.path) for graph in graphs))
        raise InputError(
            f"no CAM layer {what} in {where}; all have: {', '.join(common) or 'none'}; export with --layer NAME"
        )
    return wanted or common[:1]


def read_graph_file(path: Place) -> bytes:
    """The bytes of an exported graph; InputError where they cannot be read."""
    try:
        return place(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give an exported .onnx file") from None


def _session(path: Place, content: bytes, provider: str, threads: int, level: str) -> ort.InferenceSession:
    name = PROVIDERS.get(provider)
    if name is None:
        raise InputError(f"unknown provider {provider!r}; choose one of {', '.join(PROVIDERS)}")
    if name not in ort.get_available_providers():
        raise CannotEvaluateError(f"provider {provider!r} was asked for, but this ONNX Runtime has no {name}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    ort.set_default_logger_severity(4)  # what goes wrong is raised, and said in a sentence of ours
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[level])
    # Two sessions take turns: threads that spin while waiting for work would slow the other one down.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Weights outside of the file would be under no digest: ONNX Runtime shall find none.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", NO_FOLDER)
    try:
        with redirect_stdout(io.StringIO()):  # ONNX Runtime prints there when a provider does not start
            session = ort.InferenceSession(content, options, providers=[(name, PROVIDER_OPTIONS.get(provider, {}))])
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        raise InputError(f"{path}: not an ONNX file that ONNX Runtime can run ({first_line(error)})") from error
    if session.get_providers()[0] != name:
        raise CannotEvaluateError(
            f"provider {provider!r} was asked for, but ONNX Runtime fell back to {session.get_providers()[0]}"
        )
    return session


def _metadata(path: Place, properties: Mapping[str, str]) -> GraphMetadata:
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

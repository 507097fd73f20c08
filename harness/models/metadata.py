"""What an exported graph says about itself, and whether two graphs can be compared.

A result holds this metadata, so whoever judges one imports this module: SciPy, OpenCV and ONNX Runtime are imported
by the functions that need a graph.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ValidationError

from harness.common.errors import InputError, first_line, warn
from harness.common.provenance import bytes_digest
from harness.common.storage import Location, as_location, require_plain_file
from harness.images.rule import ImageRule, restored
from harness.models.score_kinds import decisions
from kernels.catalogue import cam_method

FORMAT = 1
PREFIX = "evidence_drift."
PICTURE = "image"  # the layer that is the picture itself


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

    @property
    def is_picture(self) -> bool:
        """Whether it is the picture itself."""
        return self.name == PICTURE


class PreservedEvidence(BaseModel):
    """How a phase of training was made to keep its evidence (docs/preserve.md).

    `checkpoint`: the phase; `method` and `layer`: the maps that its loss was made of; `similarity`: what the loss is 1
    minus of; `weight`: of the loss beside the cross-entropy; `reference`: the checkpoint, or the folder of masks, that
    the maps were held to; `images` of `of` training images took part.
    """

    checkpoint: str
    layer: str
    method: Literal["layercam", "gradcam", "hirescam"]
    similarity: str
    weight: float
    reference: str
    reference_digest: str = ""
    images: int
    of: int

    def __str__(self) -> str:
        held = "inside of the masks" if self.similarity == "inside" else "to those of"
        return f"{self.method} maps at {self.layer} were held {held} {self.reference}, weight {self.weight:g}"


class GraphMetadata(BaseModel):
    """What an exported graph says about itself; format 1."""

    format: Literal[1]
    architecture: str
    phase: str
    classes: list[str]
    preprocessing: Any
    image_rule: str | ImageRule  # the default by its name
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
    preserved: list[PreservedEvidence] = []  # of the phases up to this checkpoint, those trained to preserve evidence

    @property
    def title(self) -> str:
        """What people call the checkpoint."""
        return f"{self.architecture}, {self.phase}"

    @property
    def rule(self) -> ImageRule:
        """How a file becomes the graph's input."""
        return restored(self.image_rule)

    @property
    def pixels(self) -> str:
        """What decides the pixels, in words: the image rule without its name; of an unknown rule, what it is called."""
        try:
            return str(self.rule).removeprefix(f"{self.rule.label}: ")
        except ValueError:
            return str(self.image_rule)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """(N, K) float64 probabilities of the classes; a binary graph has one logit, the log-odds of class 1.

        In float32 every logit above 17 would have the probability 1, and the order of sure answers would be lost.
        """
        from scipy.special import expit, softmax

        logits = np.asarray(logits, np.float64)
        if self.score_kind == "softmax":
            return softmax(logits, axis=1)
        return expit(np.concatenate([-logits, logits], axis=1) if self.score_kind == "binary" else logits)

    def explained_scores(self, logits: np.ndarray, target: np.ndarray) -> np.ndarray:
        """(N,) float64: the score Y of class `target` (N,) whose gradients the graph returns.

        The logit of the class, of a binary graph the one logit for class 1 and its negative for class 0; or the
        probability, where that is explained.
        """
        if self.explained == "probability":
            scores = self.probabilities(logits)
        else:
            scores = np.asarray(logits, np.float64)
            scores = np.concatenate([-scores, scores], axis=1) if self.score_kind == "binary" else scores
        return scores[np.arange(len(scores)), target]

    def decisions(self, logits: np.ndarray) -> np.ndarray:
        """(N, K) bool, the classes that the model says yes to: one per image, or (multi-label) any number."""
        return decisions(self.probabilities(logits), self.score_kind, self.thresholds)


@dataclass(frozen=True)
class Graph:
    """An exported file: what it says about itself, and sha256 of its bytes."""

    path: Location
    metadata: GraphMetadata
    digest: str

    @classmethod
    def read(cls, path: Location) -> Graph:
        """Read the metadata of a graph that `python -m export` wrote, without preparing it to run.

        :raises InputError: no such file, no ONNX, not one of ours, or of a format or image rule unknown here.
        """
        content = read_graph_file(path)
        return cls(path, metadata_of(path, _properties(path, content)), bytes_digest(content))

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

    def map_of(self, layer: str, method: str) -> str:
        """The output that carries the map of a CAM method, made inside the graph; InputError where there is none."""
        fused = self.layer(layer).maps
        if method not in fused:
            raise InputError(
                f"{self.path}: makes no {method} map of layer {layer!r} itself (it makes: "
                f"{', '.join(fused) or 'none'}); export it with --fuse, or evaluate without --maps graph"
            )
        return fused[method]


class Identified(Protocol):
    """A checkpoint with sha256 of its file, and what it says about itself: a `Graph`, or an entry of a result."""

    @property
    def digest(self) -> str: ...
    @property
    def metadata(self) -> GraphMetadata: ...


def identity(checkpoint: Identified) -> str:
    """Digest of the weights, which two exports of one checkpoint share; of the file, where the weights have none."""
    return checkpoint.metadata.weights_digest or checkpoint.digest


def sameness(before: Identified, after: Identified) -> str | None:
    """In what two checkpoints are the same model, in words; None where they differ in file and in weights."""
    if before.digest == after.digest:
        return f"one file (sha256 {before.digest[:12]})"
    weights = before.metadata.weights_digest
    if weights and weights == after.metadata.weights_digest:
        return f"the same weights in two files (digest of the weights {weights[:12]})"
    return None


def require_comparable(before: Graph, after: Graph, across_networks: bool = False) -> None:
    """Raise InputError, naming the difference, where two graphs cannot be compared image by image.

    across_networks: two architectures of one study may differ in the size of their input
    """
    _require_one_view(before, after, across_networks)
    for name, what in (
        ("classes", "classes"),
        ("score_kind", "score kinds"),
        ("explained", "explained scores"),
        ("thresholds", "thresholds"),
        ("input_size", "input sizes"),
    ):
        a, b = getattr(before.metadata, name), getattr(after.metadata, name)
        if a != b and not (across_networks and name == "input_size"):
            raise InputError(
                f"{before.path} and {after.path} have different {what}: {_brief(a)} and {_brief(b)}; "
                "export both from runs of one configuration"
            )


def _require_one_view(before: Graph, after: Graph, across_networks: bool) -> None:
    """Refuse two graphs that see their pictures differently; across networks, warn where only the pixels differ."""
    ours, theirs = before.metadata, after.metadata
    apart = ours.rule.differences(theirs.rule)
    if across_networks:
        same_place = ours.rule.shows_what(theirs.rule, ours.input_size, theirs.input_size)
        apart = {name: both for name, both in apart.items() if name not in ("size", "shorter") or not same_place}
    if not apart:
        return
    details = ", ".join(f"{name} {one} and {other}" for name, (one, other) in apart.items())
    what = f"{before.path} and {after.path} have different image rules: {ours.rule.label} and {theirs.rule.label}"
    if not across_networks or not same_place:
        raise InputError(f"{what} ({details}); export both from runs of one configuration")
    warn(f"{what} ({details}); their maps cover the same part of a picture, but were made from other pixels")


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


def require_applicable(layers: Iterable[LayerOutputs], methods: Sequence[str]) -> None:
    """Refuse a method at a layer where there is no such map.

    :raises InputError: naming both.
    """
    for layer in layers:
        for method in methods:
            if not cam_method(method).applies_to(layer.is_picture):
                there = "CAM layers" if layer.is_picture else f"the picture itself (--layer {PICTURE})"
                raise InputError(
                    f"{method} is a method for {there}, not for {layer.label!r}; leave one of them out, and evaluate "
                    "the other by itself"
                )


def read_graph_file(path: Location) -> bytes:
    """The bytes of an exported graph; InputError where they cannot be read."""
    try:
        require_plain_file(as_location(path))
        return as_location(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give an exported .onnx file") from None


def _properties(path: Location, content: bytes) -> dict[str, str]:
    """`metadata_props` of an ONNX file."""
    import onnx

    try:
        model = onnx.ModelProto.FromString(content)
    except Exception as error:  # protobuf's own, whose class is not part of onnx
        raise InputError(f"{path}: not an ONNX file ({first_line(error)})") from error
    found = {item.key: item.value for item in model.metadata_props}
    if not all(
        isinstance(text, str) for item in found.items() for text in item
    ):  # protobuf gives bytes where it is no UTF-8
        raise InputError(f"{path}: its metadata are no text in UTF-8; export it again")
    return found


def metadata_of(path: Location, properties: Mapping[str, str]) -> GraphMetadata:
    """The metadata among a graph's properties; InputError where it is none of ours, or of another format or rule."""
    ours = {key.removeprefix(PREFIX): value for key, value in properties.items() if key.startswith(PREFIX)}
    if "format" not in ours:
        raise InputError(f"{path}: not a graph of this project (no metadata); make one with `python -m export`")
    if ours["format"] != str(FORMAT):
        raise InputError(f"{path}: format {ours['format']} is not known here (known: {FORMAT}); export it again")
    try:
        fields = {key: json.loads(value) for key, value in ours.items()}
        _require_known_rule(path, fields.get("image_rule"))
        metadata = GraphMetadata.model_validate(fields)
    except (ValidationError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: its metadata is damaged ({first_line(error)}); export it again") from error
    return metadata


def _require_known_rule(path: Location, found: Any) -> None:
    try:
        restored(found)
    except ValidationError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: exported under {error}; export it again") from None


def _brief(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."

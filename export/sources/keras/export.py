"""Keras checkpoint to exported graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from export.metadata import Metadata
from export.proof import parity
from export.proof.proof_images import PATTERNS, views_of
from export.sources.keras.run_record import CheckpointRecord
from export.write import Request, write_export
from harness.common.errors import CannotEvaluateError, InputError, first_line, warn
from harness.common.provenance import weights_digest
from harness.images.rule import GREY, ImageRule, restored, stored
from harness.images.view import channels_first, channels_last

if TYPE_CHECKING:
    from export.sources.keras.head import Scores
    from export.sources.keras.network import Network, Pixels, Tensor

ROLES = ("penultimate", "last")


def export_checkpoint(
    record: CheckpointRecord,
    request: Request,
    input_size: tuple[int, int] | None = None,
    output: str | None = None,
    pixels: Pixels | None = None,
) -> list[parity.Difference]:
    """Write one checkpoint as a self-describing graph and return how far it is from Keras.

    Layers are `penultimate` and `last` (as the run records them), `auto`, or names of Keras layers, with the path to
    them inside nested models (`base/conv5_block16_concat`). Parity is proved on the images of the request; without any,
    on the run's test images, else on seeded patterns.

    :param input_size: (H, W) of a model that leaves them free.
    :param output: the output with the class scores, of a model with several.
    :param pixels: what was done to grey levels before they reached the model in training, if not inside of it.
    :raises InputError: the checkpoint, a layer or an image cannot be used.
    :raises CannotEvaluateError: the graph differs from Keras; nothing is written.
    """
    keras = _frontend()
    model = keras.load_checkpoint(record.path)
    digest = weights_digest((weight.path, weight.numpy()) for weight in model.weights)
    _check_digest(record, digest)
    _refuse_second_scaling(record, pixels)
    network = keras.open_network(record.path, keras.in_float32(record.path, model), input_size, output, pixels)
    _warn_of_pixels(record, network)
    layers = {name: network.find_layer(name) for name in _names(request, record, network)}
    rule = _rule(record, request, network.size)
    views = views_of(list(request.images) or record.test_images(PATTERNS), rule, network.size)
    scores = keras.settled(network, channels_last(views), request.probability)
    scores = replace(scores, kind=_score_kind(record, scores))
    metadata = _metadata(record, request, scores, digest, rule)
    forward = keras.forward_graph(scores, layers)
    return write_export(
        forward,
        metadata,
        request,
        lambda content: _compare(content, scores, layers, request, views),
        _roles(record, network, layers),
    )


def _frontend() -> Any:
    try:
        from export.sources.keras import frontend
    except ImportError as error:
        raise InputError(
            f"exporting a Keras checkpoint needs {error.name}; install it with: pip install 'evidence-drift[train]'"
        ) from error
    return frontend


def _check_digest(record: CheckpointRecord, digest: str) -> None:
    if record.phase.get("weights_digest", digest) != digest:
        raise InputError(
            f"{record.path}: its weights are not those that run.json records for checkpoint {record.name!r}; "
            "restore the checkpoint, or move it out of the run directory to export it on its own"
        )


def _refuse_second_scaling(record: CheckpointRecord, pixels: Pixels | None) -> None:
    if pixels is not None and record.facts:
        raise InputError(f"{record.path}: scales pixels itself, as run.json says; leave --scale, --mean and --std out")


def _warn_of_pixels(record: CheckpointRecord, network: Network) -> None:
    """Of what cannot be told from the file: in which range of numbers images were given to the model in training."""
    if record.facts or network.scales_pixels == (network.pixels is None):
        return
    if network.pixels is None:
        warn(
            f"{record.path}: has no Rescaling or Normalization before its first layer with weights, so it is given "
            "grey levels 0..255; if it was trained on other values, name them with --scale, --mean and --std"
        )
    else:
        warn(
            f"{record.path}: scales pixels itself, and --scale, --mean and --std are applied before that; leave them "
            "out unless both was done in training"
        )


def _score_kind(record: CheckpointRecord, scores: Scores) -> str:
    """What the run says, else what the head says; several logits trained each on its own are multi-label."""
    if record.facts.get("score"):
        return record.facts["score"]
    alone = scores.kind == "softmax" and scores.bare and _frontend().trained_on_each_class_alone(record.path)
    return "multilabel" if alone else scores.kind


def _names(request: Request, record: CheckpointRecord, network: Network) -> list[str]:
    """The layers asked for, roles and `auto` replaced by the names of what they stand for."""
    return [_name(layer, record, network) for layer in request.layers]


def _name(layer: str, record: CheckpointRecord, network: Network) -> str:
    if layer == "auto" and network.last_layer is None:
        raise InputError(
            f"{record.path}: no layer on the way to the score has a spatial map of the image's proportions; "
            "class activation maps need one, see --layer NAME"
        )
    if layer == "auto":
        return str(network.last_layer)
    if layer not in ROLES or layer in network.layers:
        return layer
    if layer in record.facts.get("cam_layers", {}):
        return record.cam_layers[layer]
    if record.facts:
        raise InputError(f"{record.path}: run.json does not say which layer is {layer!r}; use --layer auto or its name")
    if record.beside:
        raise InputError(
            f"{record.path}: run.json beside it does not list it, so {layer!r} is unknown; use --layer auto or its name"
        )
    raise InputError(
        f"{record.path}: no run.json beside it says which layer is {layer!r}; use --layer auto or its name"
    )


def _roles(record: CheckpointRecord, network: Network, layers: Mapping[str, Tensor]) -> dict[str, str]:
    """CAM layer -> role, by the tensor: the same layer has the same role however it was asked for.

    The roles that run.json gives hold for every checkpoint of its architecture, whether or not it lists that one; where
    there is none, the last map is `last`.
    """
    known = {name: role for role, name in record.cam_layers.items() if name in network.layers}
    if "last" not in known.values() and network.last_layer is not None:
        known[network.last_layer] = "last"
    tensors = {network.layers[name]: role for name, role in known.items()}
    found: dict[str, str] = {}
    for name, tensor in layers.items():
        if tensor in tensors and tensors[tensor] not in found.values():
            found[name] = tensors[tensor]
    return found


def _metadata(record: CheckpointRecord, request: Request, scores: Scores, digest: str, rule: ImageRule) -> Metadata:
    facts, outputs = record.facts, scores.columns
    names = list(request.classes) or record.classes or [f"class {i}" for i in range(max(outputs, 2))]
    if len(names) != (2 if scores.kind == "binary" else outputs):
        raise InputError(f"{record.path}: the model has {outputs} outputs, but {len(names)} class names")
    return Metadata(
        architecture=facts.get("architecture", scores.network.model.name),
        phase=record.name,
        classes=[str(name) for name in names],
        preprocessing=facts.get("preprocessing") or _preprocessing(scores.network.pixels),
        image_rule=stored(rule),
        input_size=list(scores.network.size),
        score_kind=scores.kind,
        weights_digest=digest,
        data_digest=record.data_digest,
        seed=record.phase.get("seed"),
        git_commit=facts.get("git_commit"),
        preserved=[
            {key: value for key, value in item.items() if key != "step_seconds"}
            for item in record.phase.get("preserved", [])
        ],
    )


def _rule(record: CheckpointRecord, request: Request, size: tuple[int, int]) -> ImageRule:
    """The rule of the run, else the one that was asked for, else the default."""
    recorded = record.facts.get("image_rule")
    if recorded is not None and request.rule is not None:
        raise InputError(f"{record.path}: run.json says by which image rule it was trained; leave --image-rule out")
    try:
        return (restored(recorded) if recorded is not None else request.rule or GREY).for_size(size)
    except ValueError as error:
        if recorded is None:
            raise InputError(f"{record.path}: {first_line(error)}; name another with --image-rule") from None
        raise InputError(f"{record.path}: trained under {first_line(error)}; train again") from None


def _preprocessing(pixels: Pixels | None) -> str:
    inside = "inside the graph, as the checkpoint holds it"
    return inside if pixels is None else f"{pixels.arithmetic}, then {inside}"


def _compare(
    content: bytes, scores: Scores, layers: Mapping[str, Tensor], request: Request, views: np.ndarray
) -> list[parity.Difference]:
    target = np.arange(len(views), dtype=np.int64) % max(scores.columns, 2)
    expected = _frontend().explain(scores, layers, channels_last(views), target, request.probability)
    if len(layers) == 1:
        expected = {name.split(":")[0]: array for name, array in expected.items()}
    try:
        return parity.compare(content, {"image": channels_first(views), "target": target}, expected)
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        raise CannotEvaluateError(
            f"{scores.network.source}: ONNX Runtime cannot run the exported graph ({first_line(error)}); "
            "nothing was written"
        ) from error

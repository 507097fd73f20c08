"""Keras checkpoint to exported graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from export.graph.forward import Forward
from export.metadata import Metadata
from export.proof import parity
from export.proof.images import PATTERNS, greys_of
from export.sources.keras.run_record import CheckpointRecord
from export.write import Request, write_export
from harness.common.errors import InputError
from harness.common.provenance import weights_digest
from harness.images.loading import RULE, channels_first, channels_last


def export_checkpoint(record: CheckpointRecord, request: Request) -> list[parity.Difference]:
    """Write one checkpoint as a self-describing graph and return how far it is from Keras.

    Layers are `penultimate` and `last` (as the run records them), `auto` or names of Keras layers. Parity is proved
    on the images of the request; without any, on the run's test images, else on seeded patterns.

    :raises InputError: the checkpoint, a layer or an image cannot be used.
    :raises CannotEvaluateError: the graph differs from Keras; nothing is written.
    """
    frontend = _frontend()
    model, score_kind = frontend.without_final_activation(frontend.load_checkpoint(record.path))
    digest = weights_digest((weight.path, weight.numpy()) for weight in model.weights)
    _check_digest(record, digest)
    layers = [_resolve(layer, record, model) for layer in request.layers]
    forward = frontend.forward_graph(model, layers)
    metadata = _metadata(record, request, model, score_kind, digest)
    greys = _greys(record, request, frontend.input_size(model))
    roles = {name: role for role, name in record.cam_layers.items()}
    if "last" not in roles.values():
        roles |= {name: "last" for asked, name in zip(request.layers, layers, strict=True) if asked == "auto"}
    return write_export(
        forward, metadata, request, lambda content: _compare(content, model, forward, request, greys), roles
    )


def _frontend() -> Any:
    try:
        from export.sources.keras import model
    except ImportError as error:
        raise InputError(
            f"exporting a Keras checkpoint needs {error.name}; install it with: pip install 'evidence-drift[train]'"
        ) from error
    return model


def _check_digest(record: CheckpointRecord, digest: str) -> None:
    if record.phase.get("weights_digest", digest) != digest:
        raise InputError(
            f"{record.path}: its weights are not those that run.json records for checkpoint {record.name!r}; "
            "restore the checkpoint, or move it out of the run directory to export it on its own"
        )


def _resolve(layer: str, record: CheckpointRecord, model: Any) -> str:
    if layer in ("penultimate", "last") and layer not in {item.name for item in model.layers}:
        if layer not in record.cam_layers:
            raise InputError(
                f"{record.path}: no run.json beside it says which layer is {layer!r}; use --layer auto or its name"
            )
        return record.cam_layers[layer]
    return _frontend().last_spatial_layer(model) if layer == "auto" else layer


def _metadata(record: CheckpointRecord, request: Request, model: Any, score_kind: str, digest: str) -> Metadata:
    facts, outputs = record.facts, model.output_shape[1]
    names = list(request.classes) or record.classes or [f"class {i}" for i in range(max(outputs, 2))]
    if len(names) != (2 if score_kind == "binary" else outputs):
        raise InputError(f"{record.path}: the model has {outputs} outputs, but {len(names)} class names")
    if facts.get("image_rule", RULE) != RULE:
        raise InputError(
            f"{record.path}: trained under image rule {facts['image_rule']!r}, this is {RULE!r}; train again"
        )
    return Metadata(
        architecture=facts.get("architecture", model.name),
        phase=record.name,
        classes=[str(name) for name in names],
        preprocessing=facts.get("preprocessing", "inside the graph, as the checkpoint holds it"),
        image_rule=RULE,
        input_size=list(_frontend().input_size(model)),
        score_kind=facts.get("score", score_kind),
        weights_digest=digest,
        data_digest=record.data_digest,
        seed=record.phase.get("seed"),
        git_commit=facts.get("git_commit"),
    )


def _greys(record: CheckpointRecord, request: Request, size: tuple[int, int]) -> np.ndarray:
    """(N, H, W) grey levels to prove parity on."""
    paths = list(request.images) or record.test_images(PATTERNS)
    return greys_of(paths, size)


def _compare(
    content: bytes, model: Any, forward: Forward, request: Request, greys: np.ndarray
) -> list[parity.Difference]:
    layers = list(forward.layer_names)
    target = np.arange(len(greys), dtype=np.int64) % max(model.output_shape[1], 2)
    expected = _frontend().explain(model, layers, channels_last(greys), target, request.probability)
    if len(layers) == 1:
        expected = {name.split(":")[0]: array for name, array in expected.items()}
    return parity.compare(content, {"image": channels_first(greys), "target": target}, expected)

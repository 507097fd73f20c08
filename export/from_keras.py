"""Keras checkpoint to exported graph: convert, differentiate, stamp, prove, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from export import assemble, parity
from export.metadata import Metadata, stamp
from export.record import CheckpointRecord
from harness.digests import weights_digest
from harness.errors import InputError
from harness.images import RULE, channels_first, channels_last, load_grey

PARITY_IMAGES = 4


def export_checkpoint(
    record: CheckpointRecord, layers: Sequence[str], out: Path, images: Sequence[Path], classes: Sequence[str]
) -> list[parity.Difference]:
    """Write one checkpoint as a self-describing graph and return how far it is from Keras.

    :param layers: `penultimate`, `last` (as the run records them), `auto` or names of Keras layers.
    :param images: files to prove parity on; without any, the run's test images, else seeded patterns.
    :raises InputError: the checkpoint, a layer or an image cannot be used.
    :raises CannotEvaluateError: the graph differs from Keras; nothing is written.
    """
    keras_source = _keras_source()
    model, score_kind = keras_source.without_final_activation(keras_source.load_checkpoint(record.path))
    _check_digest(record, digest := weights_digest((weight.path, weight.numpy()) for weight in model.weights))
    names = [_resolve(layer, record, model) for layer in layers]
    forward = keras_source.forward_graph(model, names)
    metadata = _metadata(record, model, names, score_kind, digest, classes, forward)
    assemble.clean(forward)
    exported = assemble.add_backward(forward, metadata.score_kind)
    stamp(exported, metadata)
    content = ir.to_proto(exported).SerializeToString()
    differences = _prove(content, model, names, _greys(record, images, tuple(metadata.input_size)))
    _write(out, content)
    return differences


def _keras_source() -> Any:
    try:
        from export import keras_source
    except ImportError as error:
        raise InputError(
            f"exporting a Keras checkpoint needs {error.name}; install it with: pip install 'evidence-drift[train]'"
        ) from error
    return keras_source


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
    return _keras_source().last_spatial_layer(model) if layer == "auto" else layer


def _metadata(
    record: CheckpointRecord,
    model: Any,
    layers: Sequence[str],
    score_kind: str,
    digest: str,
    classes: Sequence[str],
    forward: assemble.Forward,
) -> Metadata:
    facts = record.facts
    names = list(classes) or record.classes or [f"class {i}" for i in range(model.output_shape[1])]
    outputs = assemble.output_names(forward.layer_names)
    if len(names) != max(model.output_shape[1], 2 if score_kind == "binary" else 1):
        raise InputError(f"{record.path}: the model has {model.output_shape[1]} outputs, but {len(names)} class names")
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
        input_size=list(_keras_source().input_size(model)),
        input_range=[0.0, 255.0],
        score_kind=facts.get("score", score_kind),
        layers=[{"name": name, "activations": outputs[name][0], "gradients": outputs[name][1]} for name in layers],
        weights_digest=digest,
        data_digest=record.data_digest,
        seed=record.phase.get("seed"),
        git_commit=facts.get("git_commit"),
    )


def _greys(record: CheckpointRecord, images: Sequence[Path], size: tuple[int, ...]) -> np.ndarray:
    """(N, H, W) grey levels to prove parity on."""
    paths = list(images) or record.test_images(PARITY_IMAGES)
    if paths:
        return np.stack([load_grey(path, (size[0], size[1])) for path in paths])
    return _patterns(size)


def _patterns(size: tuple[int, ...]) -> np.ndarray:
    """Seeded patches of grey with noise, for a checkpoint that comes without images."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (PARITY_IMAGES, -(-size[0] // 16), -(-size[1] // 16)))
    patches = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, : size[0], : size[1]]
    return np.clip(patches + rng.normal(0, 20, patches.shape), 0, 255).astype(np.float32)


def _prove(content: bytes, model: Any, layers: Sequence[str], greys: np.ndarray) -> list[parity.Difference]:
    classes = max(model.output_shape[1], 2)
    target = np.arange(len(greys), dtype=np.int64) % classes
    expected = _keras_source().explain(model, layers, channels_last(greys), target)
    if len(layers) == 1:
        expected = {name.split(":")[0]: array for name, array in expected.items()}
    differences = parity.compare(content, {"image": channels_first(greys), "target": target}, expected)
    parity.require(differences)
    return differences


def _write(out: Path, content: bytes) -> None:
    """Whole or not at all: a reader never sees half a graph."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    partial.write_bytes(content)
    partial.replace(out)


def summary(differences: Sequence[parity.Difference]) -> list[dict[str, Any]]:
    """The worst optimisation level of each output, as plain records."""
    worst: dict[str, parity.Difference] = {}
    for item in differences:
        if item.output not in worst or item.relative_l2 > worst[item.output].relative_l2:
            worst[item.output] = item
    return [asdict(item) for item in worst.values()]

"""Exported graph to compressed exported graph: the same classes and CAM layers, explained through the compression.

1. The forward part is cut out: image to logits and CAM tensors.
2. ONNX Runtime folds constants and normalisation into the convolutions. Its result is checked against the forward part,
   because one of its fusions is not always right (zero padding before a max-pooling).
3. The weights and the arithmetic are compressed (`export.compress.methods`); the model's own preprocessing, which comes
   before any convolution or matrix product, stays float32.

   int8     static quantisation in QDQ form: uint8 activations, int8 weights with a scale per channel, ranges (minimum
            and maximum) from calibration images. Rectifiers stay nodes of the graph, so that they keep their gradient;
            logits are not rounded.
   float16  weights, arithmetic and gradients in half precision, float32 inputs, outputs and CAM tensors. Gradients
            below 6e-5 lose digits, those below 6e-8 are zero.
4. It is differentiated again, QuantizeLinear and DequantizeLinear straight through (rules in `quantization`).
5. Proof. Logits and activations are those of the compressed forward graph. Gradients are held to the values of its
   nodes (`export.proof.slopes`), where a pair adds a constant, its rounding error, and half precision computes in full.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from export import passes
from export.compress.methods import COMPRESSIONS, Calibration, Facts, outputs_of
from export.compress.prepare import forward_part, prepared_forward, read_export
from export.graph.forward import Forward, check_forward
from export.metadata import PREFIX, Metadata
from export.proof.parity import Difference
from export.proof.proof_images import PATTERNS, views_of
from export.proof.rounded import RoundedProof
from export.proof.scores import explained_score
from export.write import Request, refuse_to_overwrite, write_export
from harness.common.errors import CannotEvaluateError, InputError
from harness.common.provenance import weights_digest
from harness.images.rule import restored
from harness.images.view import channels_first


def compress(
    path: Path, target: str, out: Path, images: Sequence[Path] = (), reduce_range: bool | None = None
) -> list[Difference]:
    """Write the compressed form of an exported graph; returns how far it is from its own definition (see above).

    :param target: `int8` or `float16`.
    :param images: for calibration (int8 needs some) and for the proof (the first four).
    :param reduce_range: int8 weights of 7 bits; None follows ONNX Runtime's advice for this CPU.
    :raises InputError: no exported graph, one that is compressed already, no images.
    :raises CannotEvaluateError: the graph differs from its definition; nothing is written.
    """
    if target not in COMPRESSIONS:
        raise InputError(f"cannot compress to {target!r}; choose one of {', '.join(COMPRESSIONS)}")
    refuse_to_overwrite(path, out)
    source, metadata = read_export(path)
    if target == "int8" and not images:
        raise InputError(f"{path}: quantising needs images to calibrate on; give --data MANIFEST_OR_FOLDER")
    height, width = metadata.input_size
    views = views_of(images, restored(metadata.image_rule), (height, width))
    with TemporaryDirectory() as folder:
        prepared = prepared_forward(path, forward_part(source, metadata), Path(folder))
        calibration = Calibration(channels_first(views), Path(folder), reduce_range)
        made, facts = COMPRESSIONS[target](prepared, calibration)
    few = channels_first(views[:PATTERNS])
    return write_changed(made, metadata, {"to": target, **facts}, out, few)


def write_changed(
    made: onnx.ModelProto, metadata: Metadata, facts: Facts, out: Path, images: np.ndarray
) -> list[Difference]:
    """Differentiate a changed forward part of an exported graph, prove it on images (N, 3, H, W), and write it.

    :param facts: what was done to it, by which it is marked; `to` is appended to its phase.
    :raises CannotEvaluateError: its numbers are not finite, or the proof fails; nothing is written.
    """
    expected = outputs_of(made, images)
    if not all(np.isfinite(array).all() for array in expected.values()):
        raise CannotEvaluateError(f"the model's numbers are too large for {facts['to']}; nothing was written")
    weights = ((tensor.name, numpy_helper.to_array(tensor)) for tensor in made.graph.initializer)
    stamped = replace(metadata, phase=f"{metadata.phase}.{facts['to']}", weights_digest=weights_digest(weights))
    roles = {layer["name"]: layer["role"] for layer in metadata.layers if layer.get("role")}

    def score(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
        return explained_score(logits, target, metadata.score_kind, metadata.explained == "probability")

    def prove(content: bytes) -> list[Difference]:
        tensors = {layer["activations"]: layer["gradients"] for layer in stamped.layers}
        return RoundedProof(content, expected, tensors, images, score).differences()

    return write_export(_forward(made, metadata, facts), stamped, _request(metadata, out), prove, roles)


def _forward(made: onnx.ModelProto, metadata: Metadata, facts: Facts) -> Forward:
    model = ir.from_proto(made)
    passes.tidy(model)
    passes.infer_shapes(model)
    model.metadata_props.clear()
    model.metadata_props[f"{PREFIX}compression"] = json.dumps(facts)
    forward = Forward(model, "logits", {layer["name"]: layer["activations"] for layer in metadata.layers})
    check_forward(forward)
    return forward


def _request(metadata: Metadata, out: Path) -> Request:
    """What the source was exported with."""
    return Request(
        layers=[layer["name"] for layer in metadata.layers],
        out=out,
        methods=list(metadata.layers[0].get("maps", {})),
        probability=metadata.explained == "probability",
        thresholds=metadata.thresholds or (),
    )

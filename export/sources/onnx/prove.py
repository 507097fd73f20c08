"""An exported graph against the ONNX file it came from: forward pass by the file, gradients by slopes."""

from __future__ import annotations

import numpy as np
import onnx

from export.graph.outputs import output_names
from export.proof.parity import Difference, compare
from export.proof.rounded import RoundedProof, rounds
from export.proof.scores import explained_score
from export.proof.sessions import open_session, run
from export.proof.slopes import Tail, check_gradients
from export.sources.onnx.prepare import Prepared
from harness.common.errors import InputError


def prove(
    content: bytes,
    expected: np.ndarray,
    prepared: Prepared,
    probability: bool,
    images: np.ndarray,
) -> list[Difference]:
    """Logits against the file's, gradients against the derivatives of the exported forward part at each layer."""
    target = expected.argmax(axis=1).astype(np.int64)
    feeds = {"image": images, "target": target}
    outputs = output_names(prepared.forward.layer_names).values()
    wanted = [name for names in outputs for name in (names.activations, names.gradients)]
    exact = run(open_session(content, "disabled"), feeds, wanted)
    for layer, names in zip(prepared.forward.layer_names, outputs, strict=True):
        _require_maps(layer, exact[names.activations], exact[names.gradients], len(images))

    def score(logits: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        return explained_score(logits, chosen, prepared.head.score_kind, probability)

    model = onnx.load_from_string(content)
    if rounds(model):
        forward = {"logits": expected, **{names.activations: exact[names.activations] for names in outputs}}
        layers = {names.activations: names.gradients for names in outputs}
        return RoundedProof(content, forward, layers, images, score).differences()
    levels = compare(content, feeds, {"logits": expected, **{n.gradients: exact[n.gradients] for n in outputs}})
    tails = [(Tail.of(model, names.activations, names.gradients), exact[names.activations]) for names in outputs]
    return levels + [item for tail, a in tails for item in check_gradients(tail, a, images, target, score)]


def _require_maps(layer: str, activations: np.ndarray, gradients: np.ndarray, images: int) -> None:
    if len(activations) != images:
        raise InputError(f"tensor {layer!r} has {len(activations)} rows for {images} images; choose another layer")
    if not gradients.any():
        raise InputError(
            f"the score does not depend on the map at {layer!r} (as behind a transformer's last attention, where only "
            "the class token is read, or behind dead units); choose an earlier layer"
        )

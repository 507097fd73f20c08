"""An exported graph against the ONNX file it came from: forward pass by the file, gradients by slopes."""

from __future__ import annotations

import numpy as np
import onnx

from export.graph.outputs import output_names
from export.proof import parity
from export.proof.scores import explained_score
from export.proof.sessions import open_session, run
from export.proof.slopes import compare_slopes
from export.proof.subgraphs import part
from export.sources.onnx.prepare import Prepared
from harness.common.errors import InputError


def prove(
    content: bytes,
    expected: np.ndarray,
    prepared: Prepared,
    probability: bool,
    images: np.ndarray,
) -> list[parity.Difference]:
    feeds = {"image": images, "target": expected.argmax(axis=1).astype(np.int64)}
    outputs = output_names(prepared.forward.layer_names).values()
    wanted = [name for names in outputs for name in (names.activations, names.gradients)]
    exact = run(open_session(content, "disabled"), feeds, wanted)
    gradients = {names.gradients: exact[names.gradients] for names in outputs}
    for layer, names in zip(prepared.forward.layer_names, outputs, strict=True):
        _require_maps(layer, exact[names.activations], gradients[names.gradients], len(images))
    model = onnx.load_from_string(content)

    def score(logits: np.ndarray) -> np.ndarray:
        return explained_score(logits.astype(np.float64), feeds["target"], prepared.head.score_kind, probability)

    return parity.compare(content, feeds, {"logits": expected, **gradients}) + [
        compare_slopes(
            part(model, [names.activations], "logits", images),
            names.activations,
            exact[names.activations],
            gradients[names.gradients],
            score,
        )
        for names in outputs
    ]


def _require_maps(layer: str, activations: np.ndarray, gradients: np.ndarray, images: int) -> None:
    if len(activations) != images:
        raise InputError(f"tensor {layer!r} has {len(activations)} rows for {images} images; choose another layer")
    if not gradients.any():
        raise InputError(
            f"the score does not depend on the map at {layer!r} (as behind a transformer's last attention, where only "
            "the class token is read, or behind dead units); choose an earlier layer"
        )

"""Any ONNX classifier to exported graph, proved against the file it came from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir

from export.autodiff.emit import dimensions
from export.graph.arrangements import Grid
from export.graph.head import Head
from export.metadata import Metadata
from export.proof.parity import Difference
from export.proof.proof_images import views_of
from export.sources.onnx.batch import with_free_batch
from export.sources.onnx.logits import Belief, Source, settled
from export.sources.onnx.prepare import prepare, with_layers
from export.sources.onnx.preprocessing import Preprocessing
from export.sources.onnx.prove import prove
from export.sources.onnx.read import Choices, load
from export.write import Request, refuse_to_overwrite, write_export
from harness.common.errors import InputError, first_line
from harness.common.provenance import weights_digest
from harness.images.rule import GREY, ImageRule, stored
from harness.images.view import channels_first


def export_onnx(
    path: Path,
    request: Request,
    preprocessing: Preprocessing,
    grid: Grid | None = None,
    choices: Choices | None = None,
) -> list[Difference]:
    """Write any single-input ONNX classifier as a self-describing graph; returns how far it is from its source.

    The forward pass is proved against the source file, the gradients against central differences of the part of the
    graph behind each CAM layer, both in ONNX Runtime.

    :param grid: (h, w) of the map that a layer's tokens are, found from the shapes where it is None.
    :param choices: what the file leaves open: its output, the size of a free input.
    :raises InputError: the file, a layer or an image cannot be used.
    :raises CannotEvaluateError: the graph differs from its source; nothing is written.
    """
    refuse_to_overwrite(path, request.out)
    model = load(path, choices)
    preprocessing = preprocessing.for_input(dimensions(model.graph.inputs[0]))
    source = Source(ir.to_proto(model), preprocessing)
    digest = weights_digest(_weights(model))
    model = with_free_batch(path, model)
    head = prepare(path, model, preprocessing)
    _, _, height, width = dimensions(model.graph.inputs[0])
    size = (height or 0, width or 0)
    rule = _rule(path, request.rule or GREY, size)
    images = channels_first(views_of(request.images, rule, size))
    belief = Belief(request.probability, choices is not None and choices.logits)
    head, expected = settled(path, model.graph, head, source, images, belief)
    metadata = _metadata(path, request, head, digest, preprocessing, rule, size)
    prepared = with_layers(model, head, request.layers, grid)

    def proof(content: bytes) -> list[Difference]:
        return prove(content, expected, prepared, request.probability, images)

    return write_export(prepared.forward, metadata, request, proof, prepared.roles)


def _rule(path: Path, rule: ImageRule, size: tuple[int, int]) -> ImageRule:
    try:
        return rule.for_size(size)
    except ValueError as error:
        raise InputError(f"{path}: {first_line(error)}; name another rule with --image-rule") from None


def _weights(model: ir.Model) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            yield str(name), value.const_value.numpy()


def _metadata(
    path: Path,
    request: Request,
    head: Head,
    digest: str,
    preprocessing: Preprocessing,
    rule: ImageRule,
    size: tuple[int, int],
) -> Metadata:
    outputs = dimensions(head.logits)[1] or 0
    wanted = 2 if head.score_kind == "binary" else outputs
    names = list(request.classes) or [f"class {i}" for i in range(wanted)]
    if len(names) != wanted:
        raise InputError(f"{path}: the model tells {wanted} classes apart, but --classes names {len(names)}")
    return Metadata(
        architecture=path.stem,
        phase="exported",
        classes=names,
        preprocessing=str(preprocessing),
        image_rule=stored(rule),
        input_size=list(size),
        score_kind=head.score_kind,
        weights_digest=digest,
    )

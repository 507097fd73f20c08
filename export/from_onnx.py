"""Any ONNX classifier to exported graph, proved against the file it came from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from export import layers, onnx_source, parity
from export.assemble import SQUEEZED, Forward, output_names
from export.emit import dimensions
from export.finish import Request, finish, greys_of
from export.grids import Arrangement, Grid
from export.metadata import Metadata
from export.onnx_source import Preprocessing
from harness.common.errors import InputError
from harness.common.provenance import weights_digest
from harness.images.loading import RULE, channels_first


def export_onnx(
    path: Path, request: Request, preprocessing: Preprocessing, grid: Grid | None = None
) -> list[parity.Difference]:
    """Write any single-input ONNX classifier as a self-describing graph; returns how far it is from its source.

    The forward pass is proved against the source file, the gradients against central differences of the part of the
    graph behind each CAM layer, both in ONNX Runtime.

    :param grid: (h, w) of the map that a layer's tokens are, found from the shapes where it is None.
    :raises InputError: the file, a layer or an image cannot be used.
    :raises CannotEvaluateError: the graph differs from its source; nothing is written.
    """
    model = onnx_source.load(path)
    source = ir.to_proto(model)
    digest = weights_digest(_weights(model))
    forward, score_kind, roles = onnx_source.forward_graph(path, model, request.layers, preprocessing, grid)
    _, _, height, width = dimensions(model.graph.inputs[0])
    greys = greys_of(request.images, (height or 0, width or 0))
    metadata = _metadata(path, request, forward, score_kind, digest, preprocessing, greys)
    images = channels_first(greys)
    expected = _source_logits(source, forward.logits_name, preprocessing, images)

    def prove(content: bytes) -> list[parity.Difference]:
        return _prove(content, expected, forward, request, score_kind, images)

    return finish(forward, metadata, request, prove, roles)


def list_layers(path: Path, preprocessing: Preprocessing, grid: Grid | None = None) -> list[tuple[str, ...]]:
    """(tensor, C x h x w, how it holds its map, PyTorch module) of everything that `--layer` can name, first to last.

    :raises InputError: the file cannot be used.
    """
    model = onnx_source.load(path)
    logits, _ = onnx_source.prepare(path, model, preprocessing)
    found = layers.candidates(model, logits, grid)
    return [(name, *_described(value, arrangement)) for name, (value, arrangement) in found.items()]


def _described(value: ir.Value, arrangement: Arrangement) -> tuple[str, str, str]:
    channels = dimensions(value)[1 if arrangement.kind == "nchw" else -1]
    height, width = arrangement.grid
    kind = f"tokens after {arrangement.extra}" if arrangement.extra else arrangement.kind
    return f"{channels} x {height} x {width}", kind, (layers.modules(value) or [""])[-1]


def _weights(model: ir.Model) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            yield str(name), value.const_value.numpy()


def _metadata(
    path: Path,
    request: Request,
    forward: Forward,
    score_kind: str,
    digest: str,
    preprocessing: Preprocessing,
    greys: np.ndarray,
) -> Metadata:
    outputs = dimensions(forward.logits)[1] or 0
    wanted = 2 if score_kind == "binary" else outputs
    names = list(request.classes) or [f"class {i}" for i in range(wanted)]
    if len(names) != wanted:
        raise InputError(f"{path}: the model tells {wanted} classes apart, but --classes names {len(names)}")
    return Metadata(
        architecture=path.stem,
        phase="exported",
        classes=names,
        preprocessing=str(preprocessing),
        image_rule=RULE,
        input_size=list(greys.shape[1:]),
        score_kind=score_kind,
        weights_digest=digest,
    )


def _source_logits(
    source: onnx.ModelProto, logits: str, preprocessing: Preprocessing, images: np.ndarray
) -> np.ndarray:
    """(N, K) logits of the file itself, image by image, on input that NumPy has preprocessed."""
    name = logits.removesuffix(SQUEEZED)
    del source.graph.output[:]
    source.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    image = source.graph.input[0]
    sizes = [dim.dim_value for dim in image.type.tensor_type.shape.dim]
    ready = preprocessing.apply(images, sizes[1] if preprocessing.layout == "nchw" else sizes[3])
    session = parity.open_session(source.SerializeToString(), "disabled")
    rows = [parity.run(session, {image.name: one[None]}, [name])[name] for one in ready]
    return np.concatenate(rows).reshape(len(images), -1)


def _prove(
    content: bytes,
    expected: np.ndarray,
    forward: Forward,
    request: Request,
    score_kind: str,
    images: np.ndarray,
) -> list[parity.Difference]:
    feeds = {"image": images, "target": expected.argmax(axis=1).astype(np.int64)}
    outputs = output_names(forward.layer_names).values()
    wanted = [name for names in outputs for name in (names.activations, names.gradients)]
    exact = parity.run(parity.open_session(content, "disabled"), feeds, wanted)
    gradients = {names.gradients: exact[names.gradients] for names in outputs}
    for layer, names in zip(forward.layer_names, outputs, strict=True):
        _require_maps(layer, exact[names.activations], gradients[names.gradients], len(images))
    model = onnx.load_from_string(content)

    def score(logits: np.ndarray) -> np.ndarray:
        return explained_score(logits.astype(np.float64), feeds["target"], score_kind, request.probability)

    return parity.compare(content, feeds, {"logits": expected, **gradients}) + [
        parity.compare_slopes(
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


def explained_score(logits: np.ndarray, target: np.ndarray, score_kind: str, probability: bool) -> np.ndarray:
    """(N,) explained scores. A binary model has one logit; argmax of one column is class 0, its negative."""
    if probability:
        logits = scores_to_probabilities(logits, score_kind)
    chosen = np.take_along_axis(logits, target[:, None], axis=1)[:, 0]
    return -chosen if score_kind == "binary" else chosen


def scores_to_probabilities(logits: np.ndarray, score_kind: str) -> np.ndarray:
    """Softmax over classes, or a sigmoid per class."""
    if score_kind != "softmax":
        return 1 / (1 + np.exp(-logits))
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def part(model: onnx.ModelProto, inputs: list[str], output: str, images: np.ndarray) -> bytes:
    """The part of a graph between some tensors; what goes around them comes from `images`, as constants."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.input[[value.name for value in fixed.graph.input].index("image")]
    fixed.graph.initializer.append(onnx.numpy_helper.from_array(images, "image"))
    return onnx.utils.Extractor(fixed).extract_model(inputs, [output]).SerializeToString()

"""Exported graph to compressed exported graph: the same classes and CAM layers, explained through the compression.

1. The forward part is cut out: image to logits and CAM tensors.
2. ONNX Runtime folds constants and normalisation into the convolutions. Its result is checked against the forward part,
   because one of its fusions is not always right (zero padding before a max-pooling).
3. The weights and the arithmetic are compressed (`export.compressions`); the model's own preprocessing, which comes
   before any convolution or matrix product, stays float32.

   int8     static quantisation in QDQ form: uint8 activations, int8 weights with a scale per channel, ranges (minimum
            and maximum) from calibration images. Rectifiers stay nodes of the graph, so that they keep their gradient;
            logits are not rounded.
   float16  weights, arithmetic and gradients in half precision, float32 inputs, outputs and CAM tensors. Gradients
            below 6e-5 lose digits, those below 6e-8 are zero.
4. It is differentiated again, QuantizeLinear and DequantizeLinear straight through (`export.rules.quantization`).
5. Proof. Logits and activations are those of the compressed forward graph. Differences through rounding say nothing
   about gradients, so these are compared with central differences of a *smooth twin* of the part behind each CAM
   layer: for int8 the rounding error of every pair, frozen at the activations of the images, is added as a constant;
   for float16 the same weights compute in float32. The twin knows nothing of the gradient rules.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from export import parity, passes
from export.assemble import Forward, check_forward
from export.compressions import COMPRESSIONS, Calibration, Facts, outputs_of
from export.finish import PATTERNS, Request, finish, greys_of
from export.from_onnx import explained_score, part
from export.metadata import FORMAT, PREFIX, Metadata
from harness.common.errors import CannotEvaluateError, InputError, first_line
from harness.common.provenance import weights_digest
from harness.images.columns import FILE, SPLIT
from harness.images.dataset import images_below
from harness.images.loading import RULE, channels_first
from harness.images.manifest import read_manifest

EQUAL = 1e-5  # relative L2 error that preparing the forward part may have
# Integer kernels round some ties to the other side than float32 arithmetic on the same scales does, and every layer
# makes more of them: between optimisation levels, activations of four networks agreed to a cosine of 0.994 or better.
LEVEL_COSINE = 0.98
SLOPES = 0.1  # relative L2 error of slopes in float32, across kinks; the same four networks had up to 0.008


@dataclass(frozen=True)
class Difference(parity.Difference):
    """Equal to the compressed forward graph where nothing is optimised, near it where ONNX Runtime rounds elsewhere."""

    @property
    def passes(self) -> bool:
        if self.level != "disabled" and self.output.startswith(("logits", "activations")):
            return self.cosine >= LEVEL_COSINE
        return super().passes and not (self.output.startswith("slopes") and self.relative_l2 > SLOPES)


def compress(
    path: Path, target: str, out: Path, images: Sequence[Path] = (), reduce_range: bool | None = None
) -> list[parity.Difference]:
    """Write the compressed form of an exported graph; returns how far it is from its own definition (see above).

    :param target: `int8` or `float16`.
    :param images: for calibration (int8 needs some) and for the proof (the first four).
    :param reduce_range: int8 weights of 7 bits; None follows ONNX Runtime's advice for this CPU.
    :raises InputError: no exported graph, one that is compressed already, no images.
    :raises CannotEvaluateError: the graph differs from its definition; nothing is written.
    """
    if target not in COMPRESSIONS:
        raise InputError(f"cannot compress to {target!r}; choose one of {', '.join(COMPRESSIONS)}")
    source, metadata = _read(path)
    if target == "int8" and not images:
        raise InputError(f"{path}: quantising needs images to calibrate on; give --data MANIFEST_OR_FOLDER")
    height, width = metadata.input_size
    greys = greys_of(images, (height, width))
    with TemporaryDirectory() as folder:
        prepared = _prepared(path, _forwardpart(source, metadata), Path(folder))
        calibration = Calibration(channels_first(greys), Path(folder), reduce_range)
        made, facts = COMPRESSIONS[target].make(prepared, calibration)
    few = channels_first(greys[:PATTERNS])
    twin = COMPRESSIONS[target].twin(made, prepared, few)
    return _finish(made, twin, metadata, {"to": target, **facts}, out, few)


def find_images(
    data: Path,
    count: int,
    root: Path | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[Path]:
    """Up to `count` images, spread over those of a manifest (CSV with a column `file`) or of a folder.

    :param root: what the manifest's paths are relative to, its own folder by default.
    :param split: only the manifest's rows with this value in the column `split`.
    :param columns: what the manifest calls its columns, where otherwise.
    """
    if count < 1:
        raise InputError(f"--images takes a number of images from 1, not {count}")
    if data.is_dir():
        found = images_below(data)
    else:
        manifest = read_manifest(data, root=root, split=split, wanted=(FILE, SPLIT), columns=columns)
        found = [Path(str(row.path)) for row in manifest.rows]
    if not found:
        raise InputError(f"{data}: no images{f' of split {split!r}' if split else ''}; give others to calibrate on")
    places = np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)
    return [found[place] for place in places]


def _read(path: Path) -> tuple[onnx.ModelProto, Metadata]:
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf and the file system share no base class
        raise InputError(f"{path}: cannot be read as ONNX ({first_line(error)}); give an exported graph") from error
    facts = {p.key.removeprefix(PREFIX): p.value for p in model.metadata_props if p.key.startswith(PREFIX)}
    if facts.get("format") != str(FORMAT):
        raise InputError(f"{path}: not a graph of this project; make one with `python -m export onnx {path.name}`")
    if any(tensor.external_data for tensor in model.graph.initializer):
        raise InputError(f"{path}: keeps weights outside of the file, which no export does; export it again")
    if "compression" in facts:
        raise InputError(f"{path}: is compressed already ({facts['compression']}); compress the graph it came from")
    try:
        metadata = Metadata(**{field.name: json.loads(facts[field.name]) for field in fields(Metadata)})
    except (KeyError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: its metadata is damaged ({first_line(error)}); export it again") from error
    if metadata.image_rule != RULE:
        raise InputError(f"{path}: exported under image rule {metadata.image_rule!r}, this is {RULE!r}; export again")
    return model, metadata


def _forwardpart(source: onnx.ModelProto, metadata: Metadata) -> onnx.ModelProto:
    """image -> logits and CAM tensors."""
    outputs = ["logits", *(layer["activations"] for layer in metadata.layers)]
    forward = onnx.utils.Extractor(source).extract_model(["image"], outputs)
    del forward.metadata_props[:]
    return forward


def _prepared(path: Path, forward: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The forward part as ONNX Runtime's basic optimisations leave it: constants folded, shapes known."""
    from onnxruntime.quantization import quant_pre_process

    onnx.save(forward, folder / "forward.onnx")
    quant_pre_process(folder / "forward.onnx", folder / "prepared.onnx", skip_symbolic_shape=True)
    prepared = onnx.load(folder / "prepared.onnx")
    used = {node.domain for node in prepared.graph.node}
    domains = [entry for entry in prepared.opset_import if entry.domain in used]
    del prepared.opset_import[:]
    prepared.opset_import.extend(domains)
    for number, node in enumerate(prepared.graph.node):
        node.name = f"{node.op_type}_{number}"  # unique: nodes are left out of a compression by name
    _require_unchanged(path, forward, prepared)
    return prepared


def _require_unchanged(path: Path, forward: onnx.ModelProto, prepared: onnx.ModelProto) -> None:
    height, width = (axis.dim_value for axis in forward.graph.input[0].type.tensor_type.shape.dim[2:])
    images = channels_first(greys_of([], (height, width)))
    before, after = outputs_of(forward, images), outputs_of(prepared, images)
    apart = [parity.difference("basic", name, after[name], before[name]) for name in before]
    worst = max(apart, key=lambda item: item.relative_l2)
    if not worst.relative_l2 <= EQUAL:
        raise CannotEvaluateError(
            f"{path}: ONNX Runtime's preparation changes {worst.output} (relative L2 error {worst.relative_l2:.1e}); "
            "it cannot be compressed here"
        )


def _finish(
    made: onnx.ModelProto, twin: onnx.ModelProto, metadata: Metadata, facts: Facts, out: Path, images: np.ndarray
) -> list[parity.Difference]:
    expected = outputs_of(made, images)
    if not all(np.isfinite(array).all() for array in expected.values()):
        raise CannotEvaluateError(f"the model's numbers are too large for {facts['to']}; nothing was written")
    weights = ((tensor.name, numpy_helper.to_array(tensor)) for tensor in made.graph.initializer)
    stamped = replace(metadata, phase=f"{metadata.phase}.{facts['to']}", weights_digest=weights_digest(weights))
    roles = {layer["name"]: layer["role"] for layer in metadata.layers}

    def prove(content: bytes) -> list[parity.Difference]:
        return _Proof(content, expected, twin, stamped, images).differences()

    return finish(_forward(made, metadata, facts), stamped, _request(metadata, out), prove, roles)


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
        methods=list(metadata.layers[0]["maps"]),
        probability=metadata.explained == "probability",
        thresholds=metadata.thresholds or (),
    )


@dataclass(frozen=True)
class _Proof:
    """What a written graph is compared with: its definition, on some images."""

    content: bytes
    expected: Mapping[str, np.ndarray]  # logits and CAM tensors of the compressed forward graph
    twin: onnx.ModelProto
    metadata: Metadata
    images: np.ndarray

    @property
    def target(self) -> np.ndarray:
        return self.expected["logits"].argmax(axis=1).astype(np.int64)

    def differences(self) -> list[parity.Difference]:
        model = onnx.load_from_string(self.content)
        tails = {
            layer["gradients"]: part(model, [layer["activations"], "target"], layer["gradients"], self.images)
            for layer in self.metadata.layers
        }
        levels = [item for level in parity.LEVELS for item in self._at_level(level, tails)]
        return [*levels, *(self._slopes(layer) for layer in self.metadata.layers)]

    def _at_level(self, level: str, tails: Mapping[str, bytes]) -> Iterator[Difference]:
        """Forward outputs against the definition, gradients against the same nodes without optimisations.

        Both gradients are those at the activations of this level, because activations differ between levels.
        """
        feeds = {"image": self.images, "target": self.target}
        wanted = [*self.expected, *tails]
        found = parity.run(parity.open_session(self.content, level), feeds, wanted)
        expected = dict(self.expected)
        for layer in self.metadata.layers:
            name, gradients = layer["activations"], layer["gradients"]
            fed = {name: found[name], "target": self.target}
            expected |= parity.run(parity.open_session(tails[gradients], "disabled"), fed, [gradients])
        for name in wanted:
            yield _as_ours(parity.difference(level, name, found[name], expected[name]))

    def _slopes(self, layer: Mapping[str, str]) -> Difference:
        name, gradients = layer["activations"], layer["gradients"]
        feeds = {"image": self.images, "target": self.target}
        exact = parity.run(parity.open_session(self.content, "disabled"), feeds, [name, gradients])
        tail = part(self.twin, [name], "logits", self.images)
        return _as_ours(parity.compare_slopes(tail, name, exact[name], exact[gradients], self._score))

    def _score(self, logits: np.ndarray) -> np.ndarray:
        probability = self.metadata.explained == "probability"
        return explained_score(logits.astype(np.float64), self.target, self.metadata.score_kind, probability)


def _as_ours(item: parity.Difference) -> Difference:
    return Difference(**asdict(item))

"""Exported graph to compressed exported graph: the same classes and CAM layers, explained through the compression.

1. The forward part is cut out: image to logits and CAM tensors.
2. ONNX Runtime folds constants and normalisation into the convolutions. Its result is checked against the forward part,
   because one of its fusions is not always right (zero padding before a max-pooling).
3. The weights and the arithmetic are compressed; the model's own preprocessing stays float32.

   int8     static quantisation in QDQ form: uint8 activations, int8 weights with a scale per channel, ranges (minimum
            and maximum) from calibration images. Rectifiers stay nodes of the graph, so that they keep their gradient.
   float16  weights, arithmetic and gradients in half precision, float32 inputs, outputs and CAM tensors. Gradients
            below 6e-5 lose digits, those below 6e-8 are zero.
4. It is differentiated again, QuantizeLinear and DequantizeLinear straight through (`export.rules.quantization`).
5. Proof. Logits and activations are those of the compressed forward graph. Differences through rounding say nothing
   about gradients, so these are compared with central differences of a *smooth twin* of the part behind each CAM
   layer: for int8 the rounding error of every pair, frozen at the activations of the images, is added as a constant;
   for float16 the same weights compute in float32. The twin knows nothing of the gradient rules.
"""

from __future__ import annotations

import csv
import json
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx import numpy_helper

from export import parity, passes
from export.assemble import Forward, check_forward
from export.emit import Emitter
from export.finish import PATTERNS, Request, finish, patterns
from export.from_onnx import explained_score
from export.logs import warnings_of
from export.metadata import FORMAT, PREFIX, Metadata
from harness.digests import weights_digest
from harness.errors import CannotEvaluateError, InputError, first_line
from harness.images import RULE, channels_first, load_grey

EQUAL = 1e-5  # relative L2 error that preparing the forward part may have
# Integer kernels may round a tie to the other side than float32 arithmetic on the same scales does, and half precision
# is rounded at other places where ONNX Runtime fuses nodes: between optimisation levels outputs agree to this cosine.
LEVEL_COSINE = 0.99
SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm"}
LEARNED = {"Conv", "ConvTranspose", "MatMul", "Gemm"}
RECTIFIERS = {"Relu", "Clip"}
QUANTIZERS = {"QuantizeLinear", "DequantizeLinear"}

Facts = dict[str, Any]  # what the metadata say about the compression


@dataclass(frozen=True)
class Difference(parity.Difference):
    """Equal to the compressed forward graph where nothing is optimised, near it where ONNX Runtime rounds elsewhere."""

    @property
    def passes(self) -> bool:
        if self.level == "disabled" or self.output.startswith("slopes"):
            return super().passes
        return self.cosine >= LEVEL_COSINE


def compress(path: Path, target: str, out: Path, images: Sequence[Path] = ()) -> list[parity.Difference]:
    """Write the compressed form of an exported graph; returns how far it is from its own definition (see above).

    :param target: `int8` or `float16`.
    :param images: for calibration (int8 needs some) and for the proof (the first four).
    :raises InputError: no exported graph, one that is compressed already, no images.
    :raises CannotEvaluateError: the graph differs from its definition; nothing is written.
    """
    if target not in COMPRESSIONS:
        raise InputError(f"cannot compress to {target!r}; choose one of {', '.join(COMPRESSIONS)}")
    source, metadata = _read(path)
    if target == "int8" and not images:
        raise InputError(f"{path}: quantising needs images to calibrate on; give --data MANIFEST_OR_FOLDER")
    greys = _greys(images, metadata)
    with TemporaryDirectory() as folder:
        prepared = _prepared(path, _forward_part(source, metadata), Path(folder))
        made, facts = COMPRESSIONS[target].make(prepared, channels_first(greys), Path(folder))
    few = channels_first(greys[:PATTERNS])
    twin = COMPRESSIONS[target].twin(made, prepared, few)
    return _finish(made, twin, metadata, {"to": target, **facts}, out, few)


def find_images(data: Path, count: int, root: Path | None = None, split: str | None = None) -> list[Path]:
    """Up to `count` images, spread over those of a manifest (CSV with a column `file`) or of a folder.

    :param root: what the manifest's paths are relative to, its own folder by default.
    :param split: only the manifest's rows with this value in the column `split`.
    """
    if count < 1:
        raise InputError(f"--images takes a number of images from 1, not {count}")
    if data.is_dir():
        found = sorted(path for path in data.rglob("*") if path.suffix.lower() in SUFFIXES)
    else:
        found = [(root or data.parent) / name for name in _manifest_files(data, split)]
    if not found:
        raise InputError(f"{data}: no images{f' of split {split!r}' if split else ''}; give others to calibrate on")
    places = np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)
    return [found[place] for place in places]


def _manifest_files(manifest: Path, split: str | None) -> list[str]:
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{manifest}: cannot be read as a manifest ({first_line(error)})") from error
    for column in ("file", *(["split"] if split else [])):
        if rows and column not in rows[0]:
            raise InputError(f"{manifest}: has no column {column!r}; a manifest is a CSV file with a header line")
    return [row["file"] for row in rows if not split or row["split"] == split]


def _read(path: Path) -> tuple[onnx.ModelProto, Metadata]:
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf and the file system share no base class
        raise InputError(f"{path}: cannot be read as ONNX ({first_line(error)}); give an exported graph") from error
    facts = {p.key.removeprefix(PREFIX): p.value for p in model.metadata_props if p.key.startswith(PREFIX)}
    if facts.get("format") != str(FORMAT):
        raise InputError(f"{path}: not a graph of this project; make one with `python -m export onnx {path.name}`")
    if "compression" in facts:
        raise InputError(f"{path}: is compressed already ({facts['compression']}); compress the graph it came from")
    metadata = Metadata(**{field.name: json.loads(facts[field.name]) for field in fields(Metadata)})
    if metadata.image_rule != RULE:
        raise InputError(f"{path}: exported under image rule {metadata.image_rule!r}, this is {RULE!r}; export again")
    return model, metadata


def _greys(images: Sequence[Path], metadata: Metadata) -> np.ndarray:
    height, width = metadata.input_size
    return np.stack([load_grey(path, (height, width)) for path in images]) if images else patterns((height, width))


def _forward_part(source: onnx.ModelProto, metadata: Metadata) -> onnx.ModelProto:
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
    _require_unchanged(path, forward, prepared)
    return prepared


def _require_unchanged(path: Path, forward: onnx.ModelProto, prepared: onnx.ModelProto) -> None:
    height, width = (axis.dim_value for axis in forward.graph.input[0].type.tensor_type.shape.dim[2:])
    images = channels_first(patterns((height, width)))
    before, after = _outputs(forward, images), _outputs(prepared, images)
    apart = [parity.difference("basic", name, after[name], before[name]) for name in before]
    worst = max(apart, key=lambda item: item.relative_l2)
    if not worst.relative_l2 <= EQUAL:
        raise CannotEvaluateError(
            f"{path}: ONNX Runtime's preparation changes {worst.output} (relative L2 error {worst.relative_l2:.1e}); "
            "it cannot be compressed here"
        )


def _outputs(model: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    session = parity.open_session(model.SerializeToString(), "disabled")
    return parity.run(session, {"image": images}, [output.name for output in model.graph.output])


def _before_learned(model: onnx.ModelProto) -> list[str]:
    """The nodes that no convolution or matrix product comes before: the model's own preprocessing."""
    learned: set[str] = set()
    names = []
    for node in model.graph.node:
        if node.op_type in LEARNED or learned & set(node.input):
            learned.update(node.output)
        else:
            names.append(node.name)
    return names


class _Feed:
    """Calibration images, one by one, as ONNX Runtime's quantiser asks for them."""

    def __init__(self, images: np.ndarray) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {"image": image[None]}


def _to_int8(prepared: onnx.ModelProto, images: np.ndarray, folder: Path) -> tuple[onnx.ModelProto, Facts]:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    reduced = _seven_bit_weights()
    onnx.save(prepared, folder / "float32.onnx")
    with warnings_of("root"):  # "consider to run pre-processing", which has been run
        quantize_static(
            folder / "float32.onnx",
            folder / "int8.onnx",
            _Feed(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduced,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_before_learned(prepared),
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"QDQKeepRemovableActivations": True},
        )
    made = onnx.load(folder / "int8.onnx")
    _require_same_operators(prepared, made)
    model = ir.from_proto(made)
    _take_out_pairs(model.graph)
    common.RemoveUnusedNodesPass()(model)
    return ir.to_proto(model), {"calibration_images": len(images), "calibration": "minmax", "seven_bit_weights": reduced}


def _take_out_pairs(graph: ir.Graph) -> None:
    """Take out the pairs that say nothing, or too much.

    1. Relu(DequantizeLinear(QuantizeLinear(x))), quantised again, becomes Relu(x), quantised once: the same numbers.
       ONNX Runtime gives x the range of the rectified values, so the first pair rectifies already: its saturation would
       leave every negative x at the kink of the rectifier, and would put rectified values into a CAM tensor x.
    2. Logits are not rounded to 256 values.
    """
    for node in list(graph):
        read = node.inputs[0] if node.op_type in RECTIFIERS else None
        if read is not None and all(use.node.op_type in RECTIFIERS for use in read.uses()):
            _take_out_pair(read)
    _take_out_pair(graph.outputs[0])


def _take_out_pair(dequantized: ir.Value) -> None:
    """Let every reader of a pair read what was quantised; nothing happens to a tensor that comes out of no pair."""
    second = dequantized.producer()
    first = second.inputs[0].producer() if second is not None and second.inputs[0] is not None else None
    if first is None or [first.op_type, second.op_type] != ["QuantizeLinear", "DequantizeLinear"]:  # type: ignore[union-attr]
        return
    real = first.inputs[0]
    assert real is not None
    if dequantized.is_graph_output():
        dequantized.name, real.name = f"{dequantized.name}/dequantized", dequantized.name
        real.type, real.shape = dequantized.type, dequantized.shape
    dequantized.replace_all_uses_with(real, replace_graph_outputs=True)


def _seven_bit_weights() -> bool:
    """ONNX Runtime's advice: on x86 without VNNI, sums of 8-bit products saturate, so weights take 7 bits."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return True  # unknown: the safe choice
    return not {"avx512_vnni", "avx_vnni"} & set(flags)


def _require_same_operators(prepared: onnx.ModelProto, made: onnx.ModelProto) -> None:
    """Quantising adds pairs and nothing else: a rectifier taken out would be one that gradients do not see."""
    before, after = (
        Counter(node.op_type for node in model.graph.node if node.op_type not in QUANTIZERS)
        for model in (prepared, made)
    )
    if before != after:
        changed = ", ".join(sorted({*(before - after), *(after - before)}))
        raise CannotEvaluateError(f"quantising took out or added the operators {changed}; nothing was written")


def _to_float16(prepared: onnx.ModelProto, _images: np.ndarray, _folder: Path) -> tuple[onnx.ModelProto, Facts]:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with catch_warnings():
        simplefilter("ignore")  # numbers too small or too large for half precision; the proof looks at the result
        made = convert_float_to_float16(prepared, keep_io_types=True, node_block_list=_before_learned(prepared))
    del made.graph.value_info[:]  # types as they were before
    model = ir.from_proto(made)
    _read_image_in_full(model.graph)
    _pass_through_outputs(model.graph)
    return ir.to_proto(model), {}


def _read_image_in_full(graph: ir.Graph) -> None:
    """Cast(float32, Cast(float16, image)) becomes the image: preprocessing reads what it was given."""
    for node in list(graph):
        inner = node.inputs[0].producer() if node.op_type == "Cast" and node.inputs[0] else None
        if inner is not None and inner.op_type == "Cast" and inner.inputs[0] is graph.inputs[0]:
            node.outputs[0].replace_all_uses_with(graph.inputs[0])


def _pass_through_outputs(graph: ir.Graph) -> None:
    """What read a float16 tensor whose float32 form is an output reads that output, so that it has a gradient."""
    op = Emitter(graph, "float16")
    for output in list(graph.outputs):
        cast = output.producer()
        assert cast is not None
        half = cast.inputs[0]
        readers = [use for use in half.uses() if use.node is not cast] if half is not None else []
        if readers:
            again = op.Cast(output, to=ir.DataType.FLOAT16)
            for use in readers:
                use.node.replace_input_with(use.idx, again)
    graph.sort()


@dataclass(frozen=True)
class Compression:
    """How a prepared forward part is compressed, and its smooth twin: the float32 function of the same images."""

    make: Callable[[onnx.ModelProto, np.ndarray, Path], tuple[onnx.ModelProto, Facts]]
    twin: Callable[[onnx.ModelProto, onnx.ModelProto, np.ndarray], onnx.ModelProto]


def _with_frozen_errors(made: onnx.ModelProto, _prepared: onnx.ModelProto, images: np.ndarray) -> onnx.ModelProto:
    """Every pair around an activation becomes x + e, e = DequantizeLinear(QuantizeLinear(x)) - x for these images."""
    twin, watched = _copy(made), _copy(made)
    pairs = _pairs(made)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in {*pairs, *pairs.values()})
    values = _outputs(watched, images)
    for node in twin.graph.node:
        for made_of in [pairs[name] for name in node.output if name in pairs]:
            error = numpy_helper.from_array(values[node.output[0]] - values[made_of], f"{node.output[0]}/error")
            twin.graph.initializer.append(error)
            node.CopyFrom(onnx.helper.make_node("Add", [made_of, error.name], node.output))
    return twin


def _pairs(model: onnx.ModelProto) -> dict[str, str]:
    """Dequantised activation -> the tensor that was quantised."""
    quantized = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    dequantizers = (node for node in model.graph.node if node.op_type == "DequantizeLinear")
    return {node.output[0]: quantized[node.input[0]] for node in dequantizers if node.input[0] in quantized}


def _with_rounded_weights(_made: onnx.ModelProto, prepared: onnx.ModelProto, _images: np.ndarray) -> onnx.ModelProto:
    """The float32 graph whose weights hold the values of the float16 graph."""
    twin = _copy(prepared)
    limit = float(np.finfo(np.float16).max)
    for tensor in twin.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            rounded = np.clip(numpy_helper.to_array(tensor), -limit, limit).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    return twin


COMPRESSIONS = {
    "int8": Compression(_to_int8, _with_frozen_errors),
    "float16": Compression(_to_float16, _with_rounded_weights),
}


def _finish(
    made: onnx.ModelProto, twin: onnx.ModelProto, metadata: Metadata, facts: Facts, out: Path, images: np.ndarray
) -> list[parity.Difference]:
    model = ir.from_proto(made)
    passes.tidy(model)
    passes.infer_shapes(model)
    forward = Forward(model, "logits", {layer["name"]: layer["activations"] for layer in metadata.layers})
    check_forward(forward)
    model.metadata_props.clear()
    model.metadata_props[f"{PREFIX}compression"] = json.dumps(facts)
    probability = metadata.explained == "probability"
    request = Request(
        list(forward.layer_names),
        out,
        list(metadata.layers[0]["maps"]),
        probability,
        thresholds=metadata.thresholds or (),
    )
    weights = ((tensor.name, numpy_helper.to_array(tensor)) for tensor in made.graph.initializer)
    stamped = replace(
        metadata, phase=f"{metadata.phase}.{facts['to']}", weights_digest=weights_digest(weights)
    )
    expected = _outputs(made, images)
    roles = {layer["name"]: layer["role"] for layer in metadata.layers}


    def prove(content: bytes) -> list[parity.Difference]:
        return _Proof(content, expected, twin, stamped, images).differences()

    return finish(forward, stamped, request, prove, roles)


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
            layer["gradients"]: _part(model, [layer["activations"], "target"], layer["gradients"], self.images)
            for layer in self.metadata.layers
        }
        levels = [item for level in parity.LEVELS for item in self._at_level(level, tails)]
        return levels + [self._slopes(layer) for layer in self.metadata.layers]

    def _at_level(self, level: str, tails: Mapping[str, bytes]) -> Iterator[Difference]:
        """Forward outputs against the definition; gradients against the same nodes, unoptimised, behind the activations
        that this level has, because these differ between levels."""
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
        tail = _part(self.twin, [name], "logits", self.images)
        return _as_ours(parity.compare_slopes(tail, name, exact[name], exact[gradients], self._score))

    def _score(self, logits: np.ndarray) -> np.ndarray:
        probability = self.metadata.explained == "probability"
        return explained_score(logits.astype(np.float64), self.target, self.metadata.score_kind, probability)


def _as_ours(item: parity.Difference) -> Difference:
    return Difference(**asdict(item))


def _part(model: onnx.ModelProto, inputs: list[str], output: str, images: np.ndarray) -> bytes:
    """The part of a graph between some tensors; what it needs of the image besides is a constant."""
    fixed = _copy(model)
    fixed.graph.initializer.append(numpy_helper.from_array(images, "image"))
    del fixed.graph.input[0]
    return onnx.utils.Extractor(fixed).extract_model(inputs, [output]).SerializeToString()


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied

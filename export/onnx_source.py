"""The ONNX front end: any single-input image classifier becomes a forward graph with the input `image`.

Old files are normalised (initializers as inputs, constants as nodes, opset below 18), the model's own preprocessing
is put into the graph, and a fixed batch is freed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from export import passes
from export.assemble import Forward, check_forward, cut_final_activation, squeeze_head
from export.emit import Emitter, dimensions
from export.engine import OPSETS
from export.grids import Grid
from export.layers import choose
from export.logs import warnings_of
from export.metadata import PREFIX
from harness.common.errors import CannotEvaluateError, InputError, first_line

MAX_BYTES = 2**31 - 1  # what a protobuf message can hold
CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}
RECURRENT = {"LSTM", "GRU", "RNN"}
EQUAL = 1e-5  # relative L2 error that a converted model may have


@dataclass(frozen=True)
class Preprocessing:
    """What happened to pixels before they reached the model: (image * scale - mean) / std, then layout and channels."""

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "nchw"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, 3):
                raise InputError(f"--{name} takes one number or three, not {len(getattr(self, name))}")
        if 0.0 in self.std:
            raise InputError("--std must not be 0")

    def apply(self, images: np.ndarray, channels: int) -> np.ndarray:
        """What the model's own input is for `images` (N, 3, H, W): the arithmetic of the graph, in NumPy."""
        mean, std = (np.array(v, np.float32).reshape(1, -1, 1, 1) for v in (self.mean, self.std))
        pixels = (images * np.float32(self.scale) - mean) / std
        pixels = pixels[:, :channels]
        return pixels if self.layout == "nchw" else np.ascontiguousarray(np.moveaxis(pixels, 1, -1))

    def __str__(self) -> str:
        return f"(image * {self.scale:g} - {list(self.mean)}) / {list(self.std)}, {self.layout}"


def load(path: Path) -> ir.Model:
    """Read an ONNX file, refuse what cannot be differentiated, and bring it to a supported opset."""
    proto = _read(path)
    _refuse(path, proto)
    return _normalised(path, _at_supported_opset(path, proto))


def prepare(path: Path, model: ir.Model, preprocessing: Preprocessing) -> tuple[ir.Value, str]:
    """Make `image` the graph's input and free its batch; (logits, score kind)."""
    _free_batch(model.graph)
    _prepend(path, model.graph, preprocessing)
    passes.infer_shapes(model)
    logits, score_kind = cut_final_activation(model.graph)
    logits = squeeze_head(model.graph, logits)
    passes.infer_shapes(model)
    return logits, score_kind


def forward_graph(
    path: Path, model: ir.Model, layers: Sequence[str], preprocessing: Preprocessing, grid: Grid | None = None
) -> tuple[Forward, str, dict[str, str]]:
    """(forward graph with the input `image`, score kind, CAM layer -> role) of a loaded model.

    :param layers: `auto`, TENSOR, or `penultimate=TENSOR` and `last=TENSOR`, which give the tensor that role.
    :param grid: (h, w) of the map that a layer's tokens are; found from the shapes where it is None.
    """
    logits, score_kind = prepare(path, model, preprocessing)
    chosen, roles = choose(model, logits, layers, grid)
    passes.infer_shapes(model)
    forward = Forward(model, str(logits.name), chosen)
    check_forward(forward)
    model.graph.outputs[:] = [logits, *forward.layers.values()]  # pinned: no pass folds them away
    return forward, score_kind, roles


def _read(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give an ONNX model")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: is larger than 2 GB, more than an ONNX file can hold; store a smaller model")
    try:
        proto = onnx.load(path, load_external_data=False)
        _refuse_distant_data(path, proto)
        onnx.load_external_data_for_model(proto, str(path.parent))
        _name_the_domain_as_usual(proto)
        onnx.checker.check_model(proto)
    except InputError:
        raise
    except Exception as error:  # protobuf and the checker share no base class
        raise InputError(f"{path}: not a valid ONNX model ({first_line(error)})") from error
    if proto.ByteSize() > MAX_BYTES:
        raise InputError(f"{path}: holds more than 2 GB of weights; larger models are not supported")
    return proto


def _name_the_domain_as_usual(proto: onnx.ModelProto) -> None:
    """`ai.onnx` is the long name of the domain that most files leave empty."""
    for item in (*proto.opset_import, *proto.graph.node):
        if item.domain == "ai.onnx":
            item.domain = ""


def _refuse_distant_data(path: Path, proto: onnx.ModelProto) -> None:
    folder = path.parent.resolve()
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            target = (folder / entry.value).resolve()
            if entry.key == "location" and not target.is_relative_to(folder):
                raise InputError(
                    f"{path}: keeps weights outside its own folder ({entry.value}); save it with them inside"
                )


def _refuse(path: Path, proto: onnx.ModelProto) -> None:
    if any(entry.key.startswith(PREFIX) for entry in proto.metadata_props):
        raise InputError(
            f"{path}: is an exported graph already; use it as it is, or export the model that it came from"
        )
    used = {node.op_type for node in proto.graph.node}
    for what, operators in (("control flow", CONTROL_FLOW), ("recurrent operators", RECURRENT)):
        if found := sorted(used & operators):
            raise InputError(
                f"{path}: has {what} ({', '.join(found)}), which cannot be differentiated; export it without"
            )
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value.name for value in proto.graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise InputError(f"{path}: has the inputs {', '.join(inputs) or 'none'}; expected one image")
    if len(proto.graph.output) != 1:
        outputs = ", ".join(value.name for value in proto.graph.output)
        raise InputError(f"{path}: has the outputs {outputs}; expected one row of class scores")
    if any(
        tensor.data_type in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16) for tensor in proto.graph.initializer
    ):
        raise InputError(
            f"{path}: computes in half precision; export it in float32, and halve it with `export compress`"
        )
    if proto.graph.input[0].type.tensor_type.elem_type not in (onnx.TensorProto.FLOAT, 0):
        raise InputError(f"{path}: its input is not float32; convert the model to float32 first")


def _at_supported_opset(path: Path, proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model at an opset that has rules; a conversion is proved equal in ONNX Runtime."""
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset in OPSETS:
        return proto
    if opset > OPSETS[-1]:
        raise InputError(f"{path}: has opset {opset}; gradient rules cover {OPSETS[0]} to {OPSETS[-1]}, export it so")
    old = onnx.ModelProto()
    old.CopyFrom(proto)
    old.ir_version = max(old.ir_version, 8)
    weights = {tensor.name for tensor in old.graph.initializer}
    inputs = [value for value in old.graph.input if value.name not in weights]
    del old.graph.input[:]
    old.graph.input.extend(inputs)
    try:
        converted = onnx.version_converter.convert_version(old, OPSETS[0])
    except Exception as error:  # the converter raises RuntimeError and its own types
        raise InputError(
            f"{path}: cannot be converted from opset {opset} to {OPSETS[0]} ({first_line(error)})"
        ) from error
    _prove_equal(path, old, converted)
    return converted


def _prove_equal(path: Path, old: onnx.ModelProto, new: onnx.ModelProto) -> None:
    shape = [d.dim_value or 1 for d in old.graph.input[0].type.tensor_type.shape.dim]
    feed = {old.graph.input[0].name: np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)}
    before, after = (_run(path, proto, feed) for proto in (old, new))
    apart = float(np.linalg.norm(before - after) / (np.linalg.norm(before) or 1.0))
    if not apart <= EQUAL:
        raise CannotEvaluateError(f"{path}: converting its opset changed its output (relative L2 error {apart:.1e})")


def _run(path: Path, proto: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, feed)[0]
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        raise InputError(f"{path}: ONNX Runtime cannot run it ({first_line(error)})") from error


def _normalised(path: Path, proto: onnx.ModelProto) -> ir.Model:
    model = ir.from_proto(proto)
    with warnings_of("onnx_ir"):
        passes.tidy(model)
    sizes = dimensions(model.graph.inputs[0])
    if len(sizes) != 4 or None in sizes[2:]:
        raise InputError(f"{path}: its input is {sizes}; expected four axes with fixed height and width")
    model.ir_version = max(model.ir_version or 0, 8)
    return model


def _free_batch(graph: ir.Graph) -> None:
    """Let the batch size vary, where the file fixed it: in the input, and in reshapes that spell it out."""
    image = graph.inputs[0]
    assert image.shape is not None
    fixed = image.shape[0]
    image.shape = ir.Shape(["N", *image.shape[1:]])
    op = Emitter(graph, "batch")
    shapes = {value: value.shape for node in graph for value in node.inputs if value is not None}
    for node in graph:
        shape = (
            ir.convenience.get_const_tensor(node.inputs[1]) if node.op_type == "Reshape" and node.inputs[1] else None
        )
        if shape is not None and isinstance(fixed, int):
            sizes = shape.numpy().tolist()
            if (
                sizes
                and sizes[0] == fixed
                and node.inputs[0] is not None
                and _starts_with(shapes[node.inputs[0]], fixed)
            ):
                node.replace_input_with(1, op.integers(0, *sizes[1:]))
        for value in node.outputs:
            value.shape = None
    for value in graph.outputs:
        value.shape = None


def _starts_with(shape: ir.Shape | None, size: int) -> bool:
    return shape is None or (len(shape) > 0 and shape[0] == size)


def _prepend(path: Path, graph: ir.Graph, preprocessing: Preprocessing) -> None:
    """Make `image` (N, 3, H, W) the graph's input, with the model's own preprocessing behind it."""
    old = graph.inputs[0]
    channels, height, width = _geometry(path, old, preprocessing.layout)
    image = ir.val("image", ir.DataType.FLOAT, ["N", 3, height, width])
    op = Emitter(graph, "preprocessing")
    value = op.Mul(image, op.constant(np.float32(preprocessing.scale))) if preprocessing.scale != 1 else image
    mean, std = (np.array(v, np.float32).reshape(1, -1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    value = op.Sub(value, op.constant(mean)) if mean.any() else value
    value = op.Div(value, op.constant(std)) if (std != 1).any() else value
    if channels == 1:
        value = op.Slice(value, op.integers(0), op.integers(1), op.integers(1))
    if preprocessing.layout == "nhwc":
        value = op.Transpose(value, perm=[0, 2, 3, 1])
    old.replace_all_uses_with(value, replace_graph_outputs=True)
    graph.inputs[0] = image
    old.name, image.name = f"{old.name}/replaced", "image"
    graph.sort()


def _geometry(path: Path, image: ir.Value, layout: str) -> tuple[int, int, int]:
    """(channels, H, W) of the model's own input."""
    sizes = dimensions(image)
    channels, height, width = (sizes[1], sizes[2], sizes[3]) if layout == "nchw" else (sizes[3], sizes[1], sizes[2])
    if channels not in (1, 3) or height is None or width is None:
        raise InputError(
            f"{path}: its input {sizes} has {channels} channels as {layout}; expected 1 or 3 (see --layout)"
        )
    return channels, height, width

"""An ONNX file as a model that can be differentiated: read, normalised, at a supported opset, or refused.

Old files are normalised: initializers that are inputs, constants that are nodes, opsets below 18.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from export import passes
from export.autodiff.emit import dimensions
from export.autodiff.engine import OPSETS
from export.logs import warnings_of
from export.metadata import PREFIX
from export.proof.parity import relative_l2
from export.proof.sessions import open_session, run
from harness.common.errors import CannotEvaluateError, InputError, first_line

MAX_BYTES = 2**31 - 1  # what a protobuf message can hold
CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}
RECURRENT = {"LSTM", "GRU", "RNN"}
EQUAL = 1e-5  # relative L2 error that a converted model may have


def load(path: Path) -> ir.Model:
    """Read an ONNX file, refuse what cannot be differentiated, and bring it to a supported opset."""
    proto = _read(path)
    _refuse(path, proto)
    return _normalised(path, _at_supported_opset(path, proto))


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
    apart = relative_l2(after, before)
    if not apart <= EQUAL:
        raise CannotEvaluateError(f"{path}: converting its opset changed its output (relative L2 error {apart:.1e})")


def _run(path: Path, proto: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    try:
        return next(iter(run(open_session(proto.SerializeToString(), "all"), feed).values()))
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

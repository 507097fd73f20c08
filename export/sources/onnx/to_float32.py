"""A model that takes and computes float32: pixels as whole numbers, half and double precision become so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from export.proof.parity import relative_l2
from export.proof.sessions import open_session, run
from harness.common.errors import CannotEvaluateError, InputError, first_line

# The relative L2 error that a change to float32 may make: half precision has 11 bits, and rounds some thousand times.
NEAR = {TensorProto.FLOAT16: 0.02, TensorProto.BFLOAT16: 0.02, TensorProto.DOUBLE: 1e-3}
OTHERS = tuple(NEAR)
WHOLE = (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32, TensorProto.INT64)
_READ_WHOLE = {"DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}


def in_single_precision(path: Path, proto: onnx.ModelProto) -> None:
    """Let the input be float32, and all arithmetic in half or double precision, too.

    Pixels that the file takes as whole numbers are taken as float32: the file casts them itself.
    """
    image = proto.graph.input[0]
    kind = image.type.tensor_type.elem_type
    if kind in WHOLE:
        _refuse_integers_read(path, proto, image.name)
        image.type.tensor_type.elem_type = TensorProto.FLOAT
        del proto.graph.value_info[:]
    elif kind not in (TensorProto.FLOAT, 0, *OTHERS):
        raise InputError(f"{path}: its input is {_name(kind)}; convert the model to float32 first")
    if found := _other_precisions(proto):
        before = onnx.ModelProto.FromString(proto.SerializeToString())
        _change(proto)
        _require_near(path, before, proto, max(NEAR[kind] for kind in found))


def _other_precisions(proto: onnx.ModelProto) -> set[int]:
    """The kinds of floating-point numbers beside float32 that the file takes, holds or casts to."""
    tensors = {tensor.data_type for tensor in _tensors(proto.graph)}
    kinds = tensors | {_target(node) for node in proto.graph.node} | {proto.graph.input[0].type.tensor_type.elem_type}
    return kinds & set(OTHERS)


def _require_near(path: Path, other: onnx.ModelProto, single: onnx.ModelProto, near: float) -> None:
    """The same function, but for rounding."""
    image = other.graph.input[0].type.tensor_type
    shape = [axis.dim_value or 1 for axis in image.shape.dim]
    pixels = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    before = _output(path, other, pixels.astype(onnx.helper.tensor_dtype_to_np_dtype(image.elem_type)))
    after = _output(path, single, pixels)
    apart = relative_l2(after.astype(np.float64), before.astype(np.float64))
    if not apart <= near:
        raise CannotEvaluateError(
            f"{path}: computes something else in float32 than in its own precision (relative L2 error {apart:.1e}); "
            "export it in float32"
        )


def _output(path: Path, model: onnx.ModelProto, pixels: np.ndarray) -> np.ndarray:
    """What ONNX Runtime computes, or, where it lacks an operator in double precision, ONNX's own definition of it."""
    feeds = {model.graph.input[0].name: pixels}
    try:
        return next(iter(run(open_session(model.SerializeToString(), "all"), feeds).values()))
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        if TensorProto.DOUBLE not in _other_precisions(model):
            raise InputError(f"{path}: ONNX Runtime cannot run it ({first_line(error)})") from error
    try:
        return np.asarray(ReferenceEvaluator(model).run(None, feeds)[0])
    except Exception as error:  # any of NumPy's, from any operator
        raise InputError(
            f"{path}: cannot be run in double precision ({first_line(error)}); export it in float32"
        ) from error


def _refuse_integers_read(path: Path, proto: onnx.ModelProto, image: str) -> None:
    readers = [node.op_type for node in proto.graph.node if image in node.input]
    if whole := sorted(set(readers) & _READ_WHOLE):
        raise InputError(f"{path}: reads its pixels by {', '.join(whole)}; export the model with a float32 input")


def _change(proto: onnx.ModelProto) -> None:
    for tensor in _tensors(proto.graph):
        if tensor.data_type in OTHERS:
            tensor.CopyFrom(numpy_helper.from_array(_single(tensor), tensor.name))
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype", "output_dtype") and attribute.i in OTHERS:
                attribute.i = TensorProto.FLOAT
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.tensor_type.elem_type in OTHERS:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    del proto.graph.value_info[:]


def _single(tensor: onnx.TensorProto) -> np.ndarray:
    """In float32; finite numbers stay finite, such as the lowest double that masks are filled with."""
    values = numpy_helper.to_array(tensor)
    if tensor.data_type == TensorProto.DOUBLE:
        limit = float(np.finfo(np.float32).max)
        values = np.where(np.isfinite(values), np.clip(values, -limit, limit), values)
    return values.astype(np.float32)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def _target(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "to"), 0)


def _name(kind: int) -> str:
    return TensorProto.DataType.Name(kind).lower()

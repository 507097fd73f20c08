"""A model that takes and computes float32: pixels as whole numbers, and half precision, become so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from export.proof.parity import relative_l2
from export.proof.sessions import open_session, run
from harness.common.errors import CannotEvaluateError, InputError, first_line

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
NEAR = 0.02  # relative L2 error that half precision may have: 11 bits, some thousand times over
WHOLE = (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32, TensorProto.INT64)
_READ_WHOLE = {"DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}


def in_single_precision(path: Path, proto: onnx.ModelProto) -> None:
    """Let the input be float32, and all arithmetic in half precision, too.

    Pixels that the file takes as whole numbers are taken as float32: the file casts them itself.
    """
    image = proto.graph.input[0]
    kind = image.type.tensor_type.elem_type
    if kind in WHOLE:
        _refuse_integers_read(path, proto, image.name)
        image.type.tensor_type.elem_type = TensorProto.FLOAT
        del proto.graph.value_info[:]
    elif kind not in (TensorProto.FLOAT, 0, *HALVES):
        raise InputError(f"{path}: its input is {_name(kind)}; convert the model to float32 first")
    halves = any(tensor.data_type in HALVES for tensor in _tensors(proto.graph))
    if kind in HALVES or halves or any(_target(node) in HALVES for node in proto.graph.node):
        before = onnx.ModelProto.FromString(proto.SerializeToString())
        _widen(proto)
        _require_near(path, before, proto)


def _require_near(path: Path, half: onnx.ModelProto, single: onnx.ModelProto) -> None:
    """The same function, but for the rounding of half precision."""
    image = half.graph.input[0].type.tensor_type
    shape = [axis.dim_value or 1 for axis in image.shape.dim]
    pixels = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    kind = onnx.helper.tensor_dtype_to_np_dtype(image.elem_type)
    try:
        before, after = (
            next(iter(run(open_session(model.SerializeToString(), "all"), {name: pixels.astype(dtype)}).values()))
            for model, name, dtype in (
                (half, half.graph.input[0].name, kind), (single, single.graph.input[0].name, np.float32),
            )
        )  # fmt: skip
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        raise InputError(f"{path}: ONNX Runtime cannot run it ({first_line(error)})") from error
    apart = relative_l2(after.astype(np.float64), before.astype(np.float64))
    if not apart <= NEAR:
        raise CannotEvaluateError(
            f"{path}: computes something else in float32 than in half precision (relative L2 error {apart:.1e}); "
            "export it in float32"
        )


def _refuse_integers_read(path: Path, proto: onnx.ModelProto, image: str) -> None:
    readers = [node.op_type for node in proto.graph.node if image in node.input]
    if whole := sorted(set(readers) & _READ_WHOLE):
        raise InputError(f"{path}: reads its pixels by {', '.join(whole)}; export the model with a float32 input")


def _widen(proto: onnx.ModelProto) -> None:
    for tensor in _tensors(proto.graph):
        if tensor.data_type in HALVES:
            tensor.CopyFrom(numpy_helper.from_array(_single(tensor), tensor.name))
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype", "output_dtype") and attribute.i in HALVES:
                attribute.i = TensorProto.FLOAT
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.tensor_type.elem_type in HALVES:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    del proto.graph.value_info[:]


def _single(tensor: onnx.TensorProto) -> np.ndarray:
    return numpy_helper.to_array(tensor).astype(np.float32)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def _target(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "to"), 0)


def _name(kind: int) -> str:
    return TensorProto.DataType.Name(kind).lower()

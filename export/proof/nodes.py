"""Small ONNX graphs computed in float64, and the derivative of one node along a direction, from its values alone.

ONNX Runtime computes most operators in float64; for the others ONNX's reference does. Where that would take long, or is
known to depart from the specification, ONNX Runtime computes them in float32. With
d(h) = (f(x + h t) - f(x - h t)) / 2 h:

    f'(x) t = f(t)                                              of operators that only move numbers
    f'(x) t = d(h), h = 3e-10 |x| / |t|, 1e-5 if smooth         in float64
    f'(x) t = sum_i f(x, x_i = t_i) - f(x, x_i = 0)             in float32, linear in each input
    f'(x) t = (4 d(h) - d(2 h)) / 3, h = 0.02 |x| / |t|         in float32, smooth
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

SLOW = {"Conv", "ConvTranspose", "AveragePool", "Resize", "Einsum", "LpPool", "GridSample"}  # in the reference
LINEAR = {  # in each input that may vary
    "Conv", "ConvTranspose", "AveragePool", "Resize", "Einsum", "Mean", "Pad", "GatherElements", "GridSample", "Col2Im",
}  # fmt: skip
# What `onnx.reference` 1.23 computes wrongly, or in float32; tests/literal_operators.py has them as specified.
NOT_BY_REFERENCE = {
    "ConvTranspose", "Erf", "GatherElements", "Gelu", "GlobalLpPool", "GlobalMaxPool", "GridSample",
    "GroupNormalization", "LRN", "LpNormalization", "MaxPool", "Mean", "Pad",
}  # fmt: skip
MANY = 50_000  # elements beyond which the reference takes long over SLOW ones
LAYOUT = {  # linear in all inputs together, and zero at zero
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "SpaceToDepth", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze",
}  # fmt: skip
STEP = 3e-10  # rounding in float64 is then 3e-7, and 1 in 3e9 units of a rectifier is within reach of its kink
SMOOTH_STEP = 1e-5  # where no kink is and no domain ends, rounding is 1e-11
SMOOTH = {
    "Add", "Attention", "AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "Cos", "Einsum", "Elu", "Erf",
    "Exp", "Gelu", "Gemm", "GlobalAveragePool", "GroupNormalization", "InstanceNormalization", "LRN",
    "LayerNormalization", "LogSoftmax", "MatMul", "MeanVarianceNormalization", "Mish", "Mul", "RMSNormalization",
    "ReduceLogSumExp", "ReduceMean", "ReduceSum", "ReduceSumSquare", "Resize", "Sigmoid", "Sin", "Softmax", "Softplus",
    "Sub", "Sum", "Swish", "Tanh",
}  # fmt: skip
WIDE_STEP = 0.02
LONG = 1e6
OFFSET = 1e-3  # inputs smaller than this share of the output are no measure of the step

Arrays = dict[str, np.ndarray]


@dataclass
class Computation:
    """A graph that computes in float64, or in float32 where `single`."""

    outputs: list[str]
    single: bool
    session: ort.InferenceSession | ReferenceEvaluator

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        dtype = np.float32 if self.single else np.float64
        ready = {
            name: np.ascontiguousarray(array, dtype) if _is_real(array) else array for name, array in feeds.items()
        }
        found = self.session.run(self.outputs, ready)
        return {name: np.asarray(array) for name, array in zip(self.outputs, found, strict=True)}


def computation(graph: onnx.GraphProto, opset: int, feeds: Mapping[str, np.ndarray]) -> Computation:
    """The graph, of which only names and nodes are read, as exact as it can be computed in reasonable time."""
    outputs = [value.name for value in graph.output]
    many = sum(array.size for array in feeds.values() if _is_real(array)) > MANY
    operators = {node.op_type for node in graph.node}
    single = many and bool(operators & SLOW)
    try:
        return Computation(outputs, single, _session(graph, opset, feeds, single))
    except Exception:  # "not implemented" for float64 has no class of its own
        if operators & NOT_BY_REFERENCE:
            return Computation(outputs, True, _session(graph, opset, feeds, single=True))
        model = _model(graph, opset, feeds, TensorProto.DOUBLE)
        return Computation(outputs, False, ReferenceEvaluator(model))


def _session(graph: onnx.GraphProto, opset: int, feeds: Mapping[str, np.ndarray], single: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    model = _model(graph, opset, feeds, TensorProto.FLOAT if single else TensorProto.DOUBLE)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _model(graph: onnx.GraphProto, opset: int, feeds: Mapping[str, np.ndarray], real: int) -> onnx.ModelProto:
    """The graph with all real numbers of one type, its inputs those of `feeds`."""
    made = onnx.GraphProto()
    made.CopyFrom(graph)
    dtype = helper.tensor_dtype_to_np_dtype(real)
    for tensor in made.initializer:
        array = numpy_helper.to_array(tensor)
        if _is_real(array):
            tensor.CopyFrom(numpy_helper.from_array(array.astype(dtype), tensor.name))
    for node in made.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16):
                attribute.i = real
    del made.input[:], made.output[:], made.value_info[:]
    made.input.extend(
        helper.make_tensor_value_info(
            name, real if _is_real(array) else helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in feeds.items()
    )
    made.output.extend(onnx.ValueInfoProto(name=value.name) for value in graph.output)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def _is_real(array: np.ndarray) -> bool:
    return np.issubdtype(np.asarray(array).dtype, np.floating)


class Node:
    """One node of a model at given values of its inputs."""

    def __init__(self, node: onnx.NodeProto, opset: int, values: Mapping[str, np.ndarray]) -> None:
        self.node, self.opset = node, opset
        self.values = {name: values[name] for name in dict.fromkeys(node.input) if name}

    @cached_property
    def compute(self) -> Computation:
        outputs = [onnx.ValueInfoProto(name=name) for name in self.node.output if name]
        return computation(helper.make_graph([self.node], "node", [], outputs), self.opset, self.values)

    def tangents(self, directions: Mapping[str, np.ndarray]) -> Arrays:
        """Real outputs' derivatives along directions of the inputs that vary."""
        if self.node.op_type in ("QuantizeLinear", "DequantizeLinear"):  # a pair adds a constant, by definition
            return {self.node.output[0]: directions[self.node.input[0]]}
        if self.node.op_type in LAYOUT and all(name in directions for name, a in self.values.items() if _is_real(a)):
            return self.compute({**self.values, **directions})
        if self.compute.single and self.node.op_type in LINEAR:
            parts = [self._by_linearity(name, direction) for name, direction in directions.items()]
            return {name: np.sum([part[name] for part in parts], axis=0) for name in parts[0]}
        return self._by_differences(directions)

    def _by_linearity(self, name: str, direction: np.ndarray) -> Arrays:
        long = LONG * max(1.0, _size(self.values[name])) / (_size(direction) or 1.0)  # beside which no bias counts
        ends = (direction * long, np.zeros_like(direction))
        moved, still = (self.compute({**self.values, name: array}) for array in ends)
        return {output: (moved[output] - still[output]).astype(np.float64) / long for output in moved}

    def _by_differences(self, directions: Mapping[str, np.ndarray]) -> Arrays:
        longest = max(_size(direction) for direction in directions.values())
        if longest == 0:
            return {name: np.zeros_like(array) for name, array in self.compute(self.values).items() if _is_real(array)}
        sizes = [_size(self.values[name]) / _size(d) for name, d in directions.items() if _size(d)]
        scale = min(filter(None, sizes), default=1.0)
        if not self.compute.single:
            made = max((_size(array) for array in self.compute(self.values).values() if _is_real(array)), default=0.0)
            if max(_size(self.values[name]) for name in directions) < OFFSET * made:  # f(x) = 0.5 at an x near 0
                scale = max(scale, made / longest)
            return self._central(directions, (SMOOTH_STEP if self.node.op_type in SMOOTH else STEP) * scale)
        near, far = (self._central(directions, factor * WIDE_STEP * scale) for factor in (1, 2))
        return {name: (4 * near[name] - far[name]) / 3 for name in near}

    def _central(self, directions: Mapping[str, np.ndarray], step: float) -> Arrays:
        at = {name: self.values[name].astype(np.float64) for name in directions}  # float32 would swallow the step
        up, down = (
            self.compute({**self.values, **{name: at[name] + signed * d for name, d in directions.items()}})
            for signed in (step, -step)
        )
        return {name: (up[name] - down[name]) / (2 * step) for name in up if _is_real(up[name])}


def _size(array: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(array)))) if array.size else 0.0

"""Shapes of every tensor of a graph at one batch size, and by two of them as far as the batch leaves them fixed.

ONNX's own shape inference gives up where a shape is computed (Shape, Gather, Concat, Reshape), as the exporters of
PyTorch write it for a batch that varies. With a batch of a given size all of that is arithmetic on known integers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator

from export.autodiff.emit import Emitter, constant_array

SMALL = 4096  # elements: larger tensors are no shapes
BATCHES = (2, 3)  # sizes that the shapes of most networks do not have by themselves
BATCH = "N"

Sizes = tuple[int, ...]


@dataclass
class Concrete:
    """What is known of the values of a graph at one batch size: shapes, and the numbers of small computed integers."""

    opsets: dict[str, int]
    shapes: dict[ir.Value, Sizes] = field(default_factory=dict)
    types: dict[ir.Value, int] = field(default_factory=dict)
    numbers: dict[ir.Value, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: ir.Graph, batch: int) -> Concrete:
        """Everything that follows from images of the graph's size, `batch` of them."""
        found = cls(dict(graph.opset_imports))
        found.start(graph, batch)
        for node in graph:
            found.visit(node)
        return found

    def start(self, graph: ir.Graph, batch: int) -> None:
        """Take note of the inputs."""
        for value in graph.inputs:
            sizes = list(value.shape or ())
            self.shapes[value] = (batch, *(size for size in sizes[1:] if isinstance(size, int)))
            self.types[value] = int(value.dtype or ir.DataType.FLOAT)

    def shape(self, value: ir.Value | None) -> Sizes | None:
        """None where it is not known."""
        if value is None:
            return None
        if value not in self.shapes and value.const_value is not None:
            self.shapes[value] = tuple(value.const_value.shape.numpy())
        return self.shapes.get(value)

    def known(self, value: ir.Value | None) -> np.ndarray | None:
        """The numbers of a small constant, or of what was computed of such alone."""
        if value is None:
            return None
        if value in self.numbers:
            return self.numbers[value]
        if value.const_value is None or value.const_value.size > SMALL:
            return None
        return constant_array(value)

    def visit(self, node: ir.Node) -> None:
        """Shapes of a node's outputs, where those of its inputs are known; numbers where theirs are."""
        if node.op_type == "Shape":
            self._shape_of(node)
        elif all(self.known(value) is not None for value in node.inputs if value is not None) and node.inputs:
            self._compute(node)
        elif all(self.shape(value) is not None for value in node.inputs if value is not None):
            self._infer(node)

    def _shape_of(self, node: ir.Node) -> None:
        sizes = self.shape(node.inputs[0])
        if sizes is not None:
            start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(sizes))
            self._note(node.outputs[0], np.array(sizes[start:end], np.int64))

    def _note(self, value: ir.Value, numbers: np.ndarray) -> None:
        self.shapes[value] = numbers.shape
        self.types[value] = onnx.helper.np_dtype_to_tensor_dtype(numbers.dtype)
        if numbers.size <= SMALL:
            self.numbers[value] = numbers

    def _compute(self, node: ir.Node) -> None:
        feeds = {str(value.name): self.known(value) for value in node.inputs if value is not None}
        try:
            results = ReferenceEvaluator(ir.to_proto(node), opsets=self.opsets).run(None, feeds)
        except Exception:  # what the reference does not compute has a shape all the same
            self._infer(node)
            return
        for value, numbers in zip(node.outputs, results, strict=False):
            self._note(value, np.asarray(numbers))

    def _infer(self, node: ir.Node) -> None:
        inputs = [value for value in node.inputs if value is not None]
        types = {str(value.name): self._type(value) for value in inputs}
        data = {str(v.name): onnx.numpy_helper.from_array(k) for v in inputs if (k := self.known(v)) is not None}
        proto = ir.to_proto(node)
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opsets.get(node.domain, 1), node.domain)
            found = onnx.shape_inference.infer_node_outputs(
                schema,
                proto,
                types,
                data,
                opset_imports=[onnx.helper.make_opsetid(*item) for item in self.opsets.items()],
            )
        except Exception:  # no schema, or an inference that gives up
            found = {}
        shapes = {name: _sizes(item) for name, item in found.items()}
        if any(shapes.get(str(value.name)) is None for value in node.outputs if value.name):
            found, shapes = self._by_running(proto, types, data)
        for value in node.outputs:
            if (sizes := shapes.get(str(value.name))) is not None:
                self.shapes[value] = sizes
                self.types[value] = found[str(value.name)].tensor_type.elem_type

    def _by_running(
        self, node: onnx.NodeProto, types: dict[str, onnx.TypeProto], data: dict[str, onnx.TensorProto]
    ) -> tuple[dict[str, onnx.TypeProto], dict[str, Sizes | None]]:
        """Types and shapes that ONNX Runtime gives the outputs of one node, on ones."""
        inputs = [onnx.ValueInfoProto(name=name, type=item) for name, item in types.items()]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = onnx.helper.make_graph([node], "node", inputs, outputs)
        opsets = [onnx.helper.make_opsetid(*item) for item in self.opsets.items()]
        feeds = {
            name: onnx.numpy_helper.to_array(data[name])
            if name in data
            else np.ones(_sizes(item) or (), onnx.helper.tensor_dtype_to_np_dtype(item.tensor_type.elem_type))
            for name, item in types.items()
        }
        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
            session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            results = dict(zip([item.name for item in outputs], session.run(None, feeds), strict=True))
        except Exception:  # the shape stays unknown; who needs it says so
            return {}, {}
        made = {
            name: onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in results.items()
        }
        return made, {name: array.shape for name, array in results.items()}

    def _type(self, value: ir.Value) -> onnx.TypeProto:
        element = self.types.get(value) or int(value.dtype or ir.DataType.FLOAT)
        return onnx.helper.make_tensor_type_proto(element, self.shape(value))


def _sizes(item: onnx.TypeProto) -> Sizes | None:
    if not item.tensor_type.HasField("shape"):
        return None
    axes = item.tensor_type.shape.dim
    return tuple(axis.dim_value for axis in axes) if all(axis.HasField("dim_value") for axis in axes) else None


def fix_shapes(graph: ir.Graph) -> None:
    """Give every value the shape that it has at any batch size: the batch is `N`, a size that varies with it unknown.

    1. Integers computed of shapes that are the same for every batch become constants.
    2. Reshape(x, computed) gets a constant target, with -1 where the batch is, where no more than one size varies.

    Requires: the batch is the first axis of the graph's inputs, and free.
    """
    first, second = (Concrete.of(graph, batch) for batch in BATCHES)
    op = Emitter(graph, "shapes")
    for node in graph:
        for value in node.outputs:
            one, other = first.shapes.get(value), second.shapes.get(value)
            if one is not None and other is not None and len(one) == len(other):
                sizes = [
                    _symbol(a, b, f"{value.name}/{axis}") for axis, (a, b) in enumerate(zip(one, other, strict=True))
                ]
                value.shape = ir.Shape(sizes)
                value.type = value.type or ir.TensorType(ir.DataType(first.types[value]))
        if node.op_type == "Reshape" and constant_array(node.inputs[1]) is None:
            _fix_target(op, node)
        elif (numbers := first.numbers.get(node.outputs[0])) is not None:
            _fix_numbers(op, node.outputs[0], numbers, second.numbers.get(node.outputs[0]))
    common.RemoveUnusedNodesPass()(ir.Model(graph, ir_version=10))


def _fix_target(op: Emitter, node: ir.Node) -> None:
    sizes = list(node.outputs[0].shape or [None, None])
    varying = [size for size in sizes if not isinstance(size, int)]
    if len(varying) <= 1 and 0 not in sizes:
        node.replace_input_with(1, op.integers(*(size if isinstance(size, int) else -1 for size in sizes)))


def _fix_numbers(op: Emitter, value: ir.Value, one: np.ndarray, other: np.ndarray | None) -> None:
    if other is not None and np.array_equal(one, other) and not value.is_graph_output():
        value.replace_all_uses_with(op.constant(one))


def _symbol(one: int, other: int, name: str) -> int | str:
    if one == other:
        return one
    return BATCH if (one, other) == BATCHES else name

"""Every rule on the way from a CAM layer to the score, held to the derivative of its own node.

At the node's own inputs x, moved to a generic point, with a random cotangent c of its output and a random direction t
of its inputs, a vector-Jacobian product v of the rule satisfies

    <v, t> = <c, f'(x) t>,

where f' comes from values of the node alone (`export.proof.nodes`). Nodes of the same operator, attributes and shapes
are checked once, whatever their number of channels. Elements that are exactly zero stay so, and every other keeps its
sign: no kink is crossed, no domain left.

Source of the identity: Griewank & Walther, Evaluating Derivatives, 2nd ed., 2008, section 3.4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from export.autodiff.emit import Emitter
from export.autodiff.engine import backward, rule_for
from export.proof.nodes import Arrays, Computation, Node, computation
from export.proof.parity import Difference, difference

DIRECTIONS = 3
MANY = 2  # outputs of one node that are looked at
MOVED = 1e-3  # relative: how far a generic point is from the node's own


def check_rules(
    nodes: Sequence[onnx.NodeProto], opset: int, values: Mapping[str, np.ndarray], varying: set[str]
) -> list[Difference]:
    """One difference for each distinct kind of node that can be differentiated, named `rules:OPERATOR (NODE)`.

    :param values: the inputs of all nodes.
    :param varying: tensors that depend on the CAM layer.
    """
    seen: set[tuple[object, ...]] = set()
    read = {"logits"}.union(*(node.input for node in nodes))
    varying = varying - {name for node in nodes for name in node.output}
    found = []
    for node in nodes:
        rule = rule_for(ir.Node(node.domain, node.op_type, []), opset)
        if rule is None or rule.vjp is None or not varying & set(node.input):  # nothing varies with a shape
            continue
        kind = _kind(node, values, varying)
        varying.update(node.output)
        real = any(name in varying and _is_real(values[name]) for name in node.input if name)
        if kind in seen or rule.integers or not real:
            continue
        seen.add(kind)
        found.append(_Check(node, opset, values, varying, read).difference())
    return found


def _kind(node: onnx.NodeProto, values: Mapping[str, np.ndarray], varying: set[str]) -> tuple[object, ...]:
    attributes = tuple(sorted(attribute.SerializeToString() for attribute in node.attribute))
    inputs = tuple(_form(values[name], name in varying) if name else None for name in node.input)
    return node.op_type, attributes, inputs, len(node.output)


def _form(array: np.ndarray, varies: bool) -> tuple[object, ...]:
    """What of an input can decide how a rule writes its nodes: not how many channels there are, but for one."""
    sizes = array.shape if varies else array.shape[2:]
    return (
        varies,
        array.ndim,
        tuple(min(size, 2) if axis == 1 else size for axis, size in enumerate(sizes)),
        _small(array),
    )


def _small(array: np.ndarray) -> bytes:
    """The numbers of what is no real tensor: axes, pads, indices."""
    return b"" if np.issubdtype(array.dtype, np.floating) else array.tobytes()


class _Check:
    """One node at its own, slightly moved values; `read` are the tensors that carry a gradient to it."""

    def __init__(
        self,
        node: onnx.NodeProto,
        opset: int,
        values: Mapping[str, np.ndarray],
        varying: set[str],
        read: set[str],
    ) -> None:
        self.node, self.opset, self.read = node, opset, read
        self.rng = np.random.default_rng(0)
        own = {name: values[name] for name in dict.fromkeys(node.input) if name}
        self.moving = [name for name, array in own.items() if name in varying and _is_real(array)]
        self.values = {name: self._moved(array) if name in self.moving else array for name, array in own.items()}

    def _moved(self, array: np.ndarray) -> np.ndarray:
        if not array.any():
            return self.rng.normal(size=array.shape)
        return array * (1 + MOVED * self.rng.normal(size=array.shape))

    def _direction(self, array: np.ndarray) -> np.ndarray:
        return np.abs(array) * self.rng.normal(size=array.shape)

    def difference(self) -> Difference:
        by_rule, by_values = map(np.array, zip(*self._products(), strict=True))
        name = f"rules:{self.node.op_type} ({self.node.name or self.node.output[0]})"
        return difference("disabled", name, by_rule, by_values)

    def _products(self) -> Iterator[tuple[float, float]]:
        """(<v, t>, <c, f'(x) t>) for DIRECTIONS directions and each output that can carry a gradient."""
        node = Node(self.node, self.opset, self.values)
        made = node.compute(self.values)
        outputs = [name for name in self.node.output if name in self.read and _is_real(made[name])]
        rules = {name: self._vjp(name, made, node.compute.single) for name in outputs[:MANY]}
        for _ in range(DIRECTIONS):
            t = {
                name: np.abs(self.values[name]) * self.rng.normal(size=self.values[name].shape) for name in self.moving
            }
            derivatives = node.tangents(t)
            for name, rule in rules.items():
                c = self.rng.normal(size=made[name].shape)
                v = rule({**self.values, "cotangent": c})
                by_rule = sum(float((v[f"gradient:{moved}"] * t[moved]).sum()) for moved in self.moving)
                yield by_rule, float((c * derivatives[name]).sum())

    def _vjp(self, output: str, made: Arrays, single: bool) -> Computation:
        """The node with the rule's nodes behind it: values and `cotangent` to `gradient:INPUT`."""
        graph = self._graph(output, made, single)
        feeds = {**self.values, "cotangent": made[output]}
        return computation(graph, self.opset, feeds)

    def _graph(self, output: str, made: Arrays, single: bool) -> onnx.GraphProto:
        real = ir.DataType.FLOAT if single else ir.DataType.DOUBLE
        values = {name: _value(name, array, real, name not in self.moving) for name, array in self.values.items()}
        inputs = [values[name] if name else None for name in self.node.input]
        attributes = [ir.from_proto(attribute) for attribute in self.node.attribute]
        again = ir.Node("", self.node.op_type, inputs, attributes=attributes, num_outputs=len(self.node.output))
        for value, name in zip(again.outputs, self.node.output, strict=True):
            value.name = name
            if name in made:
                value.shape, value.type = ir.Shape(made[name].shape), ir.TensorType(_type(made[name], real))
        seed = ir.val("cotangent", real, list(made[output].shape))
        fixed = [value for value in values.values() if value.const_value is not None]
        graph = ir.Graph(
            [*(value for value in values.values() if value.const_value is None), seed], [], nodes=[again],
            initializers=fixed, opset_imports={"": self.opset}, name="rule",
        )  # fmt: skip
        op = Emitter(graph)
        score = next(value for value in again.outputs if value.name == output)
        gradients = backward(graph, self.opset, score, seed, [values[name] for name in self.moving], op)
        for name, gradient in zip(self.moving, gradients, strict=True):
            named = op.Identity(gradient)
            named.name = f"gradient:{name}"
            graph.outputs.append(named)
        return ir.to_proto(graph)


def _value(name: str, array: np.ndarray, real: ir.DataType, fixed: bool) -> ir.Value:
    dtype = _type(array, real)
    value = ir.val(name, dtype, list(array.shape))
    if fixed:
        value.const_value = ir.from_proto(numpy_helper.from_array(array.astype(dtype.numpy()), name))
    return value


def _type(array: np.ndarray, real: ir.DataType) -> ir.DataType:
    return real if _is_real(array) else ir.DataType.from_numpy(array.dtype)


def _is_real(array: np.ndarray) -> bool:
    return np.issubdtype(array.dtype, np.floating)

"""Gradients of an exported graph against the derivative of the score along directions, node by node.

Nothing of the gradient rules is used. The part of the graph behind a CAM layer is run once, at a generic point: the
layer's activations moved by MOVED of their standard deviation, so that no unit stands at a kink, and none leaves the
half-line on which a rectifier left them. From the values of that run a direction at the layer is carried to the score
through the derivative of every node (`export.proof.nodes`), and must change the score as the gradient says:

    <G, t> = Y'(A) t

The masks of rectifiers are those of the run itself, so that rounding switches none, and no step is taken across any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import numpy_helper

from export.proof.adjoints import check_rules
from export.proof.nodes import Arrays, Node
from export.proof.parity import Difference, difference
from export.proof.sessions import open_session, run

DIRECTIONS = 2
MANY = 4_000_000  # numbers behind the layer, of all images together
MOVED = 1e-3
STEP = 1e-6  # of the differences between scores, in float64

Score = Callable[[np.ndarray], np.ndarray]  # (N, K) logits -> (N,) explained scores


@dataclass(frozen=True)
class Tail:
    """The part of an exported graph behind one CAM layer.

    nodes: those between the layer and the logits, in order; `varying` the tensors that they make, and the layer's
    """

    model: onnx.ModelProto
    layer: str
    gradients: str
    nodes: list[onnx.NodeProto]
    varying: set[str]

    @classmethod
    def of(cls, model: onnx.ModelProto, layer: str, gradients: str) -> Tail:
        varying = {layer}
        reached = []
        for node in model.graph.node:
            if layer not in node.output and varying & set(node.input):
                varying.update(node.output)
                reached.append(node)
        needed, nodes = {"logits"}, []
        for node in reversed(reached):
            if needed & set(node.output):
                needed.update(node.input)
                nodes.append(node)
        return cls(model, layer, gradients, nodes[::-1], varying)

    @property
    def opset(self) -> int:
        return next(entry.version for entry in self.model.opset_import if not entry.domain)

    def at(self, a: np.ndarray, images: np.ndarray, target: np.ndarray) -> Arrays:
        """Gradients, logits and every input of the nodes where the layer holds `a`."""
        weights = {tensor.name: tensor for tensor in self.model.graph.initializer}
        names = dict.fromkeys(name for node in self.nodes for name in node.input if name)
        computed = [name for name in names if name not in weights and name not in (self.layer, "image", "target")]
        wanted = list(dict.fromkeys([*computed, "logits", self.gradients]))
        session = open_session(_extracted(self.model, self.layer, wanted).SerializeToString(), "disabled")
        feeds = {self.layer: a, "image": images, "target": target}
        asked = {value.name for value in session.get_inputs()}
        found = run(session, {name: array for name, array in feeds.items() if name in asked}, wanted)
        constants = {name: numpy_helper.to_array(weights[name]) for name in names if name in weights}
        return {**found, **constants, **feeds}


def _extracted(model: onnx.ModelProto, layer: str, outputs: list[str]) -> onnx.ModelProto:
    """The model with the layer as an input in place of the nodes that make it, and any tensors as outputs."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    nodes = [node for node in model.graph.node if layer not in node.output]
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed & set(node.output):
            needed.update(node.input)
            kept.append(node)
    del made.graph.node[:], made.graph.output[:], made.graph.value_info[:]
    made.graph.node.extend(kept[::-1])
    made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    shape = next(value for value in (*model.graph.output, *model.graph.value_info) if value.name == layer)
    made.graph.input.append(shape)
    return made


def check_gradients(
    tail: Tail,
    a: np.ndarray,
    images: np.ndarray,
    target: np.ndarray,
    score: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> list[Difference]:
    """The gradients of one layer, `slopes:LAYER`, and every kind of rule that they were made with, `rules:...`.

    Of large networks fewer images are taken, one at least.

    :param a: activations (N, C, h, w) of the layer for the images.
    :param score: logits (N, K) and targets (N,) to the explained scores (N,).
    """
    values = tail.at(generic(a[:1]), images[:1], target[:1])
    count = max(1, min(len(images), MANY // sum(values[name].size for name in tail.varying if name in values)))
    if count > 1:
        values = tail.at(generic(a[:count]), images[:count], target[:count])
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(DIRECTIONS, *a[:count].shape)) * (float(a.std()) or 1.0)
    gradient = values[tail.gradients].astype(np.float64)
    by_gradient = (gradient * directions).sum(axis=(2, 3, 4))  # (DIRECTIONS, N)
    found = _slopes(tail, values, directions, lambda logits: score(logits, target[:count]))
    usual = np.linalg.norm(gradient.reshape(count, -1), axis=1) * (float(a.std()) or 1.0)  # size of <G, t>
    slopes = _difference(f"slopes:{tail.layer}", by_gradient, found, usual)
    return [slopes, *check_rules(tail.nodes, tail.opset, values, tail.varying)]


def _difference(name: str, by_gradient: np.ndarray, by_values: np.ndarray, usual: np.ndarray) -> Difference:
    """Relative to the size that slopes usually have: along some directions they cancel."""
    apart = float(np.linalg.norm((by_gradient - by_values) / usual) / np.sqrt(by_gradient.size))
    return replace(difference("disabled", name, by_gradient, by_values), relative_l2=apart)


def generic(a: np.ndarray) -> np.ndarray:
    """Activations moved at random to where no two are alike and none is zero; none becomes negative where none was."""
    rng = np.random.default_rng(1)
    distance = rng.uniform(0.5, 1.5, a.shape) * MOVED * (float(a.std()) or 1.0)  # far beyond the steps of differences
    return (a + (distance if a.min() >= 0 else distance * rng.choice([-1, 1], a.shape))).astype(np.float32)


def _slopes(tail: Tail, values: Mapping[str, np.ndarray], directions: np.ndarray, score: Score) -> np.ndarray:
    """(DIRECTIONS, N) derivatives of the explained scores along directions of the layer."""
    carried: list[Arrays] = [{tail.layer: direction} for direction in directions]
    for node in tail.nodes:
        at = Node(node, tail.opset, values)
        for tangents in carried:
            if moving := {name: tangents[name] for name in node.input if name in tangents}:
                tangents.update(at.tangents(moving))
    return np.array([_slope(values["logits"].astype(np.float64), tangents["logits"], score) for tangents in carried])


def _slope(logits: np.ndarray, direction: np.ndarray, score: Score) -> np.ndarray:
    step = STEP * (float(np.abs(logits).mean()) or 1.0) / (float(np.abs(direction).mean()) or 1.0)
    return (score(logits + step * direction) - score(logits - step * direction)) / (2 * step)

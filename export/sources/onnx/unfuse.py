"""Operators that ONNX Runtime's optimiser and some exporters write, spelled in standard ones.

    Gelu, BiasGelu      x Phi(x), Phi by Erf
    FastGelu            0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
    QuickGelu           x sigmoid(alpha x)
    FusedConv           Conv, a summand, an activation
    FusedGemm           Gemm, an activation
    FusedMatMul         alpha A B, each transposed on request
    GroupNormalization  of opset 18, by InstanceNormalization of the groups
    (Skip)LayerNormalization, (Skip)SimplifiedLayerNormalization   of the sum of their inputs

The others of that domain are named in one sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import pi, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.proof.sessions import open_session, run
from harness.common.errors import InputError, first_line

FOREIGN = "com.microsoft"
PER_CHANNEL = 21  # the opset from which GroupNormalization scales channels; before, it scaled groups


@dataclass
class _Spelling:
    """Standard nodes in the place of one fused node, and the constants that they read."""

    node: onnx.NodeProto
    prefix: str
    ranks: dict[str, int]  # of the tensors that a FusedMatMul transposes
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        out = f"{self.prefix}/{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [out], name=out, **attributes))
        return out

    def number(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"{self.prefix}/constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def attribute(self, name: str, default: Any) -> Any:
        found = next((item for item in self.node.attribute if item.name == name), None)
        value = default if found is None else helper.get_attribute_value(found)
        return value.decode() if isinstance(value, bytes) else value

    def input(self, place: int) -> str:
        """The name of an input, empty where it is left out."""
        return self.node.input[place] if place < len(self.node.input) else ""

    def end(self, value: str, place: int = 0) -> None:
        """Let a value be an output of the fused node, where that is read."""
        if place < len(self.node.output) and self.node.output[place]:
            self.nodes.append(helper.make_node("Identity", [value], [self.node.output[place]]))


def name_domain_of_fused(proto: onnx.ModelProto) -> None:
    """Some of them stand in ONNX's own domain, which knows nothing of them; or no longer, as GroupNormalization-18."""
    opset = next((entry.version for entry in proto.opset_import if not entry.domain), 0)
    names = _MISPLACED | ({"GroupNormalization"} if opset < PER_CHANNEL else set())
    misplaced = [node for node in proto.graph.node if node.op_type in names]
    for node in misplaced:
        node.domain = FOREIGN
    if misplaced and all(entry.domain != FOREIGN for entry in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(FOREIGN, 1))


def spell_fused_operators(path: Path, proto: onnx.ModelProto) -> None:
    """Replace every operator of that domain that has a spelling.

    :raises InputError: naming those that have none.
    """
    fused = [node for node in proto.graph.node if node.domain == FOREIGN]
    unknown = sorted({node.op_type for node in fused if node.op_type not in _SPELLINGS})
    if unknown:
        raise InputError(
            f"{path}: has fused operators of {FOREIGN} that have no standard form here ({', '.join(unknown)}); export "
            "the model without ONNX Runtime's optimisations"
        )
    ranks = _ranks(path, proto, [name for node in fused if node.op_type == "FusedMatMul" for name in node.input])
    spelled = [_spelled(node, number, ranks) for number, node in enumerate(fused)]
    replaced = {id(node): spelling.nodes for node, spelling in zip(fused, spelled, strict=True)}
    nodes = [made for node in proto.graph.node for made in replaced.get(id(node), [node])]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    if fused:
        del proto.graph.node[:]
        proto.graph.node.extend(kept)
        proto.graph.initializer.extend(tensor for spelling in spelled for tensor in spelling.constants)


def _ranks(path: Path, proto: onnx.ModelProto, names: list[str]) -> dict[str, int]:
    """How many axes some tensors have, by a run on zeros."""
    if not names:
        return {}
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names))
    feeds = {
        value.name: np.zeros([axis.dim_value or 1 for axis in value.type.tensor_type.shape.dim], np.float32)
        for value in proto.graph.input
    }
    try:
        found = run(open_session(watched.SerializeToString(), "disabled"), feeds)
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        raise InputError(f"{path}: ONNX Runtime cannot run it ({first_line(error)})") from error
    return {name: array.ndim for name, array in found.items()}


def _spelled(node: onnx.NodeProto, number: int, ranks: dict[str, int]) -> _Spelling:
    spelling = _Spelling(node, f"{node.name or node.op_type}/spelled_{number}", ranks)
    _SPELLINGS[node.op_type](spelling)
    return spelling


def _erf_gelu(s: _Spelling, x: str) -> str:
    inner = s.add("Add", s.add("Erf", s.add("Div", x, s.number(sqrt(2)))), s.number(1))
    return s.add("Mul", s.add("Mul", x, s.number(0.5)), inner)


def _gelu(s: _Spelling) -> None:
    s.end(_erf_gelu(s, s.input(0)))


def _bias_gelu(s: _Spelling) -> None:
    s.end(_erf_gelu(s, s.add("Add", s.input(0), s.input(1))))


def _fast_gelu(s: _Spelling) -> None:
    x = s.add("Add", s.input(0), s.input(1)) if s.input(1) else s.input(0)
    cubed = s.add("Mul", s.add("Mul", x, s.add("Mul", x, x)), s.number(0.044715))
    inner = s.add("Tanh", s.add("Mul", s.add("Add", x, cubed), s.number(sqrt(2 / pi))))
    s.end(s.add("Mul", s.add("Mul", x, s.number(0.5)), s.add("Add", inner, s.number(1))))


def _quick_gelu(s: _Spelling) -> None:
    x = s.input(0)
    s.end(s.add("Mul", x, s.add("Sigmoid", s.add("Mul", x, s.number(s.attribute("alpha", 1.702))))))


def _activated(s: _Spelling, x: str) -> str:
    """x behind the activation that the fused node names."""
    name, parameters = s.attribute("activation", ""), list(s.attribute("activation_params", []))
    if name == "Clip":
        return s.add("Clip", x, *map(s.number, parameters))
    attributes = dict(
        zip({"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta")}.get(name, ()), parameters, strict=False)
    )
    return s.add(name, x, **attributes) if name else x


_CONVOLUTION = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def _fused_conv(s: _Spelling) -> None:
    attributes = {name: value for name in _CONVOLUTION if (value := s.attribute(name, None)) is not None}
    made = s.add("Conv", s.input(0), s.input(1), *filter(None, [s.input(2)]), **attributes)
    s.end(_activated(s, s.add("Add", made, s.input(3)) if s.input(3) else made))


def _fused_gemm(s: _Spelling) -> None:
    names = ("alpha", "beta", "transA", "transB")
    attributes = {name: value for name in names if (value := s.attribute(name, None)) is not None}
    made = s.add("Gemm", s.input(0), s.input(1), *filter(None, [s.input(2)]), **attributes)
    parameters = [s.attribute(name, None) for name in ("activation_alpha", "activation_beta")]
    s.node.attribute.append(
        helper.make_attribute("activation_params", [p for p in parameters if p is not None] or [0.0])
    )
    s.end(_activated(s, made))


def _fused_matmul(s: _Spelling) -> None:
    if s.attribute("transBatchA", 0) or s.attribute("transBatchB", 0):
        raise InputError(f"node {s.node.name!r}: FusedMatMul with transBatchA or transBatchB has no standard form here")
    a, b = (
        s.add("Transpose", s.input(place), perm=_swapped(s.ranks[s.input(place)]))
        if s.attribute(name, 0)
        else s.input(place)
        for place, name in enumerate(("transA", "transB"))
    )
    s.end(s.add("Mul", s.add("MatMul", a, b), s.number(s.attribute("alpha", 1.0))))


def _swapped(rank: int) -> list[int]:
    return [*range(rank - 2), rank - 1, rank - 2]


def _summed(s: _Spelling, *places: int) -> str:
    first, *others = [s.input(place) for place in places if s.input(place)]
    for other in others:
        first = s.add("Add", first, other)
    return first


def _skip_layer_normalization(s: _Spelling) -> None:
    total = _summed(s, 0, 1, 4)
    scaled = s.add(
        "LayerNormalization", total, s.input(2), *filter(None, [s.input(3)]), epsilon=s.attribute("epsilon", 1e-5)
    )
    s.end(scaled)
    s.end(total, 3)


def _simplified_layer_normalization(s: _Spelling) -> None:
    s.end(_by_root_mean_square(s, s.input(0), s.input(1)))


def _skip_simplified_layer_normalization(s: _Spelling) -> None:
    total = _summed(s, 0, 1, 3)
    s.end(_by_root_mean_square(s, total, s.input(2)))
    s.end(total, 3)


def _by_root_mean_square(s: _Spelling, x: str, scale: str) -> str:
    """x / sqrt(mean(x^2) + epsilon) scale, over the last axis."""
    mean = s.add("ReduceMean", s.add("Mul", x, x), s.number([-1], np.int64), keepdims=1)
    root = s.add("Sqrt", s.add("Add", mean, s.number(s.attribute("epsilon", 1e-5))))
    return s.add("Mul", s.add("Div", x, root), scale)


def _group_normalization(s: _Spelling) -> None:
    """Of opset 18: every group normalised, scaled and shifted as if it were a channel."""
    groups = s.add("Reshape", s.input(0), s.number([0, s.attribute("num_groups", 1), -1], np.int64))
    epsilon = s.attribute("epsilon", 1e-5)
    normed = s.add("InstanceNormalization", groups, s.input(1), s.input(2), epsilon=epsilon)
    s.end(s.add("Reshape", normed, s.add("Shape", s.input(0))))


_SPELLINGS: dict[str, Callable[[_Spelling], None]] = {
    "Gelu": _gelu,
    "BiasGelu": _bias_gelu,
    "FastGelu": _fast_gelu,
    "QuickGelu": _quick_gelu,
    "GroupNormalization": _group_normalization,
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "FusedMatMul": _fused_matmul,
    "SkipLayerNormalization": _skip_layer_normalization,
    "SimplifiedLayerNormalization": _simplified_layer_normalization,
    "SkipSimplifiedLayerNormalization": _skip_simplified_layer_normalization,
}
_MISPLACED = {"SimplifiedLayerNormalization"}

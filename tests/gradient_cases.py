"""The cases of every gradient rule: shapes, attributes, broadcasting, odd sizes, asymmetric padding, ties."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from export.autodiff.engine import OPSETS
from tests.gradient_checks import Case


def values(*shape: int, low: float = -2.0, high: float = 2.0, seed: int = 0) -> np.ndarray:
    """Evenly spread numbers in random order: no two are equal, none is a whole or half number, other seeds differ."""
    count = int(np.prod(shape))
    spread = np.linspace(low, high, count, dtype=np.float64) + 1e-3 * np.e + 1e-2 * np.pi * seed
    return np.random.default_rng(seed + count).permutation(spread).reshape(shape)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


MAPS = (2, 3, 5, 7)


def _broadcasting(operator: str, low: float = -2.0) -> list[Case]:
    pairs: list[tuple[Any, Any]] = [((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1, 4), (3, 1)), ((1,), (2, 2)), ((2, 3), ())]
    return [Case(operator, [values(*a, low=low), values(*b, low=low, seed=1)], active=(0, 1)) for a, b in pairs]


def _conv(x: tuple[int, ...], w: tuple[int, ...], **attributes: Any) -> Case:
    return Case("Conv", [values(*x), values(*w, seed=1), values(w[0], seed=2)], attributes, dynamic=True)


def _transposed(x: tuple[int, ...], w: tuple[int, ...], **attributes: Any) -> Case:
    bias = w[1] * attributes.get("group", 1)
    return Case("ConvTranspose", [values(*x), values(*w, seed=1), values(bias, seed=2)], attributes, dynamic=True)


def _resize(x: tuple[int, ...], scales: Any = None, sizes: Any = None, **attributes: Any) -> Case:
    scales = None if scales is None else np.array(scales, np.float32)
    return Case("Resize", [values(*x), None, scales, *([] if sizes is None else [ints(*sizes)])], attributes)


def _pool(operator: str, x: tuple[int, ...], opset: int = 18, **attributes: Any) -> Case:
    return Case(operator, [values(*x)], attributes, dynamic=True, opset=opset)


ELEMENTWISE = [
    *(case for operator in ("Add", "Sub", "Mul") for case in _broadcasting(operator)),
    *(case for operator in ("Div", "Pow") for case in _broadcasting(operator, low=0.3)),
    Case("Pow", [values(2, 3), np.float64(2)]),
    Case("Pow", [values(2, 3), np.array([3], np.int64)], label="integer exponent"),
    Case("Pow", [values(2, 3), np.float64(0)], label="zeroth power"),
    Case("Mean", [values(2, 3), values(3, seed=1), values(2, 1, seed=2)], active=(0, 1, 2)),
    Case("Where", [np.array([[True], [False]]), values(2, 3), values(3, seed=1)], active=(1, 2)),
    *(Case(operator, [values(3, 4)]) for operator in ("Abs", "Exp", "Sigmoid", "Softplus", "Tanh", "HardSwish")),
    *(Case(operator, [values(3, 4, low=0.3)]) for operator in ("Sqrt", "Log", "Reciprocal")),
    Case("HardSwish", [values(3, 4, low=-5, high=5)], label="beyond the limits"),
    *(
        Case(operator, [values(3, 4, low=-4, high=4)], attributes)
        for operator in ("LeakyRelu", "Elu", "HardSigmoid")
        for attributes in ({}, {"alpha": 0.3})
    ),
    Case("HardSigmoid", [values(3, 4)], {"alpha": 0.6, "beta": 0.4}),
    Case("PRelu", [values(*MAPS), values(3, 1, 1, low=0.1, seed=1)], active=(0, 1), dynamic=True),
    Case("PRelu", [values(2, 3), values(1, low=0.1, seed=1)], active=(0, 1)),
    Case("Cast", [values(2, 3)], {"to": 11}, label="float64 to float64"),
    Case("CastLike", [values(2, 3), values(1, seed=1)]),
    Case("Sum", [values(2, 3), values(3, seed=1), values(2, 1, seed=2)], active=(0, 1, 2)),
    Case("Sum", [values(2, 3)]),
    Case("Max", [values(2, 3), values(3, seed=1), values(2, 1, seed=2)], active=(0, 1, 2)),
    Case("Min", [values(2, 3), values(3, seed=1), values(2, 1, seed=2)], active=(0, 1, 2)),
    Case("Identity", [values(2, 3)]),
    Case("Dropout", [values(2, 3)]),
    Case("Neg", [values(2, 3)]),
    Case("Relu", [values(*MAPS)], dynamic=True),
    Case("Clip", [values(*MAPS), np.float64(-1), np.float64(1)], dynamic=True),
    Case("Clip", [values(3, 4), np.float64(-1)]),
    Case("Clip", [values(3, 4), None, np.float64(1)]),
    Case("Clip", [values(3, 4)]),
]
LINEAR = [
    Case("MatMul", [values(2, 3), values(3, 4, seed=1)], active=(0, 1)),
    Case("MatMul", [values(2, 3, 4), values(4, 5, seed=1)], active=(0, 1)),
    Case("MatMul", [values(2, 1, 3, 4), values(5, 4, 2, seed=1)], active=(0, 1)),
    Case("MatMul", [values(2, 3, 4), values(4, seed=1)], active=(0, 1), label="with a vector"),
    Case("MatMul", [values(4), values(2, 4, 3, seed=1)], active=(0, 1), label="of a vector"),
    Case("MatMul", [values(4), values(4, seed=1)], active=(0, 1), label="of vectors"),
    *(
        Case(
            "Gemm",
            [values(*((3, 2) if a else (2, 3))), values(*((4, 3) if b else (3, 4)), seed=1), values(4, seed=2)],
            {"alpha": 0.5, "beta": 1.5, "transA": a, "transB": b},
            active=(0, 1, 2),
        )
        for a in (0, 1)
        for b in (0, 1)
    ),
    Case("Gemm", [values(2, 3), values(3, 4, seed=1)], active=(0, 1)),
    Case(
        "BatchNormalization",
        [values(*MAPS), values(3, seed=1), values(3, seed=2), values(3, seed=3), values(3, low=0.5, seed=4)],
        {"epsilon": 1e-3},
        dynamic=True,
    ),
]
CONVOLUTION = [
    Case("Col2Im", [values(2, 12, 6), ints(3, 4), ints(2, 2)]),
    Case(
        "Col2Im",
        [values(1, 18, 4), ints(5, 6), ints(3, 3)],
        {"strides": [2, 3], "dilations": [1, 2], "pads": [0, 1, 1, 1]},
    ),
    _transposed((2, 3, 4, 5), (3, 2, 3, 3)),
    _transposed((2, 3, 4, 5), (3, 2, 3, 2), strides=[2, 3], pads=[1, 0, 1, 1], output_padding=[1, 0]),
    _transposed((2, 4, 4, 5), (4, 3, 3, 3), group=2, strides=[2, 2], pads=[1, 1, 1, 1]),
    _transposed((2, 3, 4, 4), (3, 2, 3, 3), dilations=[2, 2]),
    _transposed((1, 2, 5), (2, 2, 3), strides=[2], pads=[1, 0]),
    _conv((2, 3, 5, 7), (4, 3, 3, 3), pads=[1, 1, 1, 1]),
    _conv((2, 3, 5, 7), (4, 3, 3, 3)),
    _conv((2, 3, 5, 7), (4, 3, 1, 1)),
    _conv((1, 3, 6, 7), (4, 3, 2, 3), pads=[0, 2, 1, 0]),
    _conv((2, 3, 6, 7), (4, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1]),
    _conv((2, 3, 6, 8), (4, 3, 3, 2), strides=[3, 2], pads=[0, 0, 1, 1]),
    _conv((2, 3, 8, 9), (2, 3, 3, 3), dilations=[2, 2], pads=[2, 2, 2, 2]),
    _conv((2, 3, 8, 9), (2, 3, 3, 3), dilations=[2, 1], strides=[1, 2]),
    _conv((2, 4, 5, 5), (6, 2, 3, 3), group=2, pads=[1, 1, 1, 1]),
    _conv((2, 4, 5, 5), (6, 2, 3, 3), group=2, strides=[2, 2]),
    _conv((2, 3, 5, 5), (3, 1, 3, 3), group=3, pads=[1, 1, 1, 1]),
    _conv((2, 3, 5, 5), (6, 1, 3, 3), group=3),
    _conv((1, 2, 4, 4), (2, 2, 1, 1), pads=[1, 1, 1, 1]),
    _conv((2, 2, 6, 5), (3, 2, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
    _conv((2, 2, 6, 5), (3, 2, 2, 2), auto_pad="SAME_LOWER"),
    _conv((2, 2, 6, 5), (3, 2, 2, 2), auto_pad="VALID", strides=[2, 2]),
    _conv((2, 2, 9), (3, 2, 3), strides=[2]),
    _conv((1, 2, 4, 3, 5), (2, 2, 2, 2, 2)),
]
POOLING = [
    *(
        _pool("AveragePool", (2, 2, 6, 7), **attributes, **more)
        for more in ({}, {"count_include_pad": 1})
        for attributes in (
            {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
            {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]},
            {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1},
            {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"},
        )
    ),
    _pool("AveragePool", (2, 3, 4, 6), kernel_shape=[2, 3], strides=[2, 3]),
    _pool("AveragePool", (2, 2, 8, 9), opset=19, kernel_shape=[2, 2], dilations=[2, 3]),
    _pool("MaxPool", (2, 2, 6, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    _pool("MaxPool", (2, 2, 6, 7), kernel_shape=[3, 2], pads=[1, 0, 1, 1]),
    _pool("MaxPool", (2, 2, 7, 7), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    _pool("MaxPool", (2, 2, 7, 8), kernel_shape=[1, 1], strides=[2, 2]),
    _pool("MaxPool", (2, 2, 8, 9), kernel_shape=[2, 2], dilations=[2, 2]),
    _pool("MaxPool", (2, 2, 6, 7), kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    _pool("GlobalAveragePool", MAPS),
    _pool("GlobalAveragePool", (2, 3, 1, 1)),
    _pool("GlobalMaxPool", MAPS),
]
REDUCTION = [
    Case(operator, [values(*MAPS), axes], attributes, dynamic=True)
    for operator in ("ReduceMean", "ReduceSum")
    for axes, attributes in (
        (ints(2, 3), {"keepdims": 0}),
        (ints(2, 3), {}),
        (ints(-1), {"keepdims": 0}),
        (ints(1), {}),
        (ints(0, 2), {}),
    )
] + [
    *(
        Case("ReduceMax", [values(*MAPS), axes], attributes, dynamic=True)
        for axes, attributes in ((ints(2, 3), {"keepdims": 0}), (ints(-1), {}), (ints(1), {"keepdims": 0}))
    ),
    *(Case(name, [values(*MAPS)], {"axis": a}, dynamic=True) for name in ("Softmax", "LogSoftmax") for a in (1, -1)),
    Case("Softmax", [values(2, 3)]),
    Case("ReduceMean", [values(2, 3)], {"keepdims": 0}),
    Case("ReduceSum", [values(2, 3)], {"noop_with_empty_axes": 1}),
]
LAYOUT = [
    Case("Transpose", [values(*MAPS)], {"perm": [0, 2, 3, 1]}, dynamic=True),
    Case("Transpose", [values(2, 3)]),
    Case("Reshape", [values(2, 3, 4), ints(0, -1)], dynamic=True),
    Case("Reshape", [values(2, 6), ints(3, 4)]),
    Case("Flatten", [values(*MAPS)], dynamic=True),
    Case("Flatten", [values(2, 3, 4)], {"axis": 2}),
    Case("Squeeze", [values(2, 3, 1, 1), ints(2, 3)], dynamic=True),
    Case("Unsqueeze", [values(2, 3), ints(0, 3)]),
    Case("Pad", [values(*MAPS), ints(0, 0, 1, 2, 0, 0, 3, 0)], dynamic=True),
    Case("Pad", [values(3, 4), ints(1, -1, 0, 2), np.float64(7)]),
    Case("Pad", [values(3, 4), ints(1, 2), None, ints(1)]),
    Case("Pad", [values(*MAPS), ints(0, 0, 1, 2, 0, 0, 3, 0)], {"mode": "edge"}, dynamic=True),
    Case("Pad", [values(*MAPS), ints(0, 0, 1, 2, 0, 0, 3, 0)], {"mode": "reflect"}, dynamic=True),
    Case("Expand", [values(3, 1), ints(2, 3, 4)]),
    Case("Expand", [values(2, 1, 4), ints(1, 3, 1)], dynamic=True),
    Case("Slice", [values(*MAPS), ints(1, 0), ints(4, -1), ints(2, 3)], dynamic=True),
    Case("Slice", [values(*MAPS), ints(0, 6), ints(5, -100), ints(2, 3), ints(2, -2)], dynamic=True),
    Case("Slice", [values(5, 4), ints(-3, -100), ints(100, 3)]),
    Case("Split", [values(2, 6, 3), ints(1, 3, 2)], {"axis": 1}, outputs=3, dynamic=True),
    Case("Split", [values(2, 6)], {"axis": -1, "num_outputs": 3}, outputs=3),
    Case("Concat", [values(2, 3, 4), values(2, 1, 4, seed=1), values(2, 2, 4, seed=2)], {"axis": 1}, active=(0, 1, 2)),
    Case("Concat", [values(2, 3), values(2, 2, seed=1)], {"axis": -1}, active=(1,)),
]
RESIZE = [
    _resize((1, 2, 3, 4), scales=[1, 1, 2, 2]),
    _resize((1, 2, 3, 4), scales=[1, 1, 2, 3], nearest_mode="floor", coordinate_transformation_mode="asymmetric"),
    _resize((1, 2, 6, 8), scales=[1, 1, 0.5, 0.4], nearest_mode="round_prefer_ceil"),
    _resize((1, 2, 3, 4), sizes=[1, 2, 5, 9], mode="linear"),
    _resize((1, 2, 5, 7), sizes=[1, 2, 3, 4], mode="linear", coordinate_transformation_mode="align_corners"),
    _resize((1, 2, 3, 4), scales=[1, 1, 2, 2], mode="linear", coordinate_transformation_mode="asymmetric"),
    _resize((1, 2, 3, 4), scales=[1, 1, 2.5, 2], mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
    _resize((1, 2, 3, 4), scales=[2, 1.5], mode="linear", axes=[2, 3]),
    *(
        Case(
            "GridSample",
            [values(2, 3, 4, 5), values(2, 3, 2, 2, low=-1.2, high=1.2, seed=1)],
            {"mode": mode, "padding_mode": edge, "align_corners": corners},
            opset=20,
        )
        for mode in ("linear", "nearest", "cubic")
        for edge, corners in (("zeros", 0), ("border", 1), ("reflection", 0))
        if (mode, edge) != ("cubic", "border")  # ONNX's reference reads other pixels there than ONNX Runtime
    ),
    _resize((1, 2, 6, 7), sizes=[1, 2, 3, 4], mode="linear", antialias=1),
    _resize((1, 2, 4, 5), sizes=[1, 2, 6, 3], mode="cubic"),
    _resize((1, 2, 4, 5), scales=[1, 1, 1.5, 2], mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1),
    _resize((1, 2, 7, 8), sizes=[1, 2, 3, 4], mode="cubic", antialias=1),
]
RESPONSE = [
    Case("LRN", [values(*MAPS)], {"size": 3, "alpha": 0.5, "beta": 0.6, "bias": 1.5}, dynamic=True),
    Case("LRN", [values(1, 7, 2, 2)], {"size": 5, "alpha": 0.3}),
]
ACTIVATIONS = [
    *(
        Case(operator, [values(3, 4, low=-4, high=4)], attributes)
        for operator, choices in {
            "Celu": ({}, {"alpha": 0.4}),
            "Selu": ({}, {"alpha": 1.2, "gamma": 1.5}),
            "ThresholdedRelu": ({}, {"alpha": 0.25}),
            "Shrink": ({}, {"lambd": 1.2, "bias": 0.4}),
            "Mish": ({},),
            "Softsign": ({},),
            "Erf": ({},),
        }.items()
        for attributes in choices
    ),
    *(Case("Gelu", [values(3, 4, low=-4, high=4)], {"approximate": kind}, opset=20) for kind in ("none", "tanh")),
    *(Case("Swish", [values(3, 4)], attributes, opset=24) for attributes in ({}, {"alpha": 1.7})),
]
TRIGONOMETRY = [
    *(Case(operator, [values(3, 4)]) for operator in ("Sin", "Cos", "Sinh", "Cosh", "Atan", "Asinh")),
    Case("Tan", [values(3, 4, low=-1.2, high=1.2)]),
    *(Case(operator, [values(3, 4, low=-0.9, high=0.9)]) for operator in ("Asin", "Acos", "Atanh")),
    Case("Acosh", [values(3, 4, low=1.2, high=3)]),
    Case("Mod", [values(2, 3, low=-5, high=5), values(3, low=1.3, seed=1)], {"fmod": 1}, active=(0, 1)),
    Case("Mod", [values(2, 3, low=-5, high=5), values(3, low=-3, high=-1.3, seed=1)], {"fmod": 1}, active=(0, 1)),
]
NORMALIZATION = [
    *(
        Case("LayerNormalization", [values(2, 3, 4), values(*shape, seed=1), values(*shape, seed=2)], {"axis": axis},
             active=(0, 1, 2), dynamic=False)
        for axis, shape in ((-1, (4,)), (1, (3, 4)))
    ),
    Case("LayerNormalization", [values(2, 3, 4), values(4, seed=1)], {"epsilon": 0.3}, dynamic=True),
    Case("LayerNormalization", [values(2, 3, 4), values(1, 1, 4, seed=1)], active=(0, 1), label="leading ones"),
    *(
        Case("RMSNormalization", [values(2, 3, 4), values(*shape, seed=1)], {"axis": axis, "epsilon": 0.1},
             active=(0, 1), opset=23)
        for axis, shape in ((-1, (4,)), (1, (3, 4)))
    ),
    Case("InstanceNormalization", [values(*MAPS), values(3, seed=1), values(3, seed=2)], {"epsilon": 0.1},
         dynamic=True),
    Case("InstanceNormalization", [values(2, 3, 4), values(3, seed=1), values(3, seed=2)]),
    *(
        Case("GroupNormalization", [values(2, 4, 3, 2), values(4, seed=1), values(4, seed=2)], {"num_groups": groups},
             dynamic=True, opset=21)
        for groups in (1, 2, 4)
    ),
    *(
        Case("LpNormalization", [values(2, 3, 4)], {"p": order, "axis": axis}, dynamic=True)
        for order in (1, 2)
        for axis in (-1, 1)
    ),
]  # fmt: skip
NORMS = [
    *(
        Case(operator, [values(*MAPS, low=low), axes], attributes, dynamic=True)
        for operator, low in {
            "ReduceMin": -2.0,
            "ReduceL1": -2.0,
            "ReduceL2": -2.0,
            "ReduceSumSquare": -2.0,
            "ReduceLogSumExp": -2.0,
            "ReduceLogSum": 0.3,
            "ReduceProd": 0.3,
        }.items()
        for axes, attributes in ((ints(2, 3), {"keepdims": 0}), (ints(-1), {}), (ints(1), {"keepdims": 0}))
    ),
    *(
        Case(operator, [values(2, 3, low=0.3)], {"keepdims": 0})
        for operator in ("ReduceMin", "ReduceL2", "ReduceProd", "ReduceLogSumExp")
    ),
    Case("ReduceProd", [np.array([[0.0, 2.0, 3.0], [0.0, 0.0, 5.0], [1.0, 2.0, -3.0]]), ints(1)], label="zeros"),
    *(
        Case("LpPool", [values(2, 2, 6, 7)], {"p": order, **attributes}, dynamic=True, outputs=1)
        for order in (1, 2, 3)
        for attributes in (
            {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
            {"kernel_shape": [2, 2], "strides": [2, 2]},
            {"kernel_shape": [2, 3], "strides": [2, 2], "dilations": [2, 1]},
        )
    ),
    *(_pool("GlobalLpPool", MAPS, p=order) for order in (1, 2, 3)),
    *(
        Case("CumSum", [values(2, 3, 4), np.int64(axis)], {"exclusive": exclusive, "reverse": reverse}, dynamic=True)
        for axis, exclusive, reverse in ((1, 0, 0), (-1, 1, 0), (2, 0, 1), (1, 1, 1))
    ),
]
UNSORTED = np.array([[2, 0, 1], [1, 2, 0]], np.int64)
INDEXING = [
    *(
        Case("Gather", [values(2, 4, 3), indices], {"axis": axis}, dynamic=axis != 0)
        for indices, axis in (
            (np.int64(0), 1),
            (np.int64(-1), 1),
            (ints(1, 2), 1),
            (ints(2, 0, 2, -1), 1),
            (np.array([[0, 2], [1, 1]], np.int64), -1),
            (ints(1, 0, 1), 0),
        )
    ),
    Case("Gather", [values(5), ints(4, 0, 0)], label="a vector"),
    Case("Gather", [values(5), np.array([1, 3], np.int32)], label="narrow indices"),
    Case("Gather", [values(5), np.int64(3)], label="a vector, one element"),
    *(
        Case("GatherElements", [values(2, 3), UNSORTED], {"axis": axis}) for axis in (1, -1)
    ),
    Case("GatherElements", [values(4, 3), np.array([[3, -1, 0], [3, 2, 0]], np.int64)], {"axis": 0}),
    Case("GatherND", [values(3, 4, 2), np.array([[0, 1], [2, 3], [0, 1]], np.int64)]),
    Case("GatherND", [values(3, 4, 2), np.array([[1], [1], [-1]], np.int64)], {"batch_dims": 1}),
    Case("GatherND", [values(2, 3, 4), np.array([[[1], [0], [3]], [[2], [2], [0]]], np.int64)], {"batch_dims": 2}),
    *(
        Case("ScatterElements", [values(3, 3, low=0.3), UNSORTED, values(2, 3, low=0.4, seed=1)],
             {"axis": 1, **({} if how == "none" else {"reduction": how})}, active=(0, 2))
        for how in ("none", "add", "mul", "max", "min")
    ),
    Case("ScatterElements", [values(3, 3), np.array([[0, 0, 2], [2, 1, 2]], np.int64), values(2, 3, seed=1)],
         {"axis": 0, "reduction": "add"}, active=(0, 2), label="repeated"),
    *(
        Case("ScatterND", [values(4, 3, low=0.3), np.array([[2], [0]], np.int64), values(2, 3, low=0.4, seed=1)],
             {} if how == "none" else {"reduction": how}, active=(0, 2))
        for how in ("none", "add", "mul", "max", "min")
    ),
    *(
        Case("TopK", [values(2, 5, 3), ints(2)], attributes, outputs=2)
        for attributes in ({"axis": 1}, {"axis": 1, "largest": 0}, {"axis": -1}, {"axis": 0})
    ),
    Case("Compress", [values(3, 4), np.array([True, False, True])], {"axis": 0}),
    Case("Compress", [values(3, 4), np.array([False, True, True])], {"axis": -1}, label="short condition"),
    Case("Compress", [values(2, 3), np.array([True, False, False, True, True])]),
    Case("ReverseSequence", [values(4, 3, 2), ints(4, 1, 2)]),
    Case("ReverseSequence", [values(3, 4, 2), ints(4, 1, 2)], {"batch_axis": 0, "time_axis": 1}),
]  # fmt: skip
REARRANGEMENT = [
    Case("Tile", [values(2, 3, 4), ints(1, 2, 3)], dynamic=True),
    Case("Tile", [values(2, 3), ints(2, 1)]),
    *(
        Case("Trilu", [values(2, 3, 4), *([] if k is None else [np.int64(k)])], attributes, dynamic=True)
        for k, attributes in ((None, {}), (1, {}), (-1, {"upper": 0}), (2, {"upper": 0}))
    ),
    *(
        Case("DepthToSpace", [values(2, 12, 2, 3)], {"blocksize": 2, **attributes}, dynamic=True)
        for attributes in ({}, {"mode": "CRD"})
    ),
    Case("SpaceToDepth", [values(2, 3, 4, 6)], {"blocksize": 2}, dynamic=True),
    *(
        Case("CenterCropPad", [values(2, 5, 4), ints(*size)], {"axes": [1, 2]}, dynamic=True)
        for size in ((3, 2), (2, 1), (8, 7), (7, 6), (4, 7))
    ),
    Case("CenterCropPad", [values(4, 5), ints(5, 2)]),
]
EINSUM = [
    Case("Einsum", [values(*shape, seed=number) for number, shape in enumerate(shapes)], {"equation": equation},
         active=tuple(range(len(shapes))))
    for equation, shapes in (
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("bhld,bhsd->bhls", [(2, 2, 3, 4), (2, 2, 5, 4)]),
        ("bij, bjk", [(2, 3, 4), (2, 4, 2)]),
        ("...ij,...kj->...ik", [(2, 2, 3, 4), (2, 2, 5, 4)]),
        ("nchw,c->nhw", [(2, 3, 2, 2), (3,)]),
        ("ij->j", [(3, 4)]),
        ("ij->ji", [(3, 4)]),
        ("i,j,k->ijk", [(2,), (3,), (4,)]),
        ("bij,bjk,kl->bil", [(2, 2, 3), (2, 3, 2), (2, 4)]),
        ("ij,ij->", [(2, 3), (2, 3)]),
        ("ba,ca", [(2, 3), (4, 3)]),
    )
]  # fmt: skip


def _attention(shapes: Any, *mask: Any, opset: int = 23, **attributes: Any) -> Case:
    inputs = [values(*shape, seed=number) for number, shape in enumerate(shapes)]
    return Case("Attention", [*inputs, *mask], attributes, active=(0, 1, 2), opset=opset)


_QKV = [(2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 6)]
_SHARED = [(2, 4, 3, 4), (2, 2, 5, 4), (2, 2, 5, 3)]
ATTENTION = [
    _attention(_QKV),
    _attention(_QKV, opset=24),
    _attention(_QKV, scale=0.3),
    _attention(_QKV, values(3, 5, seed=3)),
    _attention(_QKV, values(2, 1, 3, 5, seed=3) > 0),
    _attention(_QKV, is_causal=1),
    _attention(_QKV, np.array([[True] * 5, [False] * 5, [True, False, True, False, False]])),
    _attention(_SHARED),
    _attention([(2, 3, 8), (2, 5, 8), (2, 5, 6)], q_num_heads=2, kv_num_heads=2),
    _attention([(2, 3, 8), (2, 5, 4), (2, 5, 6)], q_num_heads=4, kv_num_heads=2, is_causal=1),
    *(
        Case("RotaryEmbedding", [values(2, 3, 4, 6), values(4, 3, seed=1), values(4, 3, seed=2),
                                 np.array([[0, 1, 2, 3], [3, 2, 1, 0]])], {"interleaved": kind}, opset=23)
        for kind in (0, 1)
    ),
    Case("RotaryEmbedding", [values(2, 4, 12), values(2, 4, 2, seed=1), values(2, 4, 2, seed=2)],
         {"num_heads": 2, "rotary_embedding_dim": 4}, opset=23),
]  # fmt: skip
CASES = [
    *ACTIVATIONS,
    *TRIGONOMETRY,
    *NORMALIZATION,
    *NORMS,
    *INDEXING,
    *REARRANGEMENT,
    *EINSUM,
    *ATTENTION,
    *RESIZE,
    *RESPONSE,
    *ELEMENTWISE,
    *LINEAR,
    *CONVOLUTION,
    *POOLING,
    *REDUCTION,
    *LAYOUT,
]


@dataclass(frozen=True)
class Pair:
    """A QuantizeLinear and a DequantizeLinear with the same scale and zero point, per tensor or per channel."""

    opset: int
    scale: Any
    zero_point: Any
    axis: int = 1

    @property
    def id(self) -> str:
        return f"opset{self.opset}-{self.zero_point.dtype}-{'channels' if self.scale.ndim else 'tensor'}"


PAIRS = [
    Pair(opset, scale.astype(np.float32), zero_point)
    for opset in OPSETS
    for scale, zero_point in (
        (np.array(0.3), np.array(100, np.uint8)),
        (np.array(0.02), np.array(0, np.int8)),  # narrow: most values are beyond saturation
        (np.array([0.1, 0.5, 0.02]), np.array([0, -3, 7], np.int8)),
    )
]

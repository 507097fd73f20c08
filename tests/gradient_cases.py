"""The cases of every gradient rule: shapes, attributes, broadcasting, odd sizes, asymmetric padding, ties."""

from __future__ import annotations

from typing import Any

import numpy as np

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


def _pool(operator: str, x: tuple[int, ...], opset: int = 18, **attributes: Any) -> Case:
    return Case(operator, [values(*x)], attributes, dynamic=True, opset=opset)


ELEMENTWISE = [
    *(case for operator in ("Add", "Sub", "Mul") for case in _broadcasting(operator)),
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
    Case("Concat", [values(2, 3, 4), values(2, 1, 4, seed=1), values(2, 2, 4, seed=2)], {"axis": 1}, active=(0, 1, 2)),
    Case("Concat", [values(2, 3), values(2, 2, seed=1)], {"axis": -1}, active=(1,)),
]
CASES = [*ELEMENTWISE, *LINEAR, *CONVOLUTION, *POOLING, *REDUCTION, *LAYOUT]

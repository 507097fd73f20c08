"""Any operator of the registry with attributes over most of what is legal: a Hypothesis strategy of cases each."""

from __future__ import annotations

import math
from math import prod
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.gradient_cases import ints, values
from tests.gradient_checks import Case

OPSET = 24
Draw = st.DrawFn
Strategy = st.SearchStrategy[Case]

FLAGS = st.integers(0, 1)
SEEDS = st.integers(0, 2)  # they shift the range, which has to stay inside the domain


def sizes(rank: int, low: int = 1, high: int = 4) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*[st.integers(low, high)] * rank)


SHAPES = st.integers(1, 4).flatmap(sizes)


def array(draw: Draw, shape: Any, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    return values(*shape, low=low, high=high, seed=draw(SEEDS))


def positive(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False).map(lambda value: float(np.float32(value)))


def optional(draw: Draw, **attributes: st.SearchStrategy) -> dict[str, Any]:
    """Some of the attributes, the others left to their defaults."""
    return {name: draw(strategy) for name, strategy in attributes.items() if draw(st.booleans())}


def some_axes(draw: Draw, rank: int, low: int = 1) -> list[int]:
    """Different axes, some counted from the end."""
    axes = draw(st.lists(st.integers(0, rank - 1), min_size=low, max_size=rank, unique=True))
    return [axis - rank if draw(st.booleans()) else axis for axis in axes]


def an_axis(draw: Draw, rank: int) -> int:
    return draw(st.integers(-rank, rank - 1))


def case(operator: str, inputs: list, attributes: dict | None = None, **more: Any) -> Case:
    return Case(operator, inputs, attributes or {}, opset=OPSET, **more)


# Element by element

SLOPES = {"alpha": positive(0.1, 2.0)}
UNARY: dict[str, tuple[float, float, dict[str, st.SearchStrategy]]] = {
    **dict.fromkeys(
        ("Abs", "Exp", "Neg", "Erf", "Sin", "Cos", "Sinh", "Cosh", "Tanh", "Asinh", "Atan", "Identity", "Dropout",
         "Relu", "Sigmoid", "Softplus", "Softsign", "Mish"), (-2.0, 2.0, {})),
    **dict.fromkeys(("Sqrt", "Log", "Reciprocal"), (0.3, 2.0, {})),
    **dict.fromkeys(("Asin", "Acos", "Atanh"), (-0.9, 0.9, {})),
    **dict.fromkeys(("LeakyRelu", "Elu", "Celu", "ThresholdedRelu", "Swish"), (-3.0, 3.0, SLOPES)),
    "Tan": (-1.2, 1.2, {}),
    "Acosh": (1.2, 3.0, {}),
    "HardSwish": (-5.0, 5.0, {}),
    "HardSigmoid": (-3.0, 3.0, {**SLOPES, "beta": positive(0.1, 0.9)}),
    "Selu": (-2.0, 2.0, {**SLOPES, "gamma": positive(0.5, 2.0)}),
    "Shrink": (-2.0, 2.0, {"lambd": positive(0.1, 1.0), "bias": positive(0.0, 1.0)}),
    "Gelu": (-3.0, 3.0, {"approximate": st.sampled_from(["none", "tanh"])}),
}  # fmt: skip
BROADCASTING = {  # range of the first and of the second input
    "Add": ((-2, 2), (-2, 2)),
    "Sub": ((-2, 2), (-2, 2)),
    "Mul": ((-2, 2), (-2, 2)),
    "Div": ((-2, 2), (0.4, 2)),
    "Pow": ((0.3, 2), (-1.5, 2)),
}


@st.composite
def unary(draw: Draw, operator: str) -> Case:
    low, high, attributes = UNARY[operator]
    return case(operator, [array(draw, draw(SHAPES), low, high)], optional(draw, **attributes))


@st.composite
def broadcasting(draw: Draw, operator: str) -> Case:
    shapes = draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3)).input_shapes
    ranges = BROADCASTING[operator]
    inputs = [array(draw, shape, *limits) for shape, limits in zip(shapes, ranges, strict=True)]
    return case(operator, inputs, active=(0, 1))


@st.composite
def variadic(draw: Draw, operator: str) -> Case:
    count = draw(st.integers(1, 3))
    shapes = draw(hnp.mutually_broadcastable_shapes(num_shapes=count, max_dims=3, max_side=3)).input_shapes
    return case(operator, [array(draw, shape) for shape in shapes], active=tuple(range(count)))


@st.composite
def where(draw: Draw) -> Case:
    shapes = draw(hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=3, max_side=3)).input_shapes
    return case("Where", [array(draw, shapes[0]) > 0, array(draw, shapes[1]), array(draw, shapes[2])], active=(1, 2))


@st.composite
def prelu(draw: Draw) -> Case:
    shape = draw(SHAPES)
    slope = [size if draw(st.booleans()) else 1 for size in shape][draw(st.integers(0, len(shape) - 1)) :]
    return case("PRelu", [array(draw, shape), array(draw, slope, 0.1, 0.9)], active=(0, 1))


@st.composite
def modulo(draw: Draw) -> Case:
    shape, sign = draw(SHAPES), draw(st.sampled_from([-1.0, 1.0]))
    inputs = [array(draw, shape, -5, 5), sign * array(draw, shape, 1.3, 3)]
    return case("Mod", inputs, {"fmod": 1}, active=(0, 1))


@st.composite
def clip(draw: Draw) -> Case:
    limits = [np.float64(limit) if draw(st.booleans()) else None for limit in (-0.71, 0.93)]
    return case("Clip", [array(draw, draw(SHAPES)), *limits])


@st.composite
def cast(draw: Draw, operator: str) -> Case:
    x = array(draw, draw(SHAPES))
    return case("Cast", [x], {"to": 11}) if operator == "Cast" else case("CastLike", [x, np.zeros(1)])


# Over axes

REDUCTIONS = {
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare",
                     "ReduceLogSumExp", "ReduceProd"), -2.0),
    "ReduceLogSum": 0.3,
}  # fmt: skip


@st.composite
def reduction(draw: Draw, operator: str) -> Case:
    shape = draw(SHAPES)
    axes = some_axes(draw, len(shape), low=0)
    inputs = [array(draw, shape, REDUCTIONS[operator]), *([ints(*axes)] if axes else [])]
    keep = optional(draw, keepdims=FLAGS)
    return case(operator, inputs, keep if axes else {**keep, "noop_with_empty_axes": 0})


@st.composite
def softmax(draw: Draw, operator: str) -> Case:
    shape = draw(SHAPES)
    return case(operator, [array(draw, shape)], {"axis": an_axis(draw, len(shape))})


@st.composite
def running_sum(draw: Draw) -> Case:
    shape = draw(SHAPES)
    attributes = optional(draw, exclusive=FLAGS, reverse=FLAGS)
    return case("CumSum", [array(draw, shape), np.int64(an_axis(draw, len(shape)))], attributes)


@st.composite
def unit_norm(draw: Draw) -> Case:
    shape = draw(SHAPES)
    return case(
        "LpNormalization", [array(draw, shape)], {"axis": an_axis(draw, len(shape)), "p": draw(st.integers(1, 2))}
    )


# Normalisation

EPSILONS = positive(1e-3, 0.5)


@st.composite
def layer_norm(draw: Draw, operator: str) -> Case:
    shape = draw(st.integers(1, 4).flatmap(lambda rank: sizes(rank, 2)))
    axis = an_axis(draw, len(shape))
    weights = shape[axis % len(shape) :]
    count = 2 if operator == "RMSNormalization" else draw(st.integers(2, 3))
    inputs = [array(draw, shape), *(array(draw, weights) for _ in range(count - 1))]
    return case(operator, inputs, {"axis": axis, **optional(draw, epsilon=EPSILONS)}, active=tuple(range(count)))


@st.composite
def channel_norm(draw: Draw, operator: str) -> Case:
    groups = draw(st.integers(1, 2))
    spatial = draw(st.integers(1, 3).flatmap(lambda rank: sizes(rank, 2, 3)))
    channels = groups * draw(st.integers(1, 2))
    per_channel = [array(draw, (channels,)), array(draw, (channels,))]
    attributes = optional(draw, epsilon=EPSILONS)
    if operator == "GroupNormalization":
        attributes["num_groups"] = groups
    if operator == "BatchNormalization":
        per_channel += [array(draw, (channels,)), array(draw, (channels,), 0.5, 2.0)]
    return case(operator, [array(draw, (draw(st.integers(1, 2)), channels, *spatial)), *per_channel], attributes)


@st.composite
def local_response(draw: Draw) -> Case:
    attributes = optional(draw, alpha=positive(0.01, 0.9), beta=positive(0.3, 0.9), bias=positive(0.5, 2.0))
    return case("LRN", [array(draw, draw(sizes(4)))], {"size": draw(st.sampled_from([1, 3, 5])), **attributes})


# Sliding windows


def window(draw: Draw, rank: int) -> dict[str, Any]:
    """Kernel, strides, dilations and padding that fit into 5 elements per axis."""
    kernel = draw(sizes(rank, 1, 3))
    found: dict[str, Any] = {"kernel_shape": list(kernel)}
    found |= optional(draw, strides=sizes(rank, 1, 3).map(list))
    mode = draw(st.sampled_from(["pads", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if mode != "pads":  # onnx.reference pads by less than nothing where a stride exceeds its kernel
        strides = [min(pair) for pair in zip(found.pop("strides", [1] * rank), kernel, strict=True)]
        return found | {"auto_pad": mode, "strides": strides}
    found |= optional(draw, dilations=sizes(rank, 1, 2).map(list))
    if draw(st.booleans()):
        found["pads"] = [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    return found


@st.composite
def pooling(draw: Draw, operator: str) -> Case:
    rank = draw(st.integers(1, 2))
    attributes = window(draw, rank)
    if operator == "AveragePool":
        attributes |= optional(draw, count_include_pad=FLAGS)
    if operator == "LpPool":
        attributes |= {"p": draw(st.integers(1, 3))}
    return case(operator, [array(draw, (1, 2, *draw(sizes(rank, 5, 6))))], attributes)


@st.composite
def global_pooling(draw: Draw, operator: str) -> Case:
    attributes = {"p": draw(st.integers(1, 3))} if operator == "GlobalLpPool" else {}
    return case(operator, [array(draw, draw(st.integers(3, 4).flatmap(sizes)))], attributes)


@st.composite
def convolution(draw: Draw) -> Case:
    rank, group = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    attributes = window(draw, rank)
    kernel = attributes.pop("kernel_shape")
    inside, outside = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    weights = array(draw, (outside * group, inside, *kernel))
    bias = [array(draw, (outside * group,))] if draw(st.booleans()) else []
    x = array(draw, (1, inside * group, *draw(sizes(rank, 5, 6))))
    return case("Conv", [x, weights, *bias], attributes | {"group": group})


@st.composite
def transposed_convolution(draw: Draw) -> Case:
    rank, group = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel, strides = draw(sizes(rank, 1, 3)), draw(sizes(rank, 1, 3))
    pads = [draw(st.integers(0, (k - 1) // 2)) for k in (*kernel, *kernel)]
    more = [draw(st.integers(0, stride - 1)) for stride in strides]
    inside, outside = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    attributes = {"strides": list(strides), "pads": pads, "output_padding": more, "group": group}
    x = array(draw, (1, inside * group, *draw(sizes(rank, 3, 4))))
    return case("ConvTranspose", [x, array(draw, (inside * group, outside, *kernel))], attributes)


@st.composite
def overlapping_blocks(draw: Draw) -> Case:
    block, steps, strides = draw(sizes(2, 1, 3)), draw(sizes(2, 1, 3)), draw(sizes(2, 1, 2))
    image = [(n - 1) * stride + k for n, stride, k in zip(steps, strides, block, strict=True)]
    x = array(draw, (1, 2 * math.prod(block), math.prod(steps)))
    return case("Col2Im", [x, ints(*image), ints(*block)], {"strides": list(strides)})


@st.composite
def sampling(draw: Draw) -> Case:
    how = {
        "mode": draw(st.sampled_from(["linear", "nearest"])),
        "padding_mode": draw(st.sampled_from(["zeros", "border", "reflection"])),
        "align_corners": draw(st.integers(0, 1)),
    }
    x, grid = array(draw, (1, 2, *draw(sizes(2, 2, 4)))), array(draw, (1, *draw(sizes(2, 1, 4)), 2))
    return case("GridSample", [x, grid], how)


@st.composite
def resize(draw: Draw) -> Case:
    mode = draw(st.sampled_from(["nearest", "linear"]))
    places = ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]
    attributes = {"mode": mode, "coordinate_transformation_mode": draw(st.sampled_from(places))}
    if mode == "nearest":
        how = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
        attributes["nearest_mode"] = draw(st.sampled_from(how))
    x = array(draw, (1, 2, *draw(sizes(2, 2, 4))))
    target = ints(1, 2, *draw(sizes(2, 2, 6)))
    return case("Resize", [x, None, None, target], attributes)


# Products


@st.composite
def matrix_product(draw: Draw) -> Case:
    rows, inner, columns = draw(sizes(3))
    batches = draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=2, max_side=2)).input_shapes
    shapes = [(*batches[0], rows, inner), (*batches[1], inner, columns)]
    return case("MatMul", [array(draw, shape) for shape in shapes], active=(0, 1))


@st.composite
def gemm(draw: Draw) -> Case:
    rows, inner, columns = draw(sizes(3))
    a, b = draw(FLAGS), draw(FLAGS)
    inputs = [
        array(draw, (inner, rows) if a else (rows, inner)),
        array(draw, (columns, inner) if b else (inner, columns)),
    ]
    if draw(st.booleans()):
        inputs.append(array(draw, draw(st.sampled_from([(columns,), (1, columns), (rows, 1), (rows, columns), (1,)]))))
    attributes = optional(draw, alpha=positive(0.5, 2.0), beta=positive(0.5, 2.0))
    return case("Gemm", inputs, attributes | {"transA": a, "transB": b}, active=tuple(range(len(inputs))))


@st.composite
def einsum(draw: Draw) -> Case:
    """Two or three operands with different labels each; the result keeps some labels, in any order."""
    size = {label: draw(st.integers(2, 3)) for label in "ijkl"}
    labels = st.lists(st.sampled_from("ijkl"), min_size=1, max_size=3, unique=True).map("".join)
    terms = draw(st.lists(labels, min_size=1, max_size=3))
    known = sorted(set("".join(terms)))
    out = "".join(draw(st.lists(st.sampled_from(known), max_size=len(known), unique=True)))
    inputs = [array(draw, [size[label] for label in term]) for term in terms]
    return case("Einsum", inputs, {"equation": f"{','.join(terms)}->{out}"}, active=tuple(range(len(terms))))


@st.composite
def attention(draw: Draw) -> Case:
    batch, queries, keys = draw(sizes(3, 1, 3))
    heads, shared, depth, width = (
        draw(st.integers(1, 2)),
        draw(st.integers(1, 2)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
    )
    attributes = optional(draw, scale=positive(0.2, 1.5), is_causal=FLAGS)
    if draw(st.booleans()):
        shapes = [(batch, heads * shared, queries, depth), (batch, heads, keys, depth), (batch, heads, keys, width)]
    else:
        shapes = [(batch, queries, heads * shared * depth), (batch, keys, heads * depth), (batch, keys, heads * width)]
        attributes |= {"q_num_heads": heads * shared, "kv_num_heads": heads}
    mask = [array(draw, (queries, keys))] if draw(st.booleans()) else []
    return case("Attention", [*(array(draw, shape) for shape in shapes), *mask], attributes, active=(0, 1, 2))


@st.composite
def rotary(draw: Draw) -> Case:
    batch, heads, length, half = draw(sizes(4, 1, 3))
    caches = [array(draw, (batch, length, half)) for _ in range(2)]
    attributes = {"interleaved": draw(FLAGS)}
    if draw(st.booleans()):
        return case("RotaryEmbedding", [array(draw, (batch, heads, length, 2 * half)), *caches], attributes)
    x = array(draw, (batch, length, heads * 2 * half))
    return case("RotaryEmbedding", [x, *caches], attributes | {"num_heads": heads})


# Layout


@st.composite
def transpose(draw: Draw) -> Case:
    shape = draw(SHAPES)
    order = {} if draw(st.booleans()) else {"perm": draw(st.permutations(range(len(shape))))}
    return case("Transpose", [array(draw, shape)], order)


@st.composite
def reshape(draw: Draw) -> Case:
    shape = draw(SHAPES)
    target = list(draw(st.permutations(shape)))
    target[draw(st.integers(0, len(shape) - 1))] = -1
    return case("Reshape", [array(draw, shape), ints(*target)])


@st.composite
def flatten(draw: Draw) -> Case:
    shape = draw(SHAPES)
    return case("Flatten", [array(draw, shape)], {"axis": draw(st.integers(-len(shape), len(shape)))})


@st.composite
def squeeze(draw: Draw) -> Case:
    shape = list(draw(SHAPES))
    axis = draw(st.integers(0, len(shape)))
    shape.insert(axis, 1)
    return case("Squeeze", [array(draw, shape), ints(axis - len(shape) if draw(st.booleans()) else axis)])


@st.composite
def unsqueeze(draw: Draw) -> Case:
    shape = draw(SHAPES)
    axes = draw(st.lists(st.integers(0, len(shape)), min_size=1, max_size=2, unique=True))
    return case("Unsqueeze", [array(draw, shape), ints(*axes)])


@st.composite
def pad(draw: Draw) -> Case:
    shape = draw(st.integers(1, 3).flatmap(lambda rank: sizes(rank, 2, 4)))
    mode = draw(st.sampled_from(["constant", "edge", "reflect", "wrap"]))
    low = -1 if mode == "constant" and min(shape) > 2 else 0
    axes = some_axes(draw, len(shape))
    pads = [draw(st.integers(low, 1)) for _ in range(2 * len(axes))]
    return case("Pad", [array(draw, shape), ints(*pads), np.float64(0.5), ints(*axes)], {"mode": mode})


@st.composite
def expand(draw: Draw) -> Case:
    shape, target = draw(
        hnp.mutually_broadcastable_shapes(num_shapes=2, min_dims=1, max_dims=3, max_side=3)
    ).input_shapes
    return case("Expand", [array(draw, shape), ints(*target)])


@st.composite
def cut(draw: Draw) -> Case:
    shape = draw(SHAPES)
    axes = some_axes(draw, len(shape))
    starts, ends, steps = [], [], []
    for axis in axes:
        size, step = shape[axis], draw(st.sampled_from([1, 1, 2, -1, -2]))
        first = draw(st.integers(0, size - 1))
        last = draw(st.integers(first, size - 1)) if step > 0 else draw(st.integers(0, first))
        starts.append(first)
        ends.append(last + 1 if step > 0 else (last - 1 if last else -100))
        steps.append(step)
    return case("Slice", [array(draw, shape), ints(*starts), ints(*ends), ints(*axes), ints(*steps)])


@st.composite
def split(draw: Draw) -> Case:
    shape, count = list(draw(SHAPES)), draw(st.integers(1, 3))
    axis = an_axis(draw, len(shape))
    parts = draw(sizes(count, 1, 2))
    shape[axis] = sum(parts)
    return case("Split", [array(draw, shape), ints(*parts)], {"axis": axis}, outputs=count)


@st.composite
def concat(draw: Draw) -> Case:
    shape, count = list(draw(SHAPES)), draw(st.integers(1, 3))
    axis = an_axis(draw, len(shape))
    shapes = [
        [draw(st.integers(1, 3)) if a == axis % len(shape) else n for a, n in enumerate(shape)] for _ in range(count)
    ]
    inputs = [array(draw, each) for each in shapes]
    return case("Concat", inputs, {"axis": axis}, active=tuple(range(count)))


@st.composite
def tile(draw: Draw) -> Case:
    shape = draw(st.integers(1, 3).flatmap(lambda rank: sizes(rank, 1, 3)))
    return case("Tile", [array(draw, shape), ints(*draw(sizes(len(shape), 1, 3)))])


@st.composite
def triangle(draw: Draw) -> Case:
    shape = draw(st.integers(2, 4).flatmap(sizes))
    k = [np.int64(draw(st.integers(-2, 2)))] if draw(st.booleans()) else []
    return case("Trilu", [array(draw, shape), *k], optional(draw, upper=FLAGS))


@st.composite
def depth_and_space(draw: Draw, operator: str) -> Case:
    block, (channels, height, width) = draw(st.integers(1, 3)), draw(sizes(3, 1, 2))
    if operator == "SpaceToDepth":
        return case(operator, [array(draw, (1, channels, height * block, width * block))], {"blocksize": block})
    modes = optional(draw, mode=st.sampled_from(["DCR", "CRD"]))
    return case(operator, [array(draw, (1, channels * block**2, height, width))], {"blocksize": block, **modes})


@st.composite
def centre(draw: Draw) -> Case:
    shape = draw(SHAPES)
    axes = sorted({axis % len(shape) for axis in some_axes(draw, len(shape))})
    return case("CenterCropPad", [array(draw, shape), ints(*draw(sizes(len(axes), 1, 6)))], {"axes": axes})


# Indices


def indices(draw: Draw, shape: Any, size: int) -> np.ndarray:
    return np.array(draw(st.lists(st.integers(-size, size - 1), min_size=prod(shape), max_size=prod(shape)))).reshape(
        shape
    )


@st.composite
def gather(draw: Draw) -> Case:
    shape = draw(SHAPES)
    axis = an_axis(draw, len(shape))
    where = indices(draw, draw(st.integers(0, 2).flatmap(lambda rank: sizes(rank, 1, 3))), shape[axis])
    return case("Gather", [array(draw, shape), where.astype(np.int64)], {"axis": axis})


@st.composite
def gather_elements(draw: Draw) -> Case:
    shape = draw(SHAPES)
    axis = an_axis(draw, len(shape))
    where = [draw(st.integers(1, 3)) if a == axis % len(shape) else n for a, n in enumerate(shape)]
    return case("GatherElements", [array(draw, shape), indices(draw, where, shape[axis])], {"axis": axis})


@st.composite
def gather_slices(draw: Draw) -> Case:
    shape = draw(st.integers(2, 4).flatmap(sizes))
    batch = draw(st.integers(0, len(shape) - 1))
    depth = draw(st.integers(1, len(shape) - batch))
    rows = (*shape[:batch], draw(st.integers(1, 2)))
    where = np.stack([indices(draw, rows, shape[batch + place]) for place in range(depth)], axis=-1)
    return case("GatherND", [array(draw, shape), where], {"batch_dims": batch})


REDUCTIONS_OF_SCATTER = st.sampled_from(["none", "add", "mul", "max", "min"])


@st.composite
def scatter_elements(draw: Draw) -> Case:
    """Every index once along its axis, so that no reduction is ambiguous."""
    shape = draw(SHAPES)
    axis = an_axis(draw, len(shape)) % len(shape)
    count = draw(st.integers(1, shape[axis]))
    rest = [size for a, size in enumerate(shape) if a != axis]
    rows = [draw(st.permutations(range(shape[axis])))[:count] for _ in range(prod(rest))]
    where = np.moveaxis(np.array(rows).reshape(*rest, count), -1, axis)
    inputs = [array(draw, shape, 0.3), where, array(draw, where.shape, 0.4)]
    return case("ScatterElements", inputs, {"axis": axis, "reduction": draw(REDUCTIONS_OF_SCATTER)}, active=(0, 2))


@st.composite
def scatter_slices(draw: Draw) -> Case:
    shape = draw(SHAPES)
    rows = draw(st.permutations(range(shape[0])))[: draw(st.integers(1, shape[0]))]
    inputs = [array(draw, shape, 0.3), np.array(rows)[:, None], array(draw, (len(rows), *shape[1:]), 0.4)]
    return case("ScatterND", inputs, {"reduction": draw(REDUCTIONS_OF_SCATTER)}, active=(0, 2))


@st.composite
def largest(draw: Draw) -> Case:
    shape = draw(SHAPES)
    axis = an_axis(draw, len(shape))
    k = ints(draw(st.integers(1, shape[axis])))
    return case("TopK", [array(draw, shape), k], {"axis": axis, "largest": draw(FLAGS)}, outputs=2)


@st.composite
def compress(draw: Draw) -> Case:
    shape = draw(SHAPES)
    axis = an_axis(draw, len(shape))
    kept = draw(st.lists(st.booleans(), min_size=1, max_size=shape[axis]).filter(any))
    return case("Compress", [array(draw, shape), np.array(kept)], {"axis": axis})


@st.composite
def reverse(draw: Draw) -> Case:
    shape = draw(st.integers(2, 4).flatmap(sizes))
    batch = draw(FLAGS)
    lengths = [draw(st.integers(1, shape[1 - batch])) for _ in range(shape[batch])]
    return case("ReverseSequence", [array(draw, shape), ints(*lengths)], {"batch_axis": batch, "time_axis": 1 - batch})


STRATEGIES: dict[str, Strategy] = {
    **{name: unary(name) for name in UNARY},
    **{name: broadcasting(name) for name in BROADCASTING},
    **{name: variadic(name) for name in ("Sum", "Mean", "Max", "Min")},
    **{name: reduction(name) for name in REDUCTIONS},
    **{name: softmax(name) for name in ("Softmax", "LogSoftmax")},
    **{name: layer_norm(name) for name in ("LayerNormalization", "RMSNormalization")},
    **{name: channel_norm(name) for name in ("BatchNormalization", "InstanceNormalization", "GroupNormalization")},
    **{name: pooling(name) for name in ("AveragePool", "MaxPool", "LpPool")},
    **{name: global_pooling(name) for name in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")},
    **{name: depth_and_space(name) for name in ("DepthToSpace", "SpaceToDepth")},
    **{name: cast(name) for name in ("Cast", "CastLike")},
    "Attention": attention(),
    "CenterCropPad": centre(),
    "Clip": clip(),
    "Col2Im": overlapping_blocks(),
    "Compress": compress(),
    "Concat": concat(),
    "Conv": convolution(),
    "ConvTranspose": transposed_convolution(),
    "CumSum": running_sum(),
    "Einsum": einsum(),
    "Expand": expand(),
    "Flatten": flatten(),
    "Gather": gather(),
    "GatherElements": gather_elements(),
    "GatherND": gather_slices(),
    "Gemm": gemm(),
    "GridSample": sampling(),
    "LRN": local_response(),
    "LpNormalization": unit_norm(),
    "MatMul": matrix_product(),
    "Mod": modulo(),
    "PRelu": prelu(),
    "Pad": pad(),
    "Reshape": reshape(),
    "Resize": resize(),
    "ReverseSequence": reverse(),
    "RotaryEmbedding": rotary(),
    "ScatterElements": scatter_elements(),
    "ScatterND": scatter_slices(),
    "Slice": cut(),
    "Split": split(),
    "Squeeze": squeeze(),
    "Tile": tile(),
    "TopK": largest(),
    "Transpose": transpose(),
    "Trilu": triangle(),
    "Unsqueeze": unsqueeze(),
    "Where": where(),
}
ANY: Strategy = st.sampled_from(sorted(STRATEGIES)).flatmap(STRATEGIES.__getitem__)

"""Operators that are a linear map of the image: resizing, sampling, and what layout needs of the same kind."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from export.autodiff.engine import Step, define, describe
from harness.common.errors import InputError

LARGEST_SAMPLING = 2**24  # pixels of x times pixels of y: 64 MB per image in float32


def along(s: Step, cotangent: ir.Value, axis: int, matrix: np.ndarray) -> ir.Value:
    """The cotangent of x where y = matrix x along one axis: matrix^T g. `matrix` is (y's size, x's size)."""
    weights = s.op.constant(matrix.astype(s.real_type))
    return along_computed(s, cotangent, axis, weights)


def along_computed(s: Step, cotangent: ir.Value, axis: int, weights: ir.Value) -> ir.Value:
    """As `along`, with a matrix that the graph computes."""
    rank = len(s.shape(s.a))
    if rank == 1:
        row = s.op.Unsqueeze(cotangent, s.op.integers(0))
        return s.op.Squeeze(s.op.MatMul(row, weights), s.op.integers(0))
    if axis == rank - 1:
        return s.op.MatMul(cotangent, weights)
    order = list(range(rank))
    order[axis], order[-1] = order[-1], order[axis]  # an exchange undoes itself
    return s.op.Transpose(s.op.MatMul(s.op.Transpose(cotangent, perm=order), weights), perm=order)


def _resize(s: Step) -> ir.Value:
    """y = x interpolated along each axis, a linear map with constant weights: the transposed map of g."""
    _refuse_cropping(s)
    cotangent = s.g
    for axis, (old, new) in enumerate(zip(s.shape(s.a), s.shape(s.y), strict=True)):
        if old is None or new is None:
            if axis == 0:  # the batch, which no exporter resizes
                continue
            raise InputError(f"{describe(s.node)}: resizes an axis of unknown size; export the model with fixed ones")
        scale = _given_scale(s, axis)
        if old != new or scale not in (None, 1.0):
            cotangent = along_computed(s, cotangent, axis, _weights(s, old, new, scale))
    return cotangent


def _given_scale(s: Step, axis: int) -> float | None:
    """How far the axis is stretched, where the node says it by factors and not by sizes."""
    rank = len(s.shape(s.a))
    axes = [a % rank for a in s.attribute("axes", list(range(rank)))]
    given = s.has(2) and s.constant(2).size and axis in axes
    return float(s.constant(2)[axes.index(axis)]) if given else None


def _weights(s: Step, old: int, new: int, scale: float | None) -> ir.Value:
    """(new, old) interpolation weights: the operator itself on unit vectors, one per row of a batch.

    So places, rounding, borders and filters are those of the runtime that computes y.
    """
    unit = s.op.constant(np.eye(old, dtype=s.real_type)[:, None, :, None])
    how = {name: attribute.value for name, attribute in s.node.attributes.items() if name != "axes"}
    if scale is None:
        resized = s.op.Resize(unit, None, None, s.op.integers(old, 1, new, 1), **how)
    else:
        resized = s.op.Resize(unit, None, s.op.constant(np.array([1, 1, scale, 1], np.float32)), **how)
    return s.op.Transpose(s.op.Reshape(resized, s.op.integers(old, new)), perm=[1, 0])


def _refuse_cropping(s: Step) -> None:
    transform = s.attribute("coordinate_transformation_mode", "half_pixel")
    if transform == "tf_crop_and_resize" or s.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise InputError(
            f"{describe(s.node)}: resizing that crops or keeps proportions cannot be differentiated; choose a later "
            "layer"
        )


def _grid_sample(s: Step) -> ir.Value:
    """y = x interpolated at the places of a grid, a linear map S of x's pixels: x' = g S.

    S (N, pixels of x, pixels of y) is the operator itself on unit images.
    """
    image = [s.size(s.a, axis) for axis in range(2, len(s.shape(s.a)))]
    pixels = math.prod(image)
    if pixels * math.prod(s.size(s.y, axis) for axis in range(2, len(s.shape(s.y)))) > LARGEST_SAMPLING:
        raise InputError(
            f"{describe(s.node)}: a map this large cannot be sampled backwards; choose a later layer, or export the "
            "model at a smaller size"
        )
    unit = s.op.constant(np.eye(pixels, dtype=s.real_type).reshape(1, pixels, *image))
    batch = s.op.Concat(s.op.Shape(s.a, start=0, end=1), s.op.integers(*[1] * (len(image) + 1)), axis=0)
    how = {name: attribute.value for name, attribute in s.node.attributes.items()}
    sampled = s.op.Reshape(s.op.GridSample(s.op.Expand(unit, batch), s.b, **how), s.op.integers(0, pixels, -1))
    flat = s.op.Reshape(s.g, s.op.integers(0, 0, -1))
    return s.reshaped(s.op.MatMul(flat, s.op.Transpose(sampled, perm=[0, 2, 1])), s.a)


define("GridSample", _grid_sample, note="with respect to the image; the grid is a constant")
define("Resize", _resize, note="no cropping, no kept proportions")

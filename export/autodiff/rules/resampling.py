"""Operators that are a fixed linear map along each axis: resizing, and what layout needs of the same kind."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.autodiff.engine import Step, define, describe
from harness.common.errors import InputError


def along(s: Step, cotangent: ir.Value, axis: int, matrix: np.ndarray) -> ir.Value:
    """The cotangent of x where y = matrix x along one axis: matrix^T g. `matrix` is (y's size, x's size)."""
    weights = s.op.constant(matrix.astype(s.a.dtype.numpy() if s.a.dtype is not None else np.float32))
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
    number = s.a.dtype.numpy() if s.a.dtype is not None else np.float32
    unit = s.op.constant(np.eye(old, dtype=number)[:, None, :, None])
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


define("Resize", _resize, note="no cropping, no kept proportions")

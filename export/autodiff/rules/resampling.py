"""Operators that are a fixed linear map along each axis: resizing, and what layout needs of the same kind."""

from __future__ import annotations

from collections.abc import Callable

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
    _refuse_unusual(s)
    cotangent = s.g
    for axis, (old, new) in enumerate(zip(s.shape(s.a), s.shape(s.y), strict=True)):
        if old is None or new is None:
            if axis == 0:  # the batch, which no exporter resizes
                continue
            raise InputError(f"{describe(s.node)}: resizes an axis of unknown size; export the model with fixed ones")
        if old != new or _scale(s, axis) != 1.0:
            cotangent = along(s, cotangent, axis, _weights(s, old, new, _scale(s, axis)))
    return cotangent


def _scale(s: Step, axis: int) -> float:
    """How far the axis is stretched: as given, or as the sizes say."""
    axes = [a % len(s.shape(s.a)) for a in s.attribute("axes", list(range(len(s.shape(s.a)))))]
    if axis not in axes:
        return 1.0
    if s.has(2) and s.constant(2).size:
        return float(s.constant(2)[axes.index(axis)])
    old, new = s.shape(s.a)[axis], s.shape(s.y)[axis]
    return 1.0 if old is None or new is None else new / old


def _weights(s: Step, old: int, new: int, scale: float) -> np.ndarray:
    """(new, old) interpolation weights, rows summing to 1."""
    transform = s.attribute("coordinate_transformation_mode", "half_pixel")
    nearest = s.attribute("mode", "nearest") == "nearest"
    # ONNX Runtime computes positions in float32, where rounding decides which pixel is the nearest.
    number = np.float32 if nearest else np.float64
    places = _PLACES[transform](np.arange(new, dtype=number), old, new, float(number(scale)))
    if nearest:
        chosen = _NEAREST[s.attribute("nearest_mode", "round_prefer_floor")](places)
        return np.eye(old)[np.clip(chosen.astype(int), 0, old - 1)]
    places = np.clip(places, 0, old - 1)
    below = np.floor(places).astype(int)
    above = np.minimum(below + 1, old - 1)
    part = (places - below)[:, None]
    return (1 - part) * np.eye(old)[below] + part * np.eye(old)[above]


def _refuse_unusual(s: Step) -> None:
    transform = s.attribute("coordinate_transformation_mode", "half_pixel")
    unusual = s.attribute("mode", "nearest") == "cubic" or s.attribute("antialias", 0) or transform not in _PLACES
    if unusual or s.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise InputError(
            f"{describe(s.node)}: only nearest and linear resizing without antialias or cropping can be "
            "differentiated; choose a later layer"
        )


_Places = Callable[[np.ndarray, int, int, float], np.ndarray]
_PLACES: dict[str, _Places] = {
    "half_pixel": lambda y, _old, _new, scale: (y + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda y, _old, new, scale: (y + 0.5) / scale - 0.5 if new > 1 else np.zeros_like(y),
    "asymmetric": lambda y, _old, _new, scale: y / scale,
    "align_corners": lambda y, old, new, _scale: y * (old - 1) / (new - 1) if new > 1 else np.zeros_like(y),
}
_NEAREST: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}

define("Resize", _resize, note="nearest and linear; no antialias, no cropping")

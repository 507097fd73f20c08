"""Operators that pick elements by index, and those that put elements at an index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.autodiff.emit import constant_array
from export.autodiff.engine import Step, define
from export.autodiff.rules.layout import zeros_around
from export.autodiff.rules.resampling import along, along_computed


def _gathered(s: Step) -> ir.Value:
    """y = x at the indices along one axis: each row of g is added where it came from."""
    axis = s.attribute("axis", 0) % len(s.shape(s.a))
    flat = s.op.Reshape(s.g, _shape_with(s, axis))
    known, size = constant_array(s.b), s.shape(s.a)[axis]
    if known is None or size is None:
        depth = s.op.Gather(s.op.Shape(s.a), s.op.constant(np.int64(axis)))
        off_on = s.op.CastLike(s.op.constant(np.array([0.0, 1.0])), s.g)
        return along_computed(s, flat, axis, s.op.OneHot(_flat_indices(s), depth, off_on))
    places = (known.reshape(-1) % size).tolist()
    if places and places == list(range(places[0], places[0] + len(places))):
        return zeros_around(s, flat, axis, places[0], size - places[-1] - 1)
    return along(s, flat, axis, np.eye(size)[places])


def _flat_indices(s: Step) -> ir.Value:
    return s.op.Cast(s.op.Reshape(s.b, s.op.integers(-1)), to=ir.DataType.INT64)


def _shape_with(s: Step, axis: int) -> ir.Value:
    """The shape of x with its `axis` as long as there are indices: the shape of y with the indices in one row."""
    sizes = [-1 if size is None else size for size in s.shape(s.a)]
    count = 1
    for size in s.shape(s.b):
        count = -1 if size is None or count < 0 else count * size
    sizes[axis] = count
    if sizes.count(-1) <= 1:
        return s.op.integers(*sizes)
    shape = s.op.Shape(s.a)
    total = s.op.Reshape(s.op.Size(s.b), s.op.integers(1))
    return s.op.ScatterElements(shape, s.op.integers(axis), total, axis=0)


def _zeros(s: Step, like: ir.Value) -> ir.Value:
    return s.op.CastLike(s.op.ConstantOfShape(s.op.Shape(like)), s.g)


def _gathered_elements(s: Step) -> ir.Value:
    """y_ij = x at (i, index_ij): g_ij is added there."""
    axis = s.attribute("axis", 0)
    return s.op.ScatterElements(_zeros(s, s.a), s.b, s.g, axis=axis, reduction="add")


def _gathered_slices(s: Step) -> ir.Value:
    """y = the slices of x that the last axis of the indices names: each slice of g is added there."""
    indices = _with_batch_coordinates(s, s.attribute("batch_dims", 0))
    return s.op.ScatterND(_zeros(s, s.a), indices, s.g, reduction="add")


def _with_batch_coordinates(s: Step, batch_dims: int) -> ir.Value:
    """The indices (..., k) with the places along the batch axes in front: (..., batch_dims + k)."""
    if not batch_dims:
        return s.b
    rank = len(s.shape(s.b))
    leading = s.op.Concat(
        s.op.Slice(s.op.Shape(s.b), s.op.integers(0), s.op.integers(rank - 1)), s.op.integers(1), axis=0
    )
    coordinates = []
    zero, one = s.op.constant(np.int64(0)), s.op.constant(np.int64(1))
    for axis in range(batch_dims):
        size = s.op.Gather(s.op.Shape(s.b), s.op.constant(np.int64(axis)))
        places = s.op.Reshape(
            s.op.Range(zero, size, one), s.op.integers(*(-1 if a == axis else 1 for a in range(rank)))
        )
        coordinates.append(s.op.Expand(places, leading))
    return s.op.Concat(*coordinates, s.b, axis=rank - 1)


def _largest(s: Step) -> ir.Value:
    """y = the k largest (or smallest) elements along an axis: g at the elements that were chosen."""
    axis = s.attribute("axis", -1)
    return s.op.ScatterElements(_zeros(s, s.a), s.node.outputs[1], s.g, axis=axis, reduction="add")


def _compressed(s: Step) -> ir.Value:
    """y = the slices of x (or its elements) where the condition holds: each goes back to where it came from."""
    places = s.op.Squeeze(s.op.NonZero(s.b), s.op.integers(0))
    axis = s.attribute("axis", None)
    if axis is None:
        flat = s.op.Reshape(_zeros(s, s.a), s.op.integers(-1))
        return s.reshaped(s.op.ScatterElements(flat, places, s.g, axis=0), s.a)
    axis %= len(s.shape(s.a))
    depth = s.op.Gather(s.op.Shape(s.a), s.op.constant(np.int64(axis)))
    off_on = s.op.CastLike(s.op.constant(np.array([0.0, 1.0])), s.g)
    return along_computed(s, s.g, axis, s.op.OneHot(places, depth, off_on))


def _reversed(s: Step) -> ir.Value:
    """y = x with the start of each sequence in reverse: the same again."""
    axes = {name: s.attribute(name, default) for name, default in (("batch_axis", 1), ("time_axis", 0))}
    return s.op.ReverseSequence(s.g, s.b, **axes)


@dataclass(frozen=True)
class Scattering:
    """ScatterElements or ScatterND: y = x with `updates` combined into it at the indices."""

    step: Step

    @property
    def reduction(self) -> str:
        return str(self.step.attribute("reduction", "none"))

    def gather(self, value: ir.Value) -> ir.Value:
        """What stands in `value`, of the shape of x, where the updates went."""
        if self.step.node.op_type == "ScatterND":
            return self.step.op.GatherND(value, self.step.b)
        return self.step.op.GatherElements(value, self.step.b, axis=self.step.attribute("axis", 0))

    def scatter(self, into: ir.Value, updates: ir.Value, reduction: str) -> ir.Value:
        if self.step.node.op_type == "ScatterND":
            return self.step.op.ScatterND(into, self.step.b, updates, reduction=reduction)
        axis = self.step.attribute("axis", 0)
        return self.step.op.ScatterElements(into, self.step.b, updates, axis=axis, reduction=reduction)

    def data(self) -> ir.Value:
        """x': g, without what was overwritten (none), times the updates (mul), where x won (max, min)."""
        s = self.step
        if self.reduction == "none":
            return self.scatter(s.g, _zeros(s, s.c), "none")
        if self.reduction == "mul":
            ones = s.op.Add(_zeros(s, s.a), s.number(1.0))
            return s.op.Mul(s.g, self.scatter(ones, s.c, "mul"))
        return s.g if self.reduction == "add" else s.kept_where(s.op.Equal(s.a, s.y))

    def updates(self) -> ir.Value:
        """updates': g from their places (none, add), times y / updates (mul), where they won (max, min)."""
        s = self.step
        if self.reduction in ("none", "add"):
            return self.gather(s.g)
        if self.reduction == "mul":
            return s.op.Div(self.gather(s.op.Mul(s.g, s.y)), s.c)
        won = s.op.Equal(self.gather(s.y), s.c)
        return s.op.Where(won, self.gather(s.g), s.number(0.0))


def _scatter_data(s: Step) -> ir.Value:
    return Scattering(s).data()


def _scatter_updates(s: Step) -> ir.Value:
    return Scattering(s).updates()


_SCATTER_TIES = "the whole of g to every equal element (max, min)"
_SCATTER_NOTE = "reduction none: indices that occur once; mul: updates other than 0"
define("Gather", _gathered)
define("GatherElements", _gathered_elements)
define("GatherND", _gathered_slices)
define("ScatterElements", _scatter_data, None, _scatter_updates, ties=_SCATTER_TIES, note=_SCATTER_NOTE)
define("ScatterND", _scatter_data, None, _scatter_updates, ties=_SCATTER_TIES, note=_SCATTER_NOTE)
define("TopK", _largest, ties="as ONNX Runtime orders them")
define("Compress", _compressed)
define("ReverseSequence", _reversed)

"""The geometry of sliding windows: kernel, strides, dilations and resolved padding of convolution and pooling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from export.autodiff.emit import dimensions
from harness.common.errors import InputError


@dataclass(frozen=True)
class Window:
    """A sliding window; every tuple has one entry per spatial axis.

    `begin` and `end` are the padding (auto_pad resolved), `size` the input's and `steps` the output's extent.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    size: tuple[int, ...]
    steps: tuple[int, ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """Distance between a window's first and last element: d (k - 1)."""
        return tuple(d * (k - 1) for d, k in zip(self.dilations, self.kernel, strict=True))

    def inside(self, axis: int, include_padding: bool = False) -> np.ndarray:
        """How many elements of each window along `axis` lie in the input (and, if asked, its padding): (steps,)."""
        low = -self.begin[axis] if include_padding else 0
        high = self.size[axis] + (self.end[axis] if include_padding else 0)
        starts = np.arange(self.steps[axis]) * self.strides[axis] - self.begin[axis]
        positions = starts[:, None] + np.arange(self.kernel[axis]) * self.dilations[axis]  # (steps, kernel)
        return ((positions >= low) & (positions < high)).sum(axis=1)


def window_of(node: ir.Node, kernel: tuple[int, ...] | None = None) -> Window:
    """The window of a Conv or pooling node; `kernel` where the node does not carry `kernel_shape`."""
    size, steps = _spatial(node.inputs[0]), _spatial(node.outputs[0])
    rank = len(size)
    kernel = tuple(_attribute(node, "kernel_shape", kernel))
    strides = tuple(_attribute(node, "strides", [1] * rank))
    dilations = tuple(_attribute(node, "dilations", [1] * rank))
    begin, end = _padding(node, kernel, strides, dilations, size, steps)
    return Window(kernel, strides, dilations, begin, end, size, steps)


def _spatial(value: ir.Value | None) -> tuple[int, ...]:
    assert value is not None
    sizes = dimensions(value)[2:]
    if any(size is None for size in sizes):
        raise InputError(f"tensor {value.name!r} has a dynamic height or width; export the model with fixed ones")
    return tuple(int(size) for size in sizes if size is not None)


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


def _padding(
    node: ir.Node,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    size: tuple[int, ...],
    steps: tuple[int, ...],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(begin, end), with auto_pad resolved as the operator specification says."""
    rank = len(size)
    mode = _attribute(node, "auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        pads = _attribute(node, "pads", [0] * (2 * rank))
        return tuple(pads[:rank]), tuple(pads[rank:])
    if mode == "VALID":
        return (0,) * rank, (0,) * rank
    axes = zip(kernel, strides, dilations, size, steps, strict=True)
    total = [max((n - 1) * s + d * (k - 1) + 1 - x, 0) for k, s, d, x, n in axes]
    small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    return (small, large) if mode == "SAME_UPPER" else (large, small)

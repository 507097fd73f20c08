"""Activations that are no (N, C, h, w) maps yet: tokens of a transformer block, and maps with channels last.

A tensor is made a map *on the way to the score*: it is turned into (N, C, h, w), pinned, and turned back for everything
behind it. Activations, gradients and CAM passes are then those of any other layer, and nothing is differentiated twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from export.autodiff.emit import Emitter

Grid = tuple[int, int]  # (h, w)
MISSED = 1.0  # places by which rounded strides may miss the image's proportions
MOST_EXTRA = 8  # tokens before those of a given grid
EXTRA = (0, 1, 2, 5)  # tokens before those of the map: none, class, class and distillation, class and four registers


@dataclass(frozen=True)
class Arrangement:
    """Where a tensor keeps its map: `kind` is `nchw`, `nhwc` or `tokens`; `extra` tokens come before the map's."""

    kind: str
    grid: Grid
    extra: int = 0


def arrangement_of(sizes: Sequence[int | None], image: Grid, grid: Grid | None = None) -> Arrangement | None:
    """How a tensor of these sizes holds a map of an image (H, W), None where it holds none.

    Without `grid` a map has the image's proportions, but for the rounding of strides. Of two readings the one that
    comes closer to them counts, (N, C, h, w) where both come equally close.
    """
    rest = [size for size in sizes[1:] if size is not None]
    if len(rest) < len(sizes) - 1:
        return None
    if len(rest) == 2:
        return _tokens(rest[0], image, grid)
    if len(rest) != 3:
        return None
    readings = [Arrangement("nchw", (rest[1], rest[2])), Arrangement("nhwc", (rest[0], rest[1]))]
    fitting = [found for found in readings if min(found.grid) > 1 and _fits(found.grid, image, grid, MISSED)]
    return min(fitting, key=lambda found: missed(found.grid, image), default=None)


def _tokens(count: int, image: Grid, grid: Grid | None) -> Arrangement | None:
    for extra in range(MOST_EXTRA + 1) if grid else EXTRA:
        for height in range(2, count - extra):
            width = (count - extra) // height
            if height * width == count - extra and width > 1 and _fits((height, width), image, grid, MISSED / 2):
                return Arrangement("tokens", (height, width), extra)
    return None


def _fits(size: Grid, image: Grid, grid: Grid | None, tolerance: float) -> bool:
    return size == grid if grid else missed(size, image) <= tolerance


def missed(size: Grid, image: Grid) -> float:
    """By how many places one side misses the image's proportions, given the other."""
    (height, width), (whole, wide) = size, image
    return min(abs(width - wide * height / whole), abs(height - whole * width / wide))


def as_map(graph: ir.Graph, value: ir.Value, found: Arrangement) -> ir.Value:
    """A map (N, C, h, w) of the tensor, through which everything behind it now reads it."""
    if found.kind == "nchw":
        return value
    op = Emitter(graph, "grid")
    readers = list(value.uses())
    if found.kind == "nhwc":
        made = op.Transpose(value, perm=[0, 3, 1, 2])
        back = op.Transpose(made, perm=[0, 2, 3, 1])
    else:
        made, back = _through_tokens(op, value, found)
    made.name = f"{value.name}/map"
    for use in readers:
        use.node.replace_input_with(use.idx, back)
    graph.sort()
    return made


def _through_tokens(op: Emitter, value: ir.Value, found: Arrangement) -> tuple[ir.Value, ir.Value]:
    """(map, tokens again): what is not on the map goes around it."""
    tokens, axis, start = value, op.integers(1), op.integers(found.extra)
    if found.extra:
        tokens = op.Slice(value, start, op.integers(2**62), axis)
    features = op.Transpose(tokens, perm=[0, 2, 1])  # (N, C, h w)
    made = op.Reshape(features, op.integers(0, 0, *found.grid))
    back = op.Transpose(op.Reshape(made, op.integers(0, 0, -1)), perm=[0, 2, 1])
    if found.extra:
        back = op.Concat(op.Slice(value, op.integers(0), start, axis), back, axis=1)
    return made, back

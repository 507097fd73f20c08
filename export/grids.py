"""Activations that are no (N, C, h, w) maps yet: tokens of a transformer block, and maps with channels last.

A tensor is made a map *on the way to the score*: it is turned into (N, C, h, w), pinned, and turned back for everything
behind it. Activations, gradients and CAM passes are then those of any other layer, and nothing is differentiated twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from export.emit import Emitter

Grid = tuple[int, int]  # (h, w)
EXTRA = (0, 1, 2, 5)  # tokens before those of the map: none, class, class and distillation, class and four registers


@dataclass(frozen=True)
class Arrangement:
    """Where a tensor keeps its map: `kind` is `nchw`, `nhwc` or `tokens`; `extra` tokens come before the map's."""

    kind: str
    grid: Grid
    extra: int = 0


def arrangement_of(sizes: Sequence[int | None], image: Grid, grid: Grid | None = None) -> Arrangement | None:
    """How a tensor of these sizes holds a map of an image (H, W), None where it holds none.

    Without `grid` a map has the image's proportions: h / w = H / W. Four axes of no such map are read as (N, C, h, w).
    """
    rest = [size for size in sizes[1:] if size is not None]
    if len(rest) < len(sizes) - 1:
        return None
    if len(rest) == 3:
        first, last = (rest[0], rest[1]), (rest[1], rest[2])
        channels_last = last != grid and (first == grid or (_alike(first, image) and not _alike(last, image)))
        found = Arrangement("nhwc", first) if channels_last else Arrangement("nchw", last)
        large = min(found.grid) > 0 and max(found.grid) > 1
        return found if large and grid in (None, found.grid) else None
    return _tokens(rest[0], image, grid) if len(rest) == 2 else None


def _tokens(count: int, image: Grid, grid: Grid | None) -> Arrangement | None:
    if grid:
        extra = count - grid[0] * grid[1]
        return Arrangement("tokens", grid, extra) if extra >= 0 else None
    for extra in EXTRA:
        for height in range(1, count - extra + 1):
            width = (count - extra) // height
            if height * width == count - extra and width > 1 and _alike((height, width), image):
                return Arrangement("tokens", (height, width), extra)
    return None


def _alike(size: Grid, image: Grid) -> bool:
    return size[0] * image[1] == size[1] * image[0] and size[0] > 0


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

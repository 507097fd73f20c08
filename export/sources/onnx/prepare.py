"""A model read from an ONNX file as a forward graph with the input `image`.

The model's own preprocessing is put into the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from export import passes
from export.autodiff.emit import Emitter, dimensions
from export.graph.arrangements import Grid
from export.graph.forward import Forward, check_forward, check_scores
from export.graph.head import Head, find_head
from export.graph.layers import choose
from export.sources.onnx.preprocessing import CHANNELS, Preprocessing
from export.sources.onnx.rectified import spell_rectifiers
from harness.common.errors import InputError


@dataclass(frozen=True)
class Prepared:
    """A forward graph, its head, and the roles of its CAM layers (layer -> `penultimate` or `last`)."""

    forward: Forward
    head: Head
    roles: dict[str, str]


def prepare(path: Path, model: ir.Model, preprocessing: Preprocessing) -> Head:
    """Make `image` the input of a graph with a free batch, and find its logits."""
    _prepend(path, model.graph, preprocessing)
    spell_rectifiers(model.graph)
    passes.infer_shapes(model)
    passes.fix_shapes(model.graph)
    head = find_head(model.graph)
    passes.infer_shapes(model)
    check_scores(head.logits)
    return head


def with_layers(model: ir.Model, head: Head, layers: Sequence[str], grid: Grid | None = None) -> Prepared:
    """The forward graph of a prepared model, with its CAM layers chosen.

    :param layers: `auto`, TENSOR, or `penultimate=TENSOR` and `last=TENSOR`, which give the tensor that role.
    :param grid: (h, w) of the map that a layer's tokens are; found from the shapes where it is None.
    """
    passes.infer_shapes(model)
    chosen, roles = choose(model, head.logits, layers, grid)
    passes.infer_shapes(model)
    forward = Forward(model, str(head.logits.name), chosen)
    check_forward(forward)
    forward.pin_outputs()
    return Prepared(forward, head, roles)


def _prepend(path: Path, graph: ir.Graph, preprocessing: Preprocessing) -> None:
    """Make `image` (N, 3, H, W) the graph's input, with the model's own preprocessing behind it."""
    old = graph.inputs[0]
    channels, height, width = _geometry(path, old, preprocessing.layout)
    image = ir.val("image", ir.DataType.FLOAT, ["N", 3, height, width])
    op = Emitter(graph, "preprocessing")
    value = op.Gather(image, op.integers(2, 1, 0), axis=1) if preprocessing.channels == "bgr" else image
    value = op.Mul(value, op.constant(np.float32(preprocessing.scale))) if preprocessing.scale != 1 else value
    mean, std = (np.array(v, np.float32).reshape(1, -1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    value = op.Sub(value, op.constant(mean)) if mean.any() else value
    value = op.Div(value, op.constant(std)) if (std != 1).any() else value
    if channels == 1:
        value = op.Slice(value, op.integers(0), op.integers(1), op.integers(1))
    if preprocessing.layout == "nhwc":
        value = op.Transpose(value, perm=[0, 2, 3, 1])
    old.replace_all_uses_with(value, replace_graph_outputs=True)
    graph.inputs[0] = image
    graph.sort()


def _geometry(path: Path, image: ir.Value, layout: str) -> tuple[int, int, int]:
    """(channels, H, W) of the model's own input."""
    sizes = dimensions(image)
    channels, height, width = (sizes[1], sizes[2], sizes[3]) if layout == "nchw" else (sizes[3], sizes[1], sizes[2])
    if channels not in CHANNELS or height is None or width is None:
        raise InputError(
            f"{path}: its input {sizes} has {channels} channels as {layout}; expected 1 or 3 (see --layout)"
        )
    return channels, height, width

"""What `--layer` can name in an ONNX file."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from export.autodiff.emit import dimensions
from export.graph import layers
from export.graph.arrangements import Arrangement, Grid
from export.sources.onnx.batch import with_free_batch
from export.sources.onnx.prepare import prepare
from export.sources.onnx.preprocessing import Preprocessing
from export.sources.onnx.read import Choices, load


def list_layers(
    path: Path, preprocessing: Preprocessing, grid: Grid | None = None, choices: Choices | None = None
) -> list[tuple[str, ...]]:
    """(tensor, C x h x w, how it holds its map, PyTorch module) of everything that `--layer` can name, first to last.

    :raises InputError: the file cannot be used.
    """
    model = with_free_batch(path, load(path, choices))
    preprocessing = preprocessing.for_input(dimensions(model.graph.inputs[0]))
    logits = prepare(path, model, preprocessing).logits
    found = layers.candidates(model, logits, grid)
    return [(name, *_described(value, arrangement)) for name, (value, arrangement) in found.items()]


def _described(value: ir.Value, arrangement: Arrangement) -> tuple[str, str, str]:
    channels = dimensions(value)[1 if arrangement.kind == "nchw" else -1]
    height, width = arrangement.grid
    kind = f"tokens after {arrangement.extra}" if arrangement.extra else arrangement.kind
    return f"{channels} x {height} x {width}", kind, (layers.modules(value) or [""])[-1]

"""Exported graph to one whose weights know nothing: the null of a sanity check, differentiated and proved anew.

1. The forward part is cut out: image to logits and CAM tensors.
2. The weights of the `top` learned operators nearest to the logits are drawn anew (all of them by default): each tensor
   from a normal distribution of its own mean and standard deviation, so that activations keep about their size. With
   `noise`, weights are kept and get noise of that share of their standard deviation instead. Biases, and all that is no
   weight of a learned operator, stay.
3. It is differentiated again, and proved as a compressed graph is (`export.proof.rounded`).

Source: cascading randomisation, Adebayo et al. 2018, arXiv 1810.03292.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from export.compress import write_changed
from export.compress.prepare import forward_part, read_export
from export.proof.parity import Difference
from export.proof.proof_images import PATTERNS, views_of
from export.write import refuse_to_overwrite
from harness.common.errors import InputError
from harness.images.rule import restored
from harness.images.view import channels_first

LEARNED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
KEEPS_WEIGHTS = ("Identity", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Cast")


def randomise(
    path: Path, out: Path, top: int | None = None, noise: float | None = None, seed: int = 0
) -> list[Difference]:
    """Write a graph with other weights; returns how far it is from its own definition.

    :param top: how many learned operators, counted from the logits; None: all.
    :param noise: keep the weights and add noise of this share of the standard deviation of each tensor.
    :raises InputError: no exported graph, or fewer learned operators than `top`.
    :raises CannotEvaluateError: the graph differs from its definition; nothing is written.
    """
    refuse_to_overwrite(path, out)
    source, metadata = read_export(path)
    made = forward_part(source, metadata)
    names = list(weights_from_the_top(made.graph))
    if not names or (top is not None and not 1 <= top <= len(names)):
        raise InputError(f"{path}: has {len(names)} tensors of weights; give --top between 1 and {len(names)}")
    names = names[:top]
    _change(made.graph, names, noise, np.random.default_rng(seed))
    views = views_of([], restored(metadata.image_rule), (metadata.input_size[0], metadata.input_size[1]))
    facts = {"to": "randomised" if noise is None else "noisy", "tensors": len(names), "noise": noise, "seed": seed}
    return write_changed(made, metadata, facts, out, channels_first(views[:PATTERNS]))


def weights_from_the_top(graph: onnx.GraphProto) -> Iterator[str]:
    """The initializers that are weights of learned operators, those nearest to the logits first, each once."""
    makers = {output: node for node in graph.node for output in node.output}
    initializers = {tensor.name for tensor in graph.initializer}
    seen: set[str] = set()
    for node in reversed(_before(graph, "logits", makers)):
        for name in node.input[:2] if node.op_type in LEARNED else ():
            origin = _origin(name, makers)
            if origin in initializers and origin not in seen:
                seen.add(origin)
                yield origin


def _before(graph: onnx.GraphProto, output: str, makers: dict[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes that an output is made of, in the order of the graph."""
    needed, pending = set[str](), [output]
    while pending:
        name = pending.pop()
        if name not in needed and name in makers:
            pending += makers[name].input
        needed.add(name)
    return [node for node in graph.node if needed.intersection(node.output)]


def _origin(name: str, makers: dict[str, onnx.NodeProto]) -> str:
    """Where a value comes from, before what changes only its shape or type."""
    while name in makers and makers[name].op_type in KEEPS_WEIGHTS:
        name = makers[name].input[0]
    return name


def _change(graph: onnx.GraphProto, names: list[str], noise: float | None, rng: np.random.Generator) -> None:
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for name in names:
        values = numpy_helper.to_array(tensors[name])
        drawn = rng.standard_normal(values.shape)
        spread, middle = values.std(dtype=np.float64), values.mean(dtype=np.float64)
        changed = middle + spread * drawn if noise is None else values + noise * spread * drawn
        tensors[name].CopyFrom(numpy_helper.from_array(changed.astype(values.dtype), name))

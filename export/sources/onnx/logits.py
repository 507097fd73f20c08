"""What an ONNX file itself computes, and whether its output is logits or probabilities.

The head of a graph is read from its operators (`export.graph.head`); here that reading is held to numbers. An output
whose end no pattern fits is taken for probabilities where its values lie in 0..1 on every proving image and on every
probe (pictures of one grey, and noise of up to twenty times the range of grey levels, under which logits leave 0..1),
and sum to the same on each image where there are several.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from export.graph.head import Head, from_probabilities
from export.proof.scores import probabilities_in, probes, scores_to_probabilities
from export.proof.sessions import open_session, run
from export.sources.onnx.preprocessing import Preprocessing
from harness.common.errors import CannotEvaluateError, InputError
from harness.images.loading import channels_first

SAME = 1e-4  # absolute difference that probabilities of the file and of its logits may have


@dataclass(frozen=True)
class Source:
    """An ONNX file as it was read, run image by image on input that NumPy has preprocessed."""

    model: onnx.ModelProto
    preprocessing: Preprocessing

    def outputs(self, names: list[str], images: np.ndarray) -> dict[str, np.ndarray]:
        """{tensor: (N, elements)} for images (N, 3, H, W)."""
        names = list(dict.fromkeys(names))
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        image = model.graph.input[0]
        batch, *sizes = (dim.dim_value or 1 for dim in image.type.tensor_type.shape.dim)
        ready = self.preprocessing.apply(images, sizes[0] if self.preprocessing.layout == "nchw" else sizes[2])
        session = open_session(model.SerializeToString(), "disabled")
        rows = [run(session, {image.name: np.repeat(one[None], batch, axis=0)}, names) for one in ready]
        return {name: np.stack([row[name].reshape(batch, -1)[0] for row in rows]).astype(np.float32) for name in names}


@dataclass(frozen=True)
class Belief:
    """What the user says of an output: that probabilities are to be explained, or that it holds logits."""

    probabilities: bool = False
    logits: bool = False


def settled(
    path: Path, graph: ir.Graph, head: Head, source: Source, images: np.ndarray, belief: Belief
) -> tuple[Head, np.ndarray]:
    """The head after a look at the numbers, and the file's own logits (N, K).

    The logarithms of probabilities, or their log-odds, become the logits of an output whose end was not recognised.

    :raises InputError: such an output holds probabilities, and is not said to.
    :raises CannotEvaluateError: an output whose end was recognised says something else than its logits.
    """
    values = source.outputs([head.source_tensor, head.output], images)
    if head.form == "logit" and not belief.logits and probabilities_in(values[head.output], varying=False) is not None:
        head = _judged(path, graph, head, source, images, belief.probabilities)
    logits = head.logits_of(values[head.source_tensor])
    _require_same_probabilities(path, head, logits, values[head.output])
    return head, logits


def _judged(path: Path, graph: ir.Graph, head: Head, source: Source, images: np.ndarray, on_purpose: bool) -> Head:
    """The head of an output that looks like probabilities on the images; probes decide."""
    pictures = np.concatenate([images, channels_first(probes(images.shape[2:]))])
    found = probabilities_in(source.outputs([head.output], pictures)[head.output])
    if found is None:
        return head
    if not on_purpose:
        raise InputError(
            f"{path}: its outputs {found} on every image, so they are probabilities, not logits; export it without "
            "its last step, or say so with --probability (with --logits, where they are logits all the same)"
        )
    return from_probabilities(graph, head, found.total)


def _require_same_probabilities(path: Path, head: Head, logits: np.ndarray, output: np.ndarray) -> None:
    """The file's own output must be what its logits say; what was read from operators is held to numbers here.

    :raises CannotEvaluateError: it is not.
    """
    if head.form == "logit":
        return
    found = scores_to_probabilities(logits.astype(np.float64), head.score_kind)
    said = output.astype(np.float64) / head.factor
    said = np.exp(said) if head.form == "log-probability" else said
    if found.shape[1] == 1 and said.shape[1] == 2:  # Concat(1 - p, p)
        found = np.concatenate([1 - found, found], axis=1)
    apart = np.abs(found - said).max() if found.shape == said.shape else np.inf
    if not apart <= SAME:
        raise CannotEvaluateError(
            f"{path}: its output {head.output!r} was taken for the {head.form} of {head.source_tensor!r}, but they "
            f"differ by {apart:.2g}; nothing was written; export the model without its last step"
        )

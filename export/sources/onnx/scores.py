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
from export.proof.scores import scores_to_probabilities
from export.proof.sessions import open_session, run
from export.sources.onnx.preprocessing import Preprocessing
from harness.errors import CannotEvaluateError, InputError

AMPLITUDES = (1.0, 4.0, 20.0)  # of the noise probes, in ranges of grey levels
ROUNDING = 1e-5  # by which probabilities leave 0..1 in float32
SUMS = 1e-3  # relative spread of the sums of probabilities, which half precision may have
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


@dataclass(frozen=True)
class Probabilities:
    """Scores that are probabilities: `total` is what they sum to on each image, None where each stands alone."""

    total: float | None

    def __str__(self) -> str:
        return "lie in 0..1" if self.total is None else f"lie in 0..{self.total:.4g} and sum to {self.total:.4g}"


def probabilities_in(values: np.ndarray, varying: bool = True) -> Probabilities | None:
    """What the numbers (N, K) of an output show, None where they are no probabilities.

    :param varying: whether numbers that are the same on every image show nothing.
    """
    values = values[np.isfinite(values).all(axis=1)].astype(np.float64)
    if not len(values) or (varying and np.ptp(values, axis=0).max() <= ROUNDING):
        return None
    sums = values.sum(axis=1)
    total = float(np.median(sums))
    if values.shape[1] > 1 and values.min() >= -ROUNDING * total and np.ptp(sums) <= SUMS * total:
        return Probabilities(total)
    return Probabilities(None) if values.min() >= -ROUNDING and values.max() <= 1 + ROUNDING else None


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
    probes = np.concatenate([images, _probes(images.shape)])
    found = probabilities_in(source.outputs([head.output], probes)[head.output])
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


def _probes(shape: tuple[int, ...]) -> np.ndarray:
    """(n, 3, H, W): black, white, and noise of growing amplitude around grey."""
    rng = np.random.default_rng(0)
    height, width = shape[2:]
    noise = [128 + 255 * scale * rng.normal(size=(2, 1, height, width)) for scale in AMPLITUDES]
    flat = [np.full((1, 1, height, width), grey) for grey in (0.0, 255.0)]
    return np.concatenate([*flat, *noise]).astype(np.float32).repeat(3, axis=1)

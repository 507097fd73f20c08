"""A compressed graph against its definition: the compressed forward graph, and the values of its nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import onnx

from export.metadata import Metadata
from export.proof import parity
from export.proof.scores import explained_score
from export.proof.sessions import LEVELS, open_session, run
from export.proof.slopes import Tail, check_gradients
from export.proof.subgraphs import part

# Integer kernels round some ties to the other side than float32 arithmetic on the same scales does, and every layer
# makes more of them: between optimisation levels, activations of four networks agreed to a cosine of 0.994 or better.
LEVEL_COSINE = 0.98
SLOPES = 0.02  # relative error of slopes: gradients in half precision have 11 bits


@dataclass(frozen=True)
class Difference(parity.Difference):
    """Equal to the compressed forward graph where nothing is optimised, near it where ONNX Runtime rounds elsewhere."""

    @property
    def passes(self) -> bool:
        if self.level != "disabled" and self.output.startswith(("logits", "activations")):
            return self.cosine >= LEVEL_COSINE
        return self.relative_l2 <= SLOPES if self.output.startswith("slopes") else super().passes


@dataclass(frozen=True)
class Proof:
    """What a written graph is compared with: its definition, on some images."""

    content: bytes
    expected: Mapping[str, np.ndarray]  # logits and CAM tensors of the compressed forward graph
    metadata: Metadata
    images: np.ndarray

    @property
    def target(self) -> np.ndarray:
        return self.expected["logits"].argmax(axis=1).astype(np.int64)

    def differences(self) -> list[parity.Difference]:
        model = onnx.load_from_string(self.content)
        tails = {
            layer["gradients"]: part(model, [layer["activations"], "target"], layer["gradients"], self.images)
            for layer in self.metadata.layers
        }
        levels = [item for level in LEVELS for item in self._at_level(level, tails)]
        return [*levels, *(item for layer in self.metadata.layers for item in self._slopes(model, layer))]

    def _at_level(self, level: str, tails: Mapping[str, bytes]) -> Iterator[Difference]:
        """Forward outputs against the definition, gradients against the same nodes without optimisations.

        Both gradients are those at the activations of this level, because activations differ between levels.
        """
        feeds = {"image": self.images, "target": self.target}
        wanted = [*self.expected, *tails]
        found = run(open_session(self.content, level), feeds, wanted)
        expected = dict(self.expected)
        for layer in self.metadata.layers:
            name, gradients = layer["activations"], layer["gradients"]
            fed = {name: found[name], "target": self.target}
            expected |= run(open_session(tails[gradients], "disabled"), fed, [gradients])
        for name in wanted:
            yield _as_ours(parity.difference(level, name, found[name], expected[name]))

    def _slopes(self, model: onnx.ModelProto, layer: Mapping[str, str]) -> Iterator[Difference]:
        tail = Tail.of(model, layer["activations"], layer["gradients"])
        a = self.expected[layer["activations"]]
        return map(_as_ours, check_gradients(tail, a, self.images, self.target, self._score))

    def _score(self, logits: np.ndarray, target: np.ndarray) -> np.ndarray:
        return explained_score(logits, target, self.metadata.score_kind, self.metadata.explained == "probability")


def _as_ours(item: parity.Difference) -> Difference:
    return Difference(**asdict(item))

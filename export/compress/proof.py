"""A compressed graph against its definition: the compressed forward graph, and the slopes of its smooth twin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import onnx

from export.compress.slopes import compare_slopes
from export.metadata import Metadata
from export.proof import parity
from export.proof.scores import explained_score
from export.proof.sessions import LEVELS, open_session, run
from export.proof.subgraphs import part

# Integer kernels round some ties to the other side than float32 arithmetic on the same scales does, and every layer
# makes more of them: between optimisation levels, activations of four networks agreed to a cosine of 0.994 or better.
LEVEL_COSINE = 0.98
SLOPES = 0.1  # relative L2 error of slopes in float32, across kinks; the same four networks had up to 0.008


@dataclass(frozen=True)
class Difference(parity.Difference):
    """Equal to the compressed forward graph where nothing is optimised, near it where ONNX Runtime rounds elsewhere."""

    @property
    def passes(self) -> bool:
        if self.level != "disabled" and self.output.startswith(("logits", "activations")):
            return self.cosine >= LEVEL_COSINE
        return super().passes and not (self.output.startswith("slopes") and self.relative_l2 > SLOPES)


@dataclass(frozen=True)
class Proof:
    """What a written graph is compared with: its definition, on some images."""

    content: bytes
    expected: Mapping[str, np.ndarray]  # logits and CAM tensors of the compressed forward graph
    twin: onnx.ModelProto
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
        return [*levels, *(self._slopes(layer) for layer in self.metadata.layers)]

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

    def _slopes(self, layer: Mapping[str, str]) -> Difference:
        name, gradients = layer["activations"], layer["gradients"]
        feeds = {"image": self.images, "target": self.target}
        exact = run(open_session(self.content, "disabled"), feeds, [name, gradients])
        tail = part(self.twin, [name], "logits", self.images)
        return _as_ours(compare_slopes(tail, name, exact[name], exact[gradients], self._score))

    def _score(self, logits: np.ndarray) -> np.ndarray:
        probability = self.metadata.explained == "probability"
        return explained_score(logits.astype(np.float64), self.target, self.metadata.score_kind, probability)


def _as_ours(item: parity.Difference) -> Difference:
    return Difference(**asdict(item))

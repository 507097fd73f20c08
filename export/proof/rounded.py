"""A graph that rounds (to integers, or to half precision) against its definition, and against the values of its nodes.

ONNX Runtime's optimisations compute such graphs in other kernels, which round some ties to the other side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import onnx

from export.proof import parity
from export.proof.sessions import LEVELS, open_session, run
from export.proof.slopes import Tail, check_gradients
from export.proof.subgraphs import part

# Integer kernels round some ties to the other side than float32 arithmetic on the same scales does, and every layer
# makes more of them: between optimisation levels, activations of four networks agreed to a cosine of 0.994 or better.
LEVEL_COSINE = 0.98
SLOPES = 0.02  # relative error of slopes: gradients in half precision have 11 bits


@dataclass(frozen=True)
class Difference(parity.Difference):
    """Equal to the definition where nothing is optimised, near it where ONNX Runtime rounds elsewhere."""

    @property
    def passes(self) -> bool:
        if self.level != "disabled" and self.output.startswith(("logits", "activations")):
            return self.cosine >= LEVEL_COSINE
        return self.relative_l2 <= SLOPES if self.output.startswith("slopes") else super().passes


@dataclass(frozen=True)
class RoundedProof:
    """What a written graph is compared with: its definition, on some images.

    expected: `logits` and activations, without optimisations
    layers: activations -> gradients
    score: logits (N, K) and targets (N,) to the explained scores (N,)
    """

    content: bytes
    expected: Mapping[str, np.ndarray]
    layers: Mapping[str, str]
    images: np.ndarray
    score: Callable[[np.ndarray, np.ndarray], np.ndarray]

    @property
    def target(self) -> np.ndarray:
        return self.expected["logits"].argmax(axis=1).astype(np.int64)

    def differences(self) -> list[parity.Difference]:
        model = onnx.load_from_string(self.content)
        tails = {g: part(model, [a, "target"], g, self.images) for a, g in self.layers.items()}
        levels = [item for level in LEVELS for item in self._at_level(level, tails)]
        return [*levels, *(item for name in self.layers for item in self._slopes(model, name))]

    def _at_level(self, level: str, tails: Mapping[str, bytes]) -> Iterator[Difference]:
        """Forward outputs against the definition, gradients against the same nodes without optimisations.

        Both gradients are those at the activations of this level, because activations differ between levels.
        """
        feeds = {"image": self.images, "target": self.target}
        wanted = [*self.expected, *tails]
        found = run(open_session(self.content, level), feeds, wanted)
        expected = dict(self.expected)
        for name, gradients in self.layers.items():
            fed = {name: found[name], "target": self.target}
            expected |= run(open_session(tails[gradients], "disabled"), fed, [gradients])
        for name in wanted:
            yield _as_ours(parity.difference(level, name, found[name], expected[name]))

    def _slopes(self, model: onnx.ModelProto, name: str) -> Iterator[Difference]:
        tail = Tail.of(model, name, self.layers[name])
        return map(_as_ours, check_gradients(tail, self.expected[name], self.images, self.target, self.score))


def rounds(model: onnx.ModelProto) -> bool:
    """Whether a graph quantises activations."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def _as_ours(item: parity.Difference) -> Difference:
    return Difference(**asdict(item))

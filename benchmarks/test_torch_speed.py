"""The CAM pass beside pytorch-grad-cam, in a process of its own: Triton and TensorFlow do not bear each other."""

from __future__ import annotations

from functools import lru_cache, partial

import pytest

from benchmarks import explainers
from benchmarks.explainers import Explained
from benchmarks.networks import SIZES, checkpoints
from benchmarks.timing import OURS, in_turns, one_turn

TORCH = "pytorch-grad-cam"
WANTED = {TORCH: 2.0}


@lru_cache(maxsize=1)
def runs(architecture: str) -> dict[str, partial[Explained]]:
    """One call each, on the same images; the networks are of one family, their weights differ."""
    made = {
        OURS: explainers.ours(checkpoints(architecture).onnx("transfer")),
        TORCH: explainers.pytorch_grad_cam(architecture),
    }
    return {name: partial(explain, *explainers.batch(SIZES[architecture])) for name, explain in made.items()}


@pytest.mark.parametrize(("case", "contender", "turn"), in_turns(SIZES, [OURS, TORCH]))
def test_speed(benchmark, case: str, contender: str, turn: int) -> None:
    one_turn(benchmark, runs(case)[contender], contender, turn, explainers.BATCH, WANTED.get(contender))

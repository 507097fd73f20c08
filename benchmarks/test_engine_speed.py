"""Exported graphs at three depths beside the forward pass alone and TensorFlow's compiled GradientTape."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import pytest

from benchmarks import engine_cases
from benchmarks.engine_cases import BATCH, LAYERS
from benchmarks.networks import SIZES
from benchmarks.timing import OURS, in_turns, one_turn
from tests.keras_models import backbone

Run = Callable[[], object]

FORWARD, TAPE = "forward pass alone", "compiled GradientTape"
DEPTHS = ("last", "penultimate", "deep")
# How many times faster than the rival; the forward pass alone does less than ours, so a little slower will do.
WANTED = {"last": (FORWARD, 1 / 1.05), "penultimate": (FORWARD, 1 / 1.15), "deep": (TAPE, 1.0)}
CASES = {
    f"{architecture}, {layer} ({depth})": (architecture, layer, depth)
    for architecture, layers in LAYERS.items()
    for depth, layer in zip(DEPTHS, layers, strict=True)
}
PARAMETERS = [
    parameter for case, (_, _, depth) in CASES.items() for parameter in in_turns([case], (OURS, WANTED[depth][0]))
]


@lru_cache(maxsize=1)
def runs(architecture: str) -> dict[str, Run]:
    """What is timed of one network, by layer and by rival; the tape stops at the deepest layer."""
    model = backbone(architecture, SIZES[architecture])
    made = engine_cases.graphs(model, LAYERS[architecture])
    feeds = engine_cases.feeds(SIZES[architecture])
    found = {layer: engine_cases.onnx_run(content, feeds) for layer, content in made.by_layer.items()}
    found[FORWARD] = engine_cases.onnx_run(made.forward, {"image": feeds["image"]})
    found[TAPE] = engine_cases.tape_run(model, LAYERS[architecture][-1], feeds)
    return found


@pytest.mark.parametrize(("case", "contender", "turn"), PARAMETERS)
def test_speed(benchmark, case: str, contender: str, turn: int) -> None:
    architecture, layer, depth = CASES[case]
    run = runs(architecture)[layer if contender == OURS else contender]
    wanted = None if contender == OURS else WANTED[depth][1]
    one_turn(benchmark, run, contender, turn, BATCH, wanted)

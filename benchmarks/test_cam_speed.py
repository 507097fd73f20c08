"""A batch of images to logits and maps by two CAM methods, at the penultimate layer, beside two ways with Keras."""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np
import pytest

from benchmarks import explainers
from benchmarks.explainers import Explained
from benchmarks.networks import SIZES, checkpoints
from benchmarks.timing import OURS, in_turns, one_turn

TAPE, VIS = "compiled GradientTape, numpy", "tf-keras-vis"
WANTED = {TAPE: 1.0, VIS: 5.0}


@lru_cache(maxsize=1)
def runs(architecture: str) -> dict[str, partial[Explained]]:
    """One call each, on the same images; they have been found to give the same maps."""
    pair = checkpoints(architecture)
    made = {
        OURS: explainers.ours(pair.onnx("transfer")),
        TAPE: explainers.tape(pair.keras("transfer"), pair.layer),
        VIS: explainers.tf_keras_vis(pair.keras("transfer"), pair.layer),
    }
    batch = explainers.batch(SIZES[architecture])
    found = {name: partial(explain, *batch) for name, explain in made.items()}
    for rival in (TAPE, VIS):
        _require_alike(found[OURS](), found[rival](), rival)
    return found


def _require_alike(ours: Explained, theirs: Explained, rival: str) -> None:
    np.testing.assert_allclose(theirs.logits, ours.logits, rtol=1e-3, atol=1e-3, err_msg=rival)
    for method in theirs.maps.keys() & ours.maps.keys():
        error = np.linalg.norm(theirs.maps[method] - ours.maps[method]) / np.linalg.norm(ours.maps[method])
        assert error < 1e-2, f"{rival}, {method}: relative L2 error {error:.1e}"


@pytest.mark.parametrize(("case", "contender", "turn"), in_turns(SIZES, [OURS, *WANTED]))
def test_speed(benchmark, case: str, contender: str, turn: int) -> None:
    one_turn(benchmark, runs(case)[contender], contender, turn, explainers.BATCH, WANTED.get(contender))

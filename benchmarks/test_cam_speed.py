"""A batch of images to logits and maps by two CAM methods, at the penultimate layer: ours beside three libraries."""

from __future__ import annotations

from functools import lru_cache, partial
from importlib.util import find_spec

import numpy as np
import pytest

from benchmarks import explainers
from benchmarks.networks import CLASSES, SIZES, checkpoints
from benchmarks.timing import OURS, in_turns, one_turn

BATCH = 8
TAPE, VIS, TORCH = "compiled GradientTape, numpy", "tf-keras-vis", "pytorch-grad-cam"
WANTED = {TAPE: 1.0, VIS: 5.0, TORCH: 2.0}
INSTALLED = [TAPE, VIS, *([TORCH] if find_spec("torch") and find_spec("pytorch_grad_cam") else [])]


@lru_cache(maxsize=1)
def runs(architecture: str) -> dict[str, partial[explainers.Explained]]:
    """One call each, on the same images; the first three have been found to give the same maps."""
    pair = checkpoints(architecture)
    size, path = SIZES[architecture], pair.keras("transfer")
    greys = np.random.default_rng(0).uniform(0, 255, (BATCH, size, size)).astype(np.float32)
    classes = np.arange(BATCH) % len(CLASSES)
    made = {
        OURS: explainers.ours(pair.onnx("transfer")),
        TAPE: explainers.tape(path, pair.layer),
        VIS: explainers.tf_keras_vis(path, pair.layer),
    }
    if TORCH in INSTALLED:
        made[TORCH] = explainers.pytorch_grad_cam(architecture)
    found = {name: partial(explain, greys, classes) for name, explain in made.items()}
    _require_alike(found[OURS](), {name: found[name]() for name in (TAPE, VIS)})
    return found


def _require_alike(ours: explainers.Explained, rivals: dict[str, explainers.Explained]) -> None:
    for rival, found in rivals.items():
        np.testing.assert_allclose(found.logits, ours.logits, rtol=1e-3, atol=1e-3, err_msg=rival)
        for method in found.maps.keys() & ours.maps.keys():
            error = np.linalg.norm(found.maps[method] - ours.maps[method]) / np.linalg.norm(ours.maps[method])
            assert error < 1e-2, f"{rival}, {method}: relative L2 error {error:.1e}"


@pytest.mark.parametrize(("case", "contender", "turn"), in_turns(SIZES, [OURS, *INSTALLED]))
def test_speed(benchmark, case: str, contender: str, turn: int) -> None:
    one_turn(benchmark, runs(case)[contender], contender, turn, BATCH, WANTED.get(contender))

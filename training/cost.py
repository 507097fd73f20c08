"""What a step of a phase with [preserve] costs beside one of a plain phase, measured on its first batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from training.framework import keras, tf
from training.preserving_view import PreservingView

ROUNDS = 5  # of both kinds in turn; the fastest of each counts, since other work can only slow them down


def step_seconds(view: PreservingView, batch: Any) -> dict[str, float] | None:
    """`preserving` and `plain`: seconds for the gradients of one batch. Changes no variable.

    None on several devices, where a step outside of the strategy is not the step that is trained.
    """
    if view.distribute_strategy.num_replicas_in_sync > 1:
        return None
    data = tf.nest.map_structure(tf.constant, batch)
    kinds = {"preserving": view.gradients, "plain": view.plain_gradients}
    steps = {name: tf.function(kind) for name, kind in kinds.items()}
    before = [
        keras.ops.convert_to_numpy(variable) for variable in view.variables
    ]  # dropout counts its calls, BatchNorm moves
    for step in steps.values():
        step(data)  # compiles
    found = {name: min(times) for name, times in _rounds(steps, data).items()}
    for variable, value in zip(view.variables, before, strict=True):
        variable.assign(value)
    return found


def _rounds(steps: dict[str, Callable[[Any], Any]], data: Any) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            started = time.monotonic()
            gradients, _ = step(data)
            gradients[0].numpy()
            times[name].append(time.monotonic() - started)
    return times


def sentence(stem: str, found: dict[str, float], steps: int) -> str:
    """`finetune: an epoch takes about 30 s of training, a plain one 25 s (1.20 x)`."""
    ours, plain = found["preserving"], found["plain"]
    return (
        f"{stem}: with preserved evidence an epoch takes about {ours * steps:.3g} s of training, "
        f"without {plain * steps:.3g} s ({ours / plain:.2f} x)"
    )

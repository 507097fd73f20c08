"""Loss, optimiser and schedule against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training.config import Phase
from training.framework import keras
from training.objective import learning_rate, loss, optimizer


def rate(phase: Phase, steps: int, step: int) -> float:
    return float(learning_rate(phase, steps)(step))


def test_cosine_rises_in_the_warm_up_and_falls_to_zero() -> None:
    phase = Phase(epochs=5, learning_rate=0.4, schedule="cosine", warmup_epochs=1)
    assert [rate(phase, 10, step) for step in (0, 5, 10)] == pytest.approx([0, 0.2, 0.4])
    for step in range(10, 51, 5):
        expected = 0.2 * (1 + math.cos(math.pi * (step - 10) / 40))
        assert rate(phase, 10, step) == pytest.approx(expected, abs=1e-7)


def test_cosine_without_warm_up_starts_at_the_top() -> None:
    phase = Phase(epochs=2, learning_rate=0.4, schedule="cosine")
    assert [rate(phase, 10, step) for step in (0, 10, 20)] == pytest.approx([0.4, 0.2, 0], abs=1e-7)


def test_constant_schedule_is_a_number() -> None:
    assert learning_rate(Phase(epochs=1, learning_rate=0.3), 10) == 0.3


def test_weight_decay_chooses_adamw() -> None:
    assert type(optimizer(Phase(epochs=1, learning_rate=0.1), 1)) is keras.optimizers.Adam
    decayed = optimizer(Phase(epochs=1, learning_rate=0.1, weight_decay=0.02), 1)
    assert type(decayed) is keras.optimizers.AdamW
    assert decayed.weight_decay == 0.02


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_is_cross_entropy_with_smoothed_targets(smoothing: float) -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((6, 4)).astype(np.float32), np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0, 1]]
    phase = Phase(epochs=1, learning_rate=1, label_smoothing=smoothing)
    soft = targets * (1 - smoothing) + smoothing / 4
    log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert float(loss(phase, multi=False)(targets, logits)) == pytest.approx(
        -np.mean((soft * log_softmax).sum(1)), rel=1e-5
    )
    soft, chance = targets * (1 - smoothing) + smoothing / 2, 1 / (1 + np.exp(-logits))
    expected = -np.mean(soft * np.log(chance) + (1 - soft) * np.log(1 - chance))
    assert float(loss(phase, multi=True)(targets, logits)) == pytest.approx(expected, rel=1e-5)

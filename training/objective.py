"""What a phase minimises and how: loss, optimiser, learning-rate schedule."""

from __future__ import annotations

from typing import Any

from training.config import Phase
from training.framework import keras


def compile_view(view: Any, phase: Phase, steps: int, multi: bool) -> None:
    """Make a model ready to train and create the optimiser's variables, so that a saved state can fill them."""
    view.compile(optimizer(phase, steps), loss(phase, multi), metrics=[hit_rate(multi)], jit_compile=False)
    view.optimizer.build(view.trainable_variables)


def optimizer(phase: Phase, steps: int) -> Any:
    """Adam (Kingma 2014, arXiv 1412.6980), or with weight decay AdamW (Loshchilov 2017, arXiv 1711.05101)."""
    rate = learning_rate(phase, steps)
    if phase.weight_decay:
        return keras.optimizers.AdamW(rate, weight_decay=phase.weight_decay)
    return keras.optimizers.Adam(rate)


def learning_rate(phase: Phase, steps: int) -> Any:
    """A number, or with the cosine schedule a function of the step: linear up in the warm-up, then down to zero.

    `steps` is the number of batches of an epoch. rate(s) = r/2 (1 + cos(pi s / S)) over the S steps after the warm-up
    (Loshchilov 2016, arXiv 1608.03983).
    """
    if phase.schedule == "constant":
        return phase.learning_rate
    warm = round(phase.warmup_epochs * steps)
    falling = max(phase.epochs * steps - warm, 1)
    cosine = keras.optimizers.schedules.CosineDecay
    if not warm:
        return cosine(phase.learning_rate, falling)
    return cosine(0.0, falling, warmup_target=phase.learning_rate, warmup_steps=warm)


def loss(phase: Phase, multi: bool) -> Any:
    """Cross-entropy of logits: over the classes, or with multi-label per class."""
    kind = keras.losses.BinaryCrossentropy if multi else keras.losses.CategoricalCrossentropy
    return kind(from_logits=True, label_smoothing=phase.label_smoothing)


def hit_rate(multi: bool) -> Any:
    """Training accuracy of logits, named `accuracy`."""
    if multi:
        return keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)
    return keras.metrics.CategoricalAccuracy(name="accuracy")

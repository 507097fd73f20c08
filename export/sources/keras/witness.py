"""Logits, activations and gradients of a network by TensorFlow's GradientTape: what the exported graph must equal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from export.sources.keras.framework import tf
from export.sources.keras.head import Scores
from export.sources.keras.network import Tensor
from harness.common.errors import InputError


def explain(
    scores: Scores, layers: Mapping[str, Tensor], images: np.ndarray, target: np.ndarray, probability: bool = False
) -> dict[str, np.ndarray]:
    """{`logits`, `activations:LAYER`, `gradients:LAYER`}, maps channels first.

    :param images: (N, H, W, 3) grey levels.
    :raises InputError: the score does not depend on a layer.
    """
    images = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(images)  # layers that do not train are not watched by themselves
        values, *activations = scores.network.run(images, [scores.logits, *layers.values()])
        logits = scores.of(values)
        score = _score(logits, tf.constant(target), probability, scores.kind)
    gradients = tape.gradient(score, activations)
    found = {"logits": logits.numpy()}
    for name, a, g in zip(layers, activations, gradients, strict=True):
        if g is None:
            raise InputError(f"{scores.network.source}: the score does not depend on layer {name!r}; name another one")
        found[f"activations:{name}"] = np.moveaxis(a.numpy(), -1, 1)
        found[f"gradients:{name}"] = np.moveaxis(g.numpy(), -1, 1)
    return found


def _score(logits: Any, target: Any, probability: bool, kind: str) -> Any:
    """The sum over images of the explained score: gradients of a sum are those of each term."""
    if kind == "binary":
        scores = tf.sigmoid(logits) if probability else logits
        return tf.reduce_sum(scores[:, 0] * tf.cast(2 * target - 1, logits.dtype))
    scores = (tf.nn.softmax if kind == "softmax" else tf.sigmoid)(logits) if probability else logits
    return tf.reduce_sum(tf.gather(scores, target, batch_dims=1))

"""What a phase trains and what it is fed: images through the whole network, or cached features through the head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from training.batches import FeatureBatches, ImageBatches
from training.config import Phase
from training.model import head_view, pooling_view, training_view
from training.preserve import Measure, Preservation
from training.task import Task

EVALUATION_BATCH = 32


@dataclass(frozen=True)
class Feed:
    """`view` is the model to train; `epoch(order, key)` gives its batches, `plain(indices)` those for prediction.

    `measure` is asked after every epoch how far the evidence of the validation images is from its references.
    """

    view: Any
    epoch: Callable[[np.ndarray, list[int]], Any]
    plain: Callable[[np.ndarray], Any]
    measure: Measure | None = None


def caches(phase: Phase) -> bool:
    """Whether the frozen backbone can run once for all epochs: only the head learns and images never change.

    The map of an image depends on more than its pooled features, so that a phase that preserves it runs everything.
    """
    still = phase.trainable == "head" and not phase.augment.active()
    return phase.cache_features and still and not preserves(phase)


def preserves(phase: Phase) -> bool:
    """Whether a loss of evidence takes part in the training; with a weight of 0 it is measured only."""
    return phase.preserve is not None and phase.preserve.weight > 0


def feed_for(classifier: Any, phase: Phase, task: Task, preservation: Preservation | None = None) -> Feed:
    """The feed of a phase. The first two kinds give the same gradients: a frozen layer runs as in inference either way.

    :param preservation: what [preserve] holds the evidence to; with a weight of 0 it is measured only.
    """
    weights = task.class_weights() if phase.class_weights else np.ones(len(task.samples), np.float32)
    labels = (task.targets, weights)
    if preservation is None:
        return (_cached if caches(phase) else _direct)(classifier, phase, task, labels)
    measure = Measure(classifier, preservation, task.indices("validation"))
    if preserves(phase):
        return replace(_preserving(classifier, phase, preservation, labels), measure=measure)
    return replace(feed_for(classifier, phase, task), measure=measure)


def _preserving(
    classifier: Any, phase: Phase, preservation: Preservation, labels: tuple[np.ndarray, np.ndarray]
) -> Feed:
    pixels, how = preservation.task.pixels, phase.augment if phase.augment.active() else None
    return Feed(
        preservation.view(classifier, phase),
        lambda order, key: preservation.epoch(order, phase.batch_size, labels, how, key),
        lambda indices: ImageBatches(pixels, indices, EVALUATION_BATCH),
    )


def _cached(classifier: Any, phase: Phase, task: Task, labels: tuple[np.ndarray, np.ndarray]) -> Feed:
    features = _features(classifier, task)
    return Feed(
        head_view(classifier),
        lambda order, _: FeatureBatches(features, order, phase.batch_size, labels),
        lambda indices: FeatureBatches(features, indices, EVALUATION_BATCH),
    )


def _direct(classifier: Any, phase: Phase, task: Task, labels: tuple[np.ndarray, np.ndarray]) -> Feed:
    pixels, how = task.pixels, phase.augment if phase.augment.active() else None
    return Feed(
        training_view(classifier, phase),
        lambda order, key: ImageBatches(pixels, order, phase.batch_size, labels, how, key),
        lambda indices: ImageBatches(pixels, indices, EVALUATION_BATCH),
    )


def _features(classifier: Any, task: Task) -> np.ndarray:
    """Pooled features (N, C) of the training and validation images; the test images' rows are never read."""
    wanted = np.sort(np.concatenate([task.indices("train"), task.indices("validation")]))
    found = predict(pooling_view(classifier), ImageBatches(task.pixels, wanted, EVALUATION_BATCH))
    features = np.full((len(task.samples), found.shape[1]), np.nan, np.float32)
    features[wanted] = found
    return features


def predict(view: Any, batches: Any) -> np.ndarray:
    """Outputs of a model for all batches, float32."""
    return np.asarray(view.predict(batches, verbose=0), np.float32)

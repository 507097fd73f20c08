"""Which records of a pair are compared, and for which of them methods of several passes are computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.images.dataset import Records, Sample
from harness.models.metadata import GraphMetadata
from harness.results.options import Options, Selection
from harness.statistics.chance import sampled


def selected(
    metadata: GraphMetadata, records: Records, before: np.ndarray, after: np.ndarray, select: Selection
) -> np.ndarray:
    """(R,) which records are compared, from the logits (images, K) of two checkpoints.

    true-positive: both say yes to the explained class; agree: both decide alike (in a multi-label model: on the
    explained class); all: every image that could be read.
    """
    said = [metadata.decisions(logits)[records.images] for logits in (before, after)]  # (R, K)
    readable = np.isfinite(before).all(axis=1)[records.images]
    chosen = np.maximum(records.classes, 0)[:, None]
    on_class = [np.take_along_axis(decided, chosen, axis=1)[:, 0] for decided in said]
    if select == "true-positive":
        return readable & on_class[0] & on_class[1]
    if select == "agree":
        alike = on_class[0] == on_class[1] if metadata.score_kind == "multilabel" else (said[0] == said[1]).all(axis=1)
        return readable & alike
    return readable


def sampled_records(samples: Sequence[Sample], options: Options) -> np.ndarray:
    """(R,) bool: the records for which methods that take several passes are computed, as many of each class.

    They depend on the manifest, the seed and the number alone; images without labels count as one class.
    """
    records = Records.of(samples)
    images = [samples[image] for image in records.images]
    names, groups = [image.name for image in images], [image.group for image in images]
    chosen = np.zeros(len(records), bool)
    chosen[sampled(names, records.classes, groups, options.seed, options.sample)] = True
    return chosen

"""What two checkpoints answer about the records of a pair, which of them are compared, and which are sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.images.dataset import Records, Sample
from harness.models.metadata import GraphMetadata
from harness.results.options import Selection
from harness.results.plan import Plan
from harness.statistics.chance import sampled


@dataclass(frozen=True, eq=False)
class Answers:
    """(R,) bool each, of the records of a pair.

    readable: the image could be read
    same: both decide alike (in a multi-label model: on the explained class)
    right_before, right_after: the checkpoint says yes to the explained class
    """

    readable: np.ndarray
    same: np.ndarray
    right_before: np.ndarray
    right_after: np.ndarray

    @property
    def negative_flips(self) -> np.ndarray:
        """Right before and wrong after, of readable records. Yan et al. 2021, arXiv 2011.09161."""
        return self.readable & self.right_before & ~self.right_after

    @property
    def positive_flips(self) -> np.ndarray:
        """Wrong before and right after, of readable records."""
        return self.readable & ~self.right_before & self.right_after


def answers(metadata: GraphMetadata, records: Records, before: np.ndarray, after: np.ndarray) -> Answers:
    """From the logits (images, K) of two checkpoints."""
    said = [metadata.decisions(logits)[records.images] for logits in (before, after)]  # (R, K)
    chosen = np.maximum(records.classes, 0)[:, None]
    first, second = (np.take_along_axis(decided, chosen, axis=1)[:, 0] for decided in said)
    same = first == second if metadata.score_kind == "multilabel" else (said[0] == said[1]).all(axis=1)
    return Answers(np.isfinite(before).all(axis=1)[records.images], same, first, second)


def selected(
    metadata: GraphMetadata, records: Records, before: np.ndarray, after: np.ndarray, select: Selection
) -> np.ndarray:
    """(R,) which records are compared, from the logits (images, K) of two checkpoints.

    true-positive: both say yes to the explained class; agree: both decide alike (in a multi-label model: on the
    explained class); all: every image that could be read.
    """
    found = answers(metadata, records, before, after)
    if select == "true-positive":
        return found.readable & found.right_before & found.right_after
    return found.readable & found.same if select == "agree" else found.readable


def sampled_records(samples: Sequence[Sample], plan: Plan) -> np.ndarray:
    """(R,) bool: the records for which methods that take several passes are computed, as many of each class.

    They depend on the manifest, the seed and the number alone; images without labels count as one class. All where the
    plan has no such method.
    """
    records, options = Records.of(samples), plan.options
    if not plan.methods_of_several_passes:
        return np.ones(len(records), bool)
    chosen = np.zeros(len(records), bool)
    chosen[sampled(*records.described(samples, np.arange(len(records))), options.seed, options.sample)] = True
    return chosen

"""The prediction side of a result: how well checkpoints classify, whether they agree, whether they differ."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cached_property

import numpy as np

from harness.evaluation.classification_metrics import Quality, agreement, qualities
from harness.results.plan import Plan
from harness.results.reader import Predictions
from harness.results.schema import Equivalence, Estimate
from harness.statistics.bootstrap import Resampling, interval
from harness.statistics.hypothesis_tests import equivalence


class Classification:
    """accuracy, auc and ece of the checkpoints of a plan, on common draws of patients. Empty without labels."""

    def __init__(self, plan: Plan, collected: Predictions, resampling: Resampling, threads: int = 1) -> None:
        self.plan = plan
        self.collected = collected
        self.resampling = resampling
        self.threads = threads
        self.thresholds = plan.checkpoints[0].graph.metadata.thresholds

    @cached_property
    def qualities(self) -> list[dict[str, Quality]]:
        """Per checkpoint, by name."""
        truth = self._truth()
        if truth is None:
            return [{} for _ in self.plan.checkpoints]
        kind = self.plan.score_kind

        def of(number: int) -> dict[str, Quality]:
            return qualities(self.probabilities(number), truth, self.resampling, kind, self.thresholds)

        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(of, range(len(self.plan.checkpoints))))

    def probabilities(self, checkpoint: int) -> np.ndarray:
        """(images, K)."""
        return self.plan.checkpoints[checkpoint].graph.metadata.probabilities(self.collected.logits[checkpoint])

    def estimates(self, checkpoint: int) -> dict[str, Estimate]:
        """The qualities of a checkpoint with intervals."""
        return {name: _estimated(quality) for name, quality in self.qualities[checkpoint].items()}

    def agreement(self, before: int, after: int) -> Estimate:
        """Share of decisions on which two checkpoints agree."""
        kind = self.plan.score_kind
        one, other = self.probabilities(before), self.probabilities(after)
        return _estimated(agreement(one, other, self.resampling, kind, self.thresholds))

    def changes(self, before: int, after: int) -> dict[str, Estimate]:
        """after - before of every quality."""
        first, second = self.qualities[before], self.qualities[after]
        return {name: _difference(first[name], second[name]) for name in first}

    def equivalences(self, name: str, one: Sequence[int], other: Sequence[int]) -> list[Equivalence]:
        """Whether accuracy and auc of two groups of checkpoints differ by less than the margin; none without labels.

        A group are replicates; their mean is what counts.
        """
        names = [of for of in ("accuracy", "auc") if of in self.qualities[one[0]]]
        return [self._equivalence(name, of, self._mean(one, of), self._mean(other, of)) for of in names]

    def majority(self) -> float | None:
        """Share of the most frequent class: the accuracy of always answering it. None but for one label per image."""
        truth = self._truth()
        if truth is None or self.plan.score_kind == "multilabel":
            return None
        return float(truth[self.collected.readable].mean(axis=0).max())

    def _equivalence(self, name: str, of: str, first: Quality, second: Quality) -> Equivalence:
        margin, patients = self.plan.options.margin, min(first.n_patients, second.n_patients)
        found = equivalence(second.distribution - first.distribution, margin, patients)
        return Equivalence(name=name, of=of, difference=second.value - first.value, margin=margin, **asdict(found))

    def _mean(self, checkpoints: Sequence[int], of: str) -> Quality:
        found = [self.qualities[n][of] for n in checkpoints]
        value = sum(quality.value for quality in found) / len(found)
        distribution = np.mean([quality.distribution for quality in found], axis=0)
        return Quality(value, distribution, min(quality.n_patients for quality in found), found[0].reason)

    def _truth(self) -> np.ndarray | None:
        """(images, K) bool, or None where images are not labelled."""
        samples = self.collected.samples
        truth = np.zeros((len(samples), len(self.plan.classes)), bool)
        for row, sample in zip(truth, samples, strict=True):
            if sample.labels is None:
                return None
            row[list(sample.labels)] = True
        return truth


def _estimated(quality: Quality) -> Estimate:
    ends = interval(quality.distribution, quality.n_patients)
    return Estimate(mean=quality.value, low=ends.low, high=ends.high, reason=quality.reason or ends.reason)


def _difference(one: Quality, other: Quality) -> Estimate:
    ends = interval(other.distribution - one.distribution, min(one.n_patients, other.n_patients))
    reason = one.reason or other.reason or ends.reason
    return Estimate(mean=other.value - one.value, low=ends.low, high=ends.high, reason=reason)

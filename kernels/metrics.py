"""All metrics of a batch of pairs of maps at once, sharing what can be shared between them.

A record of `kernels.catalogue.METRICS` is callable: that is the checked public function of one metric alone,
`METRICS["pearson"](before, after)`. Both give the same bits for a pair, whatever else is in the batch and however
many threads there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kernels.catalogue import METRICS
from kernels.record_types import MetricRecord
from kernels.scoring import PairScores, score_pairs

BUILT_IN = tuple(METRICS.built_in.values())


def pair_metrics(
    before: np.ndarray,
    after: np.ndarray,
    threads: int = 1,
    *,
    before_reasons: np.ndarray | None = None,
    after_reasons: np.ndarray | None = None,
    size: tuple[int, int] | None = None,
    metrics: Sequence[MetricRecord] = BUILT_IN,
) -> PairScores:
    """Every one of `metrics` for the pairs (before[n], after[n]) of maps (N, H, W).

    before_reasons, after_reasons: reason codes (N,) of the CAM stage; where one is not DEFINED, every metric
        of that map is undefined for that reason
    size: resize all maps to (H, W) first, by the rule of `kernels.resize`, one map at a time: the same
        numbers as for `upsample`d batches without holding them; then the sides may differ in (h, w)

    Raises TypeError or ValueError where the arguments are not maps, differ in number or, without `size`, in
    shape, UserFunctionError (a ValueError) where a registered metric fails. What is wrong inside a map is reported as
    a reason.
    """
    return score_pairs(metrics, before, after, before_reasons, after_reasons, size, threads)

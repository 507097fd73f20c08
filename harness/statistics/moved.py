"""Which images moved: those whose drift exceeds what noise on the picture alone brings about in nearly all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

JITTER_SHARE = 0.05  # of the pooled comparisons with noise, fewer than these count as moved


@dataclass(frozen=True, eq=False)
class Moved:
    """Which of n images moved, by a metric of their maps before and after.

    threshold: the value beyond which an image counts as moved; NaN without a comparison with noise
    known: (n,) bool, images whose value is defined, where there is a threshold that something can lie beyond
    moved: (n,) bool, those of the known whose drift exceeds the threshold
    """

    threshold: float
    known: np.ndarray
    moved: np.ndarray

    @property
    def rate(self) -> np.ndarray:
        """(n,) 1 where the image moved, 0 where it did not, NaN where that is not known."""
        return np.where(self.known, self.moved.astype(np.float64), np.nan)


def jitter_threshold(jitter: np.ndarray, direction: int) -> float:
    """The 5 % quantile of comparisons with noise, counted from the drifted side; NaN without a defined value.

    The smallest x with direction * value <= direction * x in 5 % or more of them (an order statistic, not
    interpolated): strictly beyond x lie fewer than 5 %, whatever the ties.

    :param jitter: any shape, pooled over images and checkpoints; each value may be a mean over draws of the noise.
    :param direction: +1 where a high value of the metric is stable, -1 where a low one is.
    :raises ValueError: a direction that is neither.
    """
    if direction not in (1, -1):
        raise ValueError(f"direction must be 1 (high is stable) or -1 (low is stable), not {direction!r}")
    defined = direction * jitter[np.isfinite(jitter)]
    return direction * float(np.quantile(defined, JITTER_SHARE, method="inverted_cdf")) if defined.size else np.nan


def moved_beyond(values: np.ndarray, jitter: np.ndarray, direction: int, worst: float) -> Moved:
    """An image moved where direction * value < direction * `jitter_threshold`.

    Evidence that vanished has a value (0 in overlaps), and so counts as moved. An undefined value is not known, and
    none is where noise alone brings 5 % of the comparisons to the worst value: no drift exceeds that.

    :param values: (n,) metric of each image before and after, NaN where undefined.
    :param jitter, direction: as in `jitter_threshold`.
    :param worst: the drifted end of the metric's range, 0 for overlaps.
    """
    threshold = jitter_threshold(jitter, direction)
    known = np.isfinite(values) & (direction * threshold > direction * worst)  # false where the threshold is NaN
    return Moved(threshold, known, known & (direction * values < direction * threshold))

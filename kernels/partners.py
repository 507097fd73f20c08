"""What two maps score that have nothing to do with each other: the chance level of the metrics.

Image i before is compared with image j after, where j has the same class but is of another patient. The partners
are given; `harness.statistics.chance` draws them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from kernels.cached_maps import Memory, Slot
from kernels.checks import positive_integer
from kernels.metrics import BUILT_IN
from kernels.reasons import Reason
from kernels.record_types import MetricRecord
from kernels.scoring import PairScores, PairWriter, RecentMaps, Side, common_size, empty_scores
from kernels.threads import for_each

NOBODY = -1
RUN = 64  # maps in a row that one thread takes, where they have partners in common


def partner_metrics(
    before: np.ndarray,
    after: np.ndarray,
    partners: np.ndarray,
    threads: int = 1,
    *,
    before_reasons: np.ndarray | None = None,
    after_reasons: np.ndarray | None = None,
    size: tuple[int, int] | None = None,
    shifts: Sequence[tuple[float, float]] | np.ndarray | None = None,
    metrics: Sequence[MetricRecord] = BUILT_IN,
    near: bool = False,
) -> PairScores:
    """Every one of `metrics` of before[i] and after[partners[d, i]]: values and reasons of shape (draws, N, M).

    shifts: by how much (in shares of height and width) the map after is moved up and left first, as in
        `kernels.resize`: (draws, 2), or (draws, N, 2)
    near: True where maps before that follow each other have partners in common, which then are worked on once
    The other arguments are those of `kernels.metrics.pair_metrics`; stored raw maps with `size` serve as well.
    Without a partner the reason is NO_PARTNER. What is known of before[i] is computed once for all draws.
    """
    left, right = Side.of(before, before_reasons, "before"), Side.of(after, after_reasons, "after")
    size = common_size(left.maps, right.maps, size)
    partners = _checked_partners(partners, len(left.maps), len(right.maps))
    moves = _checked_shifts(shifts, partners.shape)
    return _against_partners(left, right, partners, moves, size, metrics, positive_integer(threads, "threads"), near)


def _checked_shifts(shifts: object, shape: tuple[int, ...]) -> np.ndarray:
    """float64 (draws, N, 2)."""
    if shifts is None:
        return np.zeros((*shape, 2))
    found = np.asarray(shifts, np.float64)
    if len(found) != shape[0]:
        raise ValueError(f"there are {shape[0]} draws and {len(found)} shifts; give one per draw")
    return np.broadcast_to(found[:, None] if found.ndim == 2 else found, (*shape, 2))


def _against_partners(
    left: Side,
    right: Side,
    partners: np.ndarray,
    moves: np.ndarray,
    size: tuple[int, int],
    metrics: Sequence[MetricRecord],
    threads: int,
    near: bool,
) -> PairScores:
    """`partner_metrics` of arguments that have been checked; one image at a time per thread."""
    scores = empty_scores(metrics, *partners.shape)
    scores.values[partners == NOBODY] = np.nan
    scores.reasons[partners == NOBODY] = Reason.NO_PARTNER
    writer = PairWriter(metrics, size)

    def worker() -> Callable[[int], None]:
        shared = Memory()
        one = Slot(size, shared)
        others = RecentMaps(right, [Slot(size, shared) for _ in range(len(partners) + 1 if near else 1)])

        def compare(n: int) -> None:
            facts = left.load(one, n)
            for draw in np.flatnonzero(partners[:, n] != NOBODY):
                partner = others.load(int(partners[draw, n]), (moves[draw, n, 0], moves[draw, n, 1]))
                writer.write(facts, partner, scores.values[draw, n], scores.reasons[draw, n])

        return compare

    for_each(range(partners.shape[1]), threads, worker, RUN if near else 1)
    return scores


def mean_over_draws(scores: PairScores) -> PairScores:
    """The chance level of each image, (N, M): the mean over the draws in which the metric is defined.

    Where no draw is, the reason is that of the first draw; where all that are defined VANISHED, so has the mean.
    """
    counted = ~np.isnan(scores.values)
    number = counted.sum(axis=0)
    total = np.where(counted, scores.values, 0.0).sum(axis=0)
    values = np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)
    vanished = np.where((scores.reasons == Reason.VANISHED).any(axis=0), Reason.VANISHED, scores.reasons[0])
    defined = (scores.reasons == Reason.DEFINED).any(axis=0)
    return PairScores(scores.names, values, np.where(defined, Reason.DEFINED, vanished).astype(np.uint8))


def _checked_partners(partners: object, before: int, after: int) -> np.ndarray:
    result = np.asarray(partners)
    if result.ndim != 2 or result.shape[1] != before or result.dtype.kind not in "iu":
        raise ValueError(f"partners must be whole numbers (draws, {before}), not {result.dtype} {result.shape}")
    if result.size and not (result.min() >= NOBODY and result.max() < after):
        raise ValueError(f"partners must lie between -1 (nobody) and {after - 1}, the last map of after")
    return result

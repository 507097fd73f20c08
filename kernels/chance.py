"""What two maps score that have nothing to do with each other: the chance level of the metrics.

Image i before is compared with image j after, where j has the same class but is of another patient. The
partners are drawn from the sorted image list with a seed, so they depend neither on the order of the rows nor
on batches, and those of one class not on the other classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from hashlib import blake2b
from zlib import crc32

import numpy as np

from kernels.checks import positive_integer
from kernels.facts import Memory, Slot
from kernels.metrics import METRICS
from kernels.reasons import Reason
from kernels.scoring import PairScores, PairWriter, Side, common_size, empty_scores
from kernels.threads import for_each

DRAWS = 20
SAMPLE = 4096  # rows: their maps are held in memory, and 20 draws of them cost as much as 82,000 pairs
NOBODY = -1


def sampled(
    images: Sequence[str],
    classes: Sequence | np.ndarray,
    groups: Sequence | np.ndarray,
    seed: int = 0,
    limit: int = SAMPLE,
) -> np.ndarray:
    """Rows int64 (n,), ascending, on which a chance level is estimated: all N of them where N <= limit, else a sample.

    images, classes, groups (N,): name, explained class and patient of each row
    Every class gives the same number of rows, or all that it has: the largest number with at most `limit` in total,
    and at least 2. Those of a class are the ones whose names have the smallest digests under `seed`, a random sample
    in which every row is as likely as any other, whatever their order. So the mean of a class in the sample estimates
    its mean over all rows; a mean over several classes needs the weight N_class / n_class. Where all rows of a class
    in the sample were of one patient, the last gives way to the first of another, so that it has a partner.
    """
    labels = np.asarray(classes)
    _require_as_many(images, labels, groups)
    if len(labels) <= limit:
        return np.arange(len(labels))
    key = str(seed).encode()
    digests = [blake2b(name.encode(), digest_size=8, key=key).digest() for name in images]
    order = np.argsort(np.array(digests, "S8").view(">u8"), kind="stable")
    names, counts = np.unique(labels, return_counts=True)
    share = _share(counts, limit)
    chosen = [_with_two_patients(order[labels[order] == label], groups, share) for label in names]
    return np.sort(np.concatenate(chosen))


def _share(counts: np.ndarray, limit: int) -> int:
    """The largest number s >= 2 with sum_c min(counts_c, s) <= limit."""
    totals = np.minimum.outer(counts, np.arange(limit + 1)).sum(axis=0)
    return max(2, int(np.searchsorted(totals, limit, side="right")) - 1)


def _with_two_patients(rows: np.ndarray, groups: Sequence | np.ndarray, share: int) -> np.ndarray:
    """The first `share` rows; the last of them replaced where otherwise all are of one patient."""
    first = rows[:share].copy()
    if len({groups[row] for row in first}) == 1:
        first[-1] = next((row for row in rows[share:] if groups[row] != groups[first[0]]), first[-1])
    return first


def derangements(
    images: Sequence[str],
    classes: Sequence | np.ndarray,
    groups: Sequence | np.ndarray,
    draws: int = DRAWS,
    seed: int = 0,
) -> np.ndarray:
    """Partners int64 (draws, N): row partners[d, i] is the unrelated image of row i in draw d.

    images, classes, groups (N,): name, explained class and patient of each row
    Within a class each draw is a permutation that sends no image to one of its own patient. Only where one
    patient has more than half of a class no such permutation exists; the images of that patient that would meet
    their own get a random image of somebody else. A class with fewer than two patients has no partners: -1.
    """
    names = np.asarray(images, str)
    labels, patients = np.asarray(classes), np.asarray(groups)
    _require_as_many(names, labels, patients)
    partners = np.full((positive_integer(draws, "draws"), len(names)), NOBODY, np.int64)
    by_name = np.argsort(names, kind="stable")
    for label in np.unique(labels):
        rows = by_name[labels[by_name] == label]
        codes = np.unique(patients[rows], return_inverse=True)[1]
        if codes.max() > 0:
            for draw in range(draws):
                random = np.random.default_rng([seed, draw, crc32(str(label).encode())])
                partners[draw, rows] = rows[_derangement(codes, random)]
    return partners


def _require_as_many(images: Sized, classes: Sized, groups: Sized) -> None:
    if not len(images) == len(classes) == len(groups):
        raise ValueError(f"images, classes and groups have {len(images)}, {len(classes)} and {len(groups)} rows")


def _derangement(codes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """For each of n images the place of its partner; `codes` (n,) number the patients.

    All images stand in a circle, patient by patient, in random order. Turned by at least the m images of the
    largest patient and at most n - m, no image meets its own patient.
    """
    n, counts = len(codes), np.bincount(codes)
    order = np.lexsort((random.random(n), random.permutation(len(counts))[codes]))
    largest = min(counts.max(), n - counts.max())  # the other way round where one patient has the majority
    turned = np.roll(order, -random.integers(largest, n - largest + 1))
    partner = np.empty(n, np.int64)
    partner[order] = turned
    for i in np.flatnonzero(codes[partner] == codes):
        partner[i] = random.choice(np.flatnonzero(codes != codes[i]))
    return partner


def partner_metrics(
    before: np.ndarray,
    after: np.ndarray,
    partners: np.ndarray,
    threads: int = 1,
    *,
    before_reasons: np.ndarray | None = None,
    after_reasons: np.ndarray | None = None,
    size: tuple[int, int] | None = None,
    shifts: Sequence[tuple[float, float]] | None = None,
) -> PairScores:
    """Every metric of before[i] and after[partners[d, i]]: values and reasons of shape (draws, N, M).

    shifts: per draw, by how much (in shares of height and width) the map after is moved up and left first, as in
        `kernels.resize`
    The other arguments are those of `kernels.metrics.pair_metrics`; stored raw maps with `size` serve as well.
    Without a partner the reason is NO_PARTNER. What is known of before[i] is computed once for all draws.
    """
    left, right = Side.of(before, before_reasons, "before"), Side.of(after, after_reasons, "after")
    size = common_size(left.maps, right.maps, size)
    partners = _checked_partners(partners, len(left.maps), len(right.maps))
    moves = [(0.0, 0.0)] * len(partners) if shifts is None else [(float(d), float(e)) for d, e in shifts]
    if len(moves) != len(partners):
        raise ValueError(f"there are {len(partners)} draws and {len(moves)} shifts; give one per draw")
    return _against_partners(left, right, partners, moves, size, positive_integer(threads, "threads"))


def _against_partners(
    left: Side,
    right: Side,
    partners: np.ndarray,
    moves: list[tuple[float, float]],
    size: tuple[int, int],
    threads: int,
) -> PairScores:
    """`partner_metrics` of arguments that have been checked; one image at a time per thread."""
    metrics = list(METRICS.values())
    scores = empty_scores(metrics, *partners.shape)
    scores.values[partners == NOBODY] = np.nan
    scores.reasons[partners == NOBODY] = Reason.NO_PARTNER
    writer = PairWriter(metrics, size)

    def worker() -> Callable[[int], None]:
        shared = Memory()
        one, other = Slot(size, shared), Slot(size, shared)

        def compare(n: int) -> None:
            facts = left.load(one, n)
            for draw in np.flatnonzero(partners[:, n] != NOBODY):
                partner = right.load(other, partners[draw, n], moves[draw])
                writer.write(facts, partner, scores.values[draw, n], scores.reasons[draw, n])

        return compare

    for_each(range(partners.shape[1]), threads, worker)
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

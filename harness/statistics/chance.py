"""The chance level: which unrelated image each image is compared with."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from hashlib import blake2b
from zlib import crc32

import numpy as np

from kernels.checks import positive_integer
from kernels.partners import NOBODY

DRAWS = 20
PARTNERS = 10  # by budget, at most: the error of a mean over images hardly depends on the tenth,
FEWEST = 3  # and of many images not on the fourth
COMPARISONS = 3150  # by budget: from 315 images on, each has fewer partners than PARTNERS
SAMPLE = 4096  # rows: their maps are held in memory, and 20 draws of them cost as much as 82,000 pairs


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
    order = _by_digest(images, seed)
    names, counts = np.unique(labels, return_counts=True)
    share = _share(counts, limit)
    chosen = [_with_two_patients(order[labels[order] == label], groups, share) for label in names]
    return np.sort(np.concatenate(chosen))


def turns(images: Sequence[str], classes: Sequence | np.ndarray, seed: int = 0) -> np.ndarray:
    """(N,) 0 and 1 in turns within every class, in the order of the names' digests under `seed`."""
    labels, found = np.asarray(classes), np.empty(len(images), np.int64)
    order = _by_digest(images, seed)
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        found[rows] = np.arange(len(rows)) % 2
    return found


def _by_digest(images: Sequence[str], seed: int) -> np.ndarray:
    """(N,) the rows in the order of the digests of their names: a random order that no other row has a part in."""
    key = str(seed).encode()
    digests = [blake2b(name.encode(), digest_size=8, key=key).digest() for name in images]
    return np.argsort(np.array(digests, "S8").view(">u8"), kind="stable")


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


def partners_of(images: int) -> int:
    """How many partners each of so many images has by budget: COMPARISONS in all, but FEWEST to PARTNERS each."""
    return min(PARTNERS, max(FEWEST, COMPARISONS // max(1, images)))


def neighbours(
    images: Sequence[str],
    classes: Sequence | np.ndarray,
    groups: Sequence | np.ndarray,
    partners: int = PARTNERS,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """An order int64 (N,) of the rows, class by class, and their partners int64 (partners, N), as places in that order.

    images, classes, groups (N,): name, explained class and patient of each row
    The images of a class stand in a circle, patient by patient, in random order. The partners of an image are
    `partners` others in a row, from a random distance on, no nearer than the m images of the largest patient on either
    side: none is of its own patient, and each is the partner of as many. So the partners of neighbours are the same but
    for one. A circle with room for fewer gives fewer, the others are -1; where one patient has more than half of a
    class, the images that would meet their own get random images of somebody else, as in `derangements`. A class with
    fewer than two patients has no partners: -1.
    """
    names, labels, patients = np.asarray(images, str), np.asarray(classes), np.asarray(groups)
    _require_as_many(names, labels, patients)
    by_name = np.argsort(names, kind="stable")
    order: list[np.ndarray] = []
    found: list[np.ndarray] = []
    for label in np.unique(labels):
        rows = by_name[labels[by_name] == label]
        random = np.random.default_rng([seed, crc32(str(label).encode())])
        codes = np.unique(patients[rows], return_inverse=True)[1]
        start = sum(len(one) for one in order)
        circle = _circle(codes, random)
        order.append(rows[circle])
        near = _nearest(codes[circle], positive_integer(partners, "partners"), random)
        found.append(np.where(near == NOBODY, NOBODY, near + start))
    if not order:
        return np.empty(0, np.int64), np.empty((partners, 0), np.int64)
    return np.concatenate(order), np.concatenate(found, axis=1)


def _nearest(codes: np.ndarray, partners: int, random: np.random.Generator) -> np.ndarray:
    """(partners, n) places of the partners of n images in a circle, whose patients are `codes`; NOBODY: none."""
    n, found = len(codes), np.full((partners, len(codes)), NOBODY, np.int64)
    largest = np.bincount(codes).max()
    if largest == n:
        return found
    first, last = min(largest, n - largest), max(largest, n - largest)  # the distances at which nobody meets his own
    count = min(partners, last - first + 1)
    distance = random.integers(first, last - count + 2)
    found[:count] = (np.arange(n) + distance + np.arange(count)[:, None]) % n
    for draw, place in np.argwhere((found != NOBODY) & (codes[found] == codes)):
        found[draw, place] = random.choice(np.flatnonzero(codes != codes[place]))
    return found


def _require_as_many(images: Sized, classes: Sized, groups: Sized) -> None:
    if not len(images) == len(classes) == len(groups):
        raise ValueError(f"images, classes and groups have {len(images)}, {len(classes)} and {len(groups)} rows")


def _derangement(codes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """For each of n images the place of its partner; `codes` (n,) number the patients.

    All images stand in a circle, patient by patient, in random order. Turned by at least the m images of the
    largest patient and at most n - m, no image meets its own patient.
    """
    n, counts = len(codes), np.bincount(codes)
    order = _circle(codes, random)
    largest = min(counts.max(), n - counts.max())  # the other way round where one patient has the majority
    turned = np.roll(order, -random.integers(largest, n - largest + 1))
    partner = np.empty(n, np.int64)
    partner[order] = turned
    for i in np.flatnonzero(codes[partner] == codes):
        partner[i] = random.choice(np.flatnonzero(codes != codes[i]))
    return partner


def _circle(codes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The places (n,) of n images, patient by patient, in random order."""
    n = len(codes)
    return np.lexsort((random.random(n), random.permutation(codes.max() + 1)[codes]))

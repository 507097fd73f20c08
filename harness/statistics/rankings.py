"""Which architecture is more stable, whether that depends on the CAM method, and how sure that is.

A *cell* is one architecture under one CAM method; its values are those of one layer, one scope and one metric, for
every image and replicate (a second training with another seed). The value of an architecture is the mean over its
replicates. A comparison uses the images on which all the cells that it compares are defined in all replicates.

All parts share the draws of one `Resampling`. Where an architecture has three or more replicates, each draw takes
its replicates with replacement too, the same for all methods; where it has one or two, the results are conditional
on these checkpoints. A bootstrap of few replicates is a little narrow: of k replicates it shows (k - 1) / k of the
variance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from harness.common.errors import InputError
from harness.statistics.bootstrap import (
    FEW_PATIENTS,
    MIN_PATIENTS,
    NAN,
    NO_IMAGES,
    PatientSums,
    Resampling,
    interval,
)
from harness.statistics.hypothesis_tests import holm, sign_flip_of

Cell = tuple[str, str]  # (architecture, method)

ALPHA = 0.05  # level of a called reversal, after Holm
MAX_ORDERS = 24  # orders of architectures that are listed: all orders of four
MIN_REPLICATES = 3  # from which replicates are resampled
NULL_PROBABILITY = 0.5  # what `Reversal.probability` is about where both differences are null
NO_VARIATION = "no_variation"
IDENTICAL = "identical"
# Of the largest value. One map that is computed in two ways differs by rounding, and where that turns over a pixel at
# the edge of a mask, in one image of a hundred at most, by a little more.
SAME_WITHIN, EDGE_WITHIN, EDGES = 1e-6, 1e-3, 0.01
_STRETCH = 2**22  # moments of images that are held at a time: 32 MB
ROUNDING = 1e-12  # relative: means that differ by less are equal


@dataclass(frozen=True)
class Difference:
    """Mean difference first - second of two cells of one method, or of one architecture.

    `low` and `high` are the 95 % interval over draws of patients; `p` is that of `sign_flip` on the means of the
    replicates; `p_holm` is adjusted for all differences of the same `Comparison` that are tested. `reason`: why there
    is no interval (`few_patients`), no test (`identical`: no image differs) or nothing at all (`no_images`).
    """

    first: Cell
    second: Cell
    value: float
    low: float
    high: float
    p: float
    p_holm: float
    n: int
    n_patients: int
    reason: str | None


@dataclass(frozen=True)
class Order:
    """Architectures from the most to the least stable, and the share of draws in this order."""

    architectures: tuple[str, ...]
    probability: float


@dataclass(frozen=True)
class Ranking:
    """Architectures from the most to the least stable under one method, by their means.

    `orders` lists at most 24 orders, the most probable first; `most_stable` is each architecture's probability of
    being the most stable. Architectures that tie in a draw are ordered at random there, so that they share the
    probability equally; in `architectures` they keep the order in which they were given. Without a reason
    (`few_patients`, `no_images`) nothing is NaN; with one there are no orders and the probabilities are NaN.
    """

    method: str
    architectures: tuple[str, ...]
    means: tuple[float, ...]
    orders: tuple[Order, ...]
    most_stable: dict[str, float]
    n: int
    n_patients: int
    reason: str | None


@dataclass(frozen=True)
class Reversal:
    """Whether two architectures change places between two methods.

    `first` and `second` are the `Difference` values (architecture a - architecture b) under the first and the second
    method. `called` only if both survive Holm at 5 % and have opposite signs. `probability` is the share of joint
    draws with opposite signs, over the images that are complete in all four cells (`n`, `n_patients`); a draw with a
    difference of 0 counts one half. Two independent null differences give about 0.5, `NULL_PROBABILITY`: it means
    that nothing is known, not that a reversal is likely. (Null differences whose draws are positively correlated,
    as those of two methods on one network often are, give less.)
    """

    architectures: tuple[str, str]
    methods: tuple[str, str]
    first: float
    second: float
    called: bool
    probability: float
    n: int
    n_patients: int
    reason: str | None


@dataclass(frozen=True)
class Interaction:
    """SS(architecture x method) / SS(total) after removing each image's mean, 0..1, with its 95 % interval.

    With y the mean over replicates of image i, architecture a and method m, z = y - (mean of y over a and m):
    total = sum_i sum_am z_iam^2, interaction = n sum_am (c_am - c_a. - c_.m + c_..)^2 with c the means over images.
    In a draw, both are weighted. The share cannot be negative, so it is biased upwards for few images: about
    (A - 1)(M - 1) / (n (A M - 1)) where there is no interaction and cells vary alike and independently; the draws
    are biased once more, so an interval that ends near 0 speaks for no interaction, and none reaches 0.

    Reasons: `no_images`; `no_variation` where all cells are equal; `few_patients` (value without interval).
    """

    value: float
    low: float
    high: float
    n: int
    n_patients: int
    reason: str | None


@dataclass(frozen=True)
class Comparison:
    """All comparisons of one layer, scope and metric; parts that need two of something are empty without.

    `resampled`: the architectures whose replicates are resampled; the rest is conditional on its checkpoints.
    """

    differences: tuple[Difference, ...]
    rankings: tuple[Ranking, ...]
    reversals: tuple[Reversal, ...]
    interaction: Interaction | None
    resampled: tuple[str, ...]


def compare(cells: Mapping[Cell, np.ndarray], resampling: Resampling, direction: int, seed: int) -> Comparison:
    """Compare architectures and methods on one layer, scope and metric.

    :param cells: (n, R_a) values of each (architecture, method), NaN where undefined or not selected; every
        architecture has every method, with the same replicates. Their order is the order of the results.
    :param direction: +1 where a high value is stable, -1 where a low one is; it turns the rankings only.
    :param seed: of the permutation test, of the draws of replicates and of ties.
    :raises InputError: for no cells, a missing cell, shapes that do not fit or another direction.
    """
    if direction not in (1, -1):
        raise InputError(f"the direction is {direction}: give 1 where high is stable, -1 where low is")
    study = _Study(cells, resampling, seed)
    differences = _differences(study)
    return Comparison(
        differences,
        _rankings(study, direction),
        _reversals(study, differences),
        _interaction(study),
        tuple(name for name in study.architectures if study.replicates[name] >= MIN_REPLICATES),
    )


class _Study:
    """The cells, and the draws of their means on the images that a comparison uses."""

    def __init__(self, cells: Mapping[Cell, np.ndarray], resampling: Resampling, seed: int) -> None:
        self.values = _checked(cells, resampling.images)
        self.resampling = resampling
        self.seed = seed
        self.scale = max(float(np.nanmax(np.abs(v), initial=0.0)) for v in self.values.values())
        self.architectures = list(dict.fromkeys(architecture for architecture, _ in cells))
        self.methods = list(dict.fromkeys(method for _, method in cells))
        self.replicates = _replicates(self.values, self.architectures, self.methods)
        self.shares = {name: self._draw_shares(name) for name in self.architectures}
        self._complete = {cell: np.isfinite(values).all(axis=1) for cell, values in self.values.items()}
        self._draws: dict[bytes, dict[Cell, np.ndarray]] = {}

    def complete(self, cells: Sequence[Cell]) -> np.ndarray:
        """(n,) bool: the images on which all these cells are defined in all replicates."""
        return np.logical_and.reduce([self._complete[cell] for cell in cells])

    def size(self, cells: Sequence[Cell]) -> tuple[int, int, str | None]:
        """(images, patients, reason why there is no bootstrap) of a comparison of these cells."""
        complete = self.complete(cells)
        images, patients = int(complete.sum()), len(np.unique(self.resampling.patient[complete]))
        return images, patients, NO_IMAGES if not images else FEW_PATIENTS if patients < MIN_PATIENTS else None

    def means(self, cells: Sequence[Cell]) -> np.ndarray:
        """(cells,) means over replicates and over the images complete in all of these cells; NaN without images."""
        complete = self.complete(cells)
        if not complete.any():
            return np.full(len(cells), np.nan)
        return np.array([self.values[cell][complete].mean() for cell in cells])

    def draws(self, cells: Sequence[Cell]) -> np.ndarray:
        """(draws, cells) means over replicates and images, in those draws that hold any of the images.

        Most comparisons of a study use the same images, so the draws of all cells are kept for each set of images.
        """
        complete = self.complete(cells)
        key = complete.tobytes()
        if key not in self._draws:
            self._draws[key] = self._draw(complete)
        draws = np.stack([self._draws[key][cell] for cell in cells], axis=1)
        return draws[~np.isnan(draws[:, 0])]

    def _draw(self, complete: np.ndarray) -> dict[Cell, np.ndarray]:
        """(R,) means of every cell that is defined on all of these images."""
        cells = [cell for cell, defined in self._complete.items() if defined[complete].all()]
        values = np.hstack([self.values[cell] for cell in cells])
        means = self.resampling.means(np.where(complete[:, None], values, np.nan))
        ends = np.cumsum([self.values[cell].shape[1] for cell in cells])
        of_cells = np.split(means, ends[:-1], axis=1)  # (R, R_a) each
        weighted = [np.einsum("rk,rk->r", m, self.shares[cell[0]]) for cell, m in zip(cells, of_cells, strict=True)]
        return {cell: _settle(m, self.scale) for cell, m in zip(cells, weighted, strict=True)}

    def _draw_shares(self, architecture: str) -> np.ndarray:
        """(R, R_a) share of each replicate in the architecture's mean."""
        k, draws = self.replicates[architecture], self.resampling.resamples
        if k < MIN_REPLICATES:
            return np.full((draws, k), 1 / k)
        rng = np.random.default_rng([self.seed, 1 + self.architectures.index(architecture)])
        return rng.multinomial(k, np.full(k, 1 / k), size=draws) / k


def _settle(means: np.ndarray, scale: float) -> np.ndarray:
    """Means without their last digits, so that equal cells are equal: a matrix product rounds each column its way."""
    unit = ROUNDING * (scale or 1.0)
    return np.round(means / unit) * unit


def _differences(study: _Study) -> tuple[Difference, ...]:
    """Architectures under each method, then methods under each architecture."""
    pairs = [((a, m), (b, m)) for m in study.methods for a, b in combinations(study.architectures, 2)]
    pairs += [((a, m), (a, o)) for a in study.architectures for m, o in combinations(study.methods, 2)]
    if not pairs:
        return ()
    values = [_image_differences(study, pair) for pair in pairs]
    same = np.array([_is_identical(study, of_pair) for of_pair in values])
    sums = [study.resampling.sums(of_pair[:, None]) for of_pair in values]
    p = np.where(same, np.nan, sign_flip_of(PatientSums.beside(sums), study.seed))
    rows = zip(pairs, p.tolist(), holm(p).tolist(), same.tolist(), strict=True)
    return tuple(_difference(study, *row) for row in rows)


def _is_identical(study: _Study, differences: np.ndarray) -> bool:
    """True where no image differs but by rounding, of those on which both cells are defined: nothing is tested."""
    apart = np.abs(differences[np.isfinite(differences)])
    if not apart.size or apart.max() > EDGE_WITHIN * study.scale:
        return False
    return bool(np.count_nonzero(apart > SAME_WITHIN * study.scale) <= max(1, EDGES * apart.size))


def _image_differences(study: _Study, pair: tuple[Cell, Cell]) -> np.ndarray:
    """(n,) difference of the means over replicates, NaN where a replicate of either cell is undefined."""
    return study.values[pair[0]].mean(axis=1) - study.values[pair[1]].mean(axis=1)


def _difference(study: _Study, pair: tuple[Cell, Cell], p: float, p_holm: float, same: bool) -> Difference:
    first, second = study.means(pair).tolist()
    n, patients, reason = study.size(pair)
    low, high = NAN, NAN
    if not reason:
        draws = study.draws(pair)
        ends = interval(draws[:, 0] - draws[:, 1], patients)
        low, high = ends.low, ends.high
    return Difference(*pair, first - second, low, high, p, p_holm, n, patients, IDENTICAL if same else reason)


def _rankings(study: _Study, direction: int) -> tuple[Ranking, ...]:
    if len(study.architectures) < 2:
        return ()
    return tuple(_ranking(study, method, direction) for method in study.methods)


def _ranking(study: _Study, method: str, direction: int) -> Ranking:
    names = study.architectures
    cells = [(name, method) for name in names]
    means = study.means(cells)
    n, patients, reason = study.size(cells)
    best_first = np.argsort(-direction * means, kind="stable")
    orders = () if reason else _orders(-direction * study.draws(cells), study)
    return Ranking(
        method,
        tuple(names[i] for i in best_first),
        tuple(means[best_first].tolist()),
        orders[:MAX_ORDERS],
        {name: _probability_of_first(orders, name) for name in names},
        n,
        patients,
        reason,
    )


def _orders(draws: np.ndarray, study: _Study) -> tuple[Order, ...]:
    """All orders that occur among the draws (R, architectures), low values first, the most probable order first."""
    ties = np.random.default_rng([study.seed, 0]).random(draws.shape)
    ordered = np.lexsort((ties, draws), axis=1)
    counted = Counter(map(tuple, ordered.tolist())).most_common()
    return tuple(Order(tuple(study.architectures[i] for i in order), k / len(draws)) for order, k in counted)


def _probability_of_first(orders: Sequence[Order], name: str) -> float:
    return sum(order.probability for order in orders if order.architectures[0] == name) if orders else NAN


def _reversals(study: _Study, differences: Sequence[Difference]) -> tuple[Reversal, ...]:
    found = {(difference.first, difference.second): difference for difference in differences}
    return tuple(
        _reversal(study, found[(a, m), (b, m)], found[(a, o), (b, o)])
        for a, b in combinations(study.architectures, 2)
        for m, o in combinations(study.methods, 2)
    )


def _reversal(study: _Study, first: Difference, second: Difference) -> Reversal:
    cells = [first.first, first.second, second.first, second.second]
    n, patients, reason = study.size(cells)
    probability = NAN if reason else _probability_of_opposite_signs(study.draws(cells))
    survive = first.p_holm <= ALPHA and second.p_holm <= ALPHA  # false for NaN
    return Reversal(
        (first.first[0], first.second[0]),
        (first.first[1], second.first[1]),
        first.value,
        second.value,
        survive and first.value * second.value < 0,
        probability,
        n,
        patients,
        reason,
    )


def _probability_of_opposite_signs(draws: np.ndarray) -> float:
    """Of draws (R, 4) of the cells a1, b1, a2, b2: share with opposite signs of a1 - b1 and a2 - b2; 0 is a half."""
    signs = np.sign(draws[:, 0] - draws[:, 1]) * np.sign(draws[:, 2] - draws[:, 3])
    return float((1 - signs).mean() / 2)


def _interaction(study: _Study) -> Interaction | None:
    if len(study.architectures) < 2 or len(study.methods) < 2:
        return None
    cells = list(study.values)
    n, patients, reason = study.size(cells)
    if reason == NO_IMAGES:
        return Interaction(NAN, NAN, NAN, n, patients, reason)
    fixed = np.concatenate([np.full(k, 1 / k) for k in study.replicates.values()])[None]
    means, sums = _mean_moments(study)
    value = _share(means, fixed, study)[0]
    if np.isnan(value):
        return Interaction(NAN, NAN, NAN, n, patients, NO_VARIATION)
    if reason:
        return Interaction(float(value), NAN, NAN, n, patients, reason)
    shares = np.hstack([study.shares[name] for name in study.architectures])
    ends = interval(_share(study.resampling.means_of([sums])[0], shares, study), patients)
    return Interaction(float(value), ends.low, ends.high, n, patients, ends.reason)


def _mean_moments(study: _Study) -> tuple[np.ndarray, PatientSums]:
    """Means (1, U M + U U) of `_moments` over the complete images, and their sums over patients, by stretches."""
    units = sum(study.replicates.values())
    complete = np.flatnonzero(study.complete(list(study.values)))
    step = max(1, _STRETCH // (units * (len(study.methods) + units)))
    total: np.ndarray | float = 0.0
    sums: PatientSums | None = None
    for start in range(0, len(complete), step):
        rows = complete[start : start + step]
        moments = _moments(study, rows)
        total = total + moments.sum(axis=0, keepdims=True)
        own = study.resampling.of(rows).sums(moments)
        sums = own if sums is None else sums + own
    assert sums is not None
    return np.asarray(total) / len(complete), sums


def _moments(study: _Study, rows: np.ndarray) -> np.ndarray:
    """(m, U M + U U) what the means are taken of for some images; U = replicates of all architectures.

    With x_um the value of an image in replicate u under method m, and v_u the share of u in its architecture: the
    image's z^2 summed over cells is sum_am (sum_u v_u x_um)^2 - (sum_um v_u x_um)^2 / (A M) = v' Q v, so the draws
    need the means of x and of Q.
    """
    x = np.stack([np.hstack([study.values[a, m][rows] for a in study.architectures]) for m in study.methods], axis=2)
    x = x - x.mean(axis=(1, 2), keepdims=True)  # (m, U, M); shares add up to 1, so nothing else changes
    owner = np.repeat(np.arange(len(study.architectures)), list(study.replicates.values()))
    within = np.einsum("ium,ilm->iul", x, x) * (owner[:, None] == owner)
    sums = x.sum(axis=2)
    q = within - sums[:, :, None] * sums[:, None, :] / len(study.values)  # (m, U, U)
    return np.hstack([x.reshape(len(x), -1), q.reshape(len(x), -1)])


def _share(moments: np.ndarray, shares: np.ndarray, study: _Study) -> np.ndarray:
    """(r,) SS(interaction) / SS(total) from means of `_moments` and shares (r, U); NaN where nothing varies."""
    units, methods = shares.shape[1], len(study.methods)
    x = moments[:, : units * methods].reshape(-1, units, methods)
    q = moments[:, units * methods :].reshape(-1, units, units)
    starts = np.cumsum([0, *study.replicates.values()])[:-1]
    c = np.add.reduceat(shares[:, :, None] * x, starts, axis=1)  # (r, A, M) means of the cells
    effects = c - c.mean(axis=1, keepdims=True) - c.mean(axis=2, keepdims=True) + c.mean(axis=(1, 2), keepdims=True)
    total = np.einsum("ru,rul,rl->r", shares, q, shares, optimize=True)
    total[total <= (ROUNDING * study.scale) ** 2] = np.nan
    return (effects**2).sum(axis=(1, 2)) / total


def _checked(cells: Mapping[Cell, np.ndarray], images: int) -> dict[Cell, np.ndarray]:
    if not cells:
        raise InputError("there are no cells to compare: give the values of at least one architecture and method")
    values = {cell: np.where(np.isfinite(array), array, np.nan) for cell, array in cells.items()}
    for (architecture, method), array in values.items():
        if array.ndim != 2 or len(array) != images or not array.shape[1]:
            raise InputError(
                f"the values of {architecture} under {method} have shape {array.shape}, and there are {images} images: "
                "give one row per image and one column per replicate"
            )
    return values


def _replicates(
    values: Mapping[Cell, np.ndarray], architectures: Sequence[str], methods: Sequence[str]
) -> dict[str, int]:
    """Number of replicates of each architecture; refuses a missing cell and counts that differ between methods."""
    for architecture in architectures:
        for method in methods:
            if (architecture, method) not in values:
                raise InputError(f"{architecture} has no values under {method}: give every architecture every method")
        if len({values[architecture, method].shape[1] for method in methods}) > 1:
            raise InputError(f"{architecture} has more replicates under one method than another: give all under each")
    return {architecture: values[architecture, methods[0]].shape[1] for architecture in architectures}

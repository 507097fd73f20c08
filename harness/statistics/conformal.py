"""Does what comes in still look like the reference? A test that may be looked at every night, for years.

Let x_1 ... x_n be a statistic of the reference's pictures and x_{n+1}, x_{n+2} ... that of the pictures that come in.
Hypothesis: all of them are exchangeable (drawn alike, for instance). Three steps:

1. *Conformal p-values.* p_t = (number of s < t with x_s < x_t + U_t (1 + number of s < t with x_s = x_t)) / t, the rank
   of x_t among the reference *and all that came before it*, ties broken by U_t uniform on (0, 1). Under the hypothesis
   the p_t are independent and uniform, for a reference of any finite size and a statistic of any distribution: given
   which values the first t are, their order is uniform, so p_t is uniform given all later ones. A rank among the
   reference alone would not do: these share the accident of which pictures the reference holds, and a test that bets
   on them finds that accident some day. Source: Vovk, Gammerman & Shafer 2005, Algorithmic Learning in a Random
   World, doi:10.1007/b106715.
2. *Bets.* With z_t = Phi^-1(p_t), standard normal under the hypothesis, each of E experts e multiplies its wealth by
   a likelihood ratio f_e(z_t) of mean 1: exp(a z - a^2 / 2) for a shift of a standard deviations,
   exp(z^2 (1 - 1 / s^2) / 2) / s for a spread that is s times as wide. Their average, begun in night k with the weight
   w_k, sum w_k = 1,

       M_t = (1 - sum_{k <= night(t)} w_k) + sum_{k <= night(t)} w_k / E sum_e prod_{s = start(k)}^{t} f_e(z_s),

   is a martingale that begins at 1 (a conformal test martingale). Late beginnings keep what a change in night 200 can
   be bet on with, which 199 quiet nights would have eaten up.
3. *Alarm* where M_t >= J / alpha for any of J statistics at any t. By Ville's inequality each does so with a
   probability of at most alpha / J, whenever and however often one looks (Ramdas, Grunwald, Vovk & Shafer 2023,
   Game-Theoretic Statistics and Safe Anytime-Valid Inference, arXiv 2210.01948), so all together with alpha
   at most. The martingales are not averaged: each is one among its own p-values only, and averages of such need be no
   martingale (Choe & Ramdas, Combining Evidence Across Filtrations, arXiv 2402.09698). The union bound asks for
   nothing.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri

ALPHA = 0.05  # probability of ever raising an alarm where nothing changed, at most
SHIFTS = (-2.0, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 2.0)  # of the experts, in standard deviations
SPREADS = (0.6, 1.6)  # of the experts, as factors
FIRST = 0.5  # weight of beginning in the first night: what differs from the start is found before it fills the past
HAZARD = 1 / 365  # the rest is spread geometrically over all nights
_BLOCK = 256  # values that are compared with each other at once
_LEAST = 2.0**-53


def conformal_p(values: np.ndarray, reference: int, ties: np.ndarray) -> np.ndarray:
    """(T,) p-values in (0, 1) of the values behind the first `reference`, each among all before it.

    :param values: (reference + T,) finite.
    :param ties: (T,) uniform on (0, 1).
    :raises ValueError: values that are not finite, or no reference.
    """
    if reference < 1 or not np.isfinite(values).all():
        raise ValueError("conformal p-values need a reference, and finite values")
    below, equal = _ranks(values, reference)
    found = (below + ties * (1 + equal)) / np.arange(reference + 1, len(values) + 1)
    return np.clip(found, _LEAST, 1 - _LEAST)


def _ranks(values: np.ndarray, reference: int) -> tuple[np.ndarray, np.ndarray]:
    """(T,) numbers of earlier values that are smaller, and that are equal."""
    before = np.sort(values[:reference])
    below, equal = [np.zeros(0)], [np.zeros(0)]
    for start in range(reference, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        low, high = np.searchsorted(before, block), np.searchsorted(before, block, "right")
        earlier = np.tri(len(block), k=-1, dtype=bool)  # [t, s]: s came before t
        below.append(low + (earlier & (block[None] < block[:, None])).sum(axis=1))
        equal.append(high - low + (earlier & (block[None] == block[:, None])).sum(axis=1))
        ordered = np.sort(block)
        before = np.insert(before, np.searchsorted(before, ordered), ordered)
    return np.concatenate(below), np.concatenate(equal)


def log_wealth(p_values: np.ndarray, nights: np.ndarray) -> np.ndarray:
    """(T,) natural logarithm of the martingale M_t after each p-value.

    :param p_values: (T,) in (0, 1).
    :param nights: (T,) number of the night of each, counted from 0, ascending; a night may have none.
    """
    if not len(p_values):
        return np.zeros(0)
    total = np.cumsum(log_ratios(ndtri(p_values)), axis=0)  # (T, E): wealth of an expert that began with the first
    before = np.concatenate([np.zeros((1, total.shape[1])), total[:-1]])
    weights, left = weights_of_nights(int(nights[-1]) + 1)
    first = np.searchsorted(nights, np.arange(len(weights)))  # the first value in or behind each night
    begun = np.logaddexp.accumulate(np.log(weights)[:, None] - before[first], axis=0)  # (nights, E)
    experts = total + begun[nights] - math.log(total.shape[1])
    return np.logaddexp.reduce(np.column_stack([np.log(left[nights]), experts]), axis=1)


def log_ratios(z: np.ndarray) -> np.ndarray:
    """(T, E) log likelihood ratios of the experts at standard normal scores (T,); each ratio has the mean 1."""
    shifts, spreads = np.array(SHIFTS), np.array(SPREADS)
    moved = shifts * z[:, None] - shifts**2 / 2
    spread = (1 - 1 / spreads**2) * z[:, None] ** 2 / 2 - np.log(spreads)
    return np.concatenate([moved, spread], axis=1)


def weights_of_nights(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(count,) weights of beginning in each night, and what is left for later nights after each; together 1."""
    nights = np.arange(count)
    weights = (1 - FIRST) * HAZARD * (1 - HAZARD) ** nights
    weights[:1] += FIRST
    return weights, (1 - FIRST) * (1 - HAZARD) ** (nights + 1)


def threshold(statistics: int, alpha: float = ALPHA) -> float:
    """The natural logarithm of J / alpha, which none of J martingales exceeds but with the probability alpha."""
    return math.log(max(1, statistics) / alpha)

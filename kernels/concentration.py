"""How concentrated the mass of one map is."""

from __future__ import annotations

from math import log

import numpy as np

from kernels.cached_maps import MapFacts
from kernels.information import neg_entropy
from kernels.jit import kernel, sums
from kernels.sorting import ascending, ranks


def gini(a_map: MapFacts) -> float:
    """Gini coefficient sum_p (2 rank_p - n - 1) x_p / (n sum x): 0 even, (n - 1) / n all in one pixel."""
    return _weighted(a_map.fact(ranks)[0], a_map.flat) / (a_map.flat.size * a_map.total)


@sums
def _weighted(weights, values):
    total = 0.0
    for p in range(values.size):
        total += float(weights[p]) * values[p]
    return total


def entropy(a_map: MapFacts) -> float:
    """-sum p ln p / ln n with p = x / sum x over the n pixels: 1 even, 0 all in one pixel."""
    return max(0.0, min(1.0, -a_map.fact(neg_entropy) / log(a_map.flat.size)))


def area50(a_map: MapFacts) -> float:
    """Smallest share of the pixels that holds half of the mass."""
    values = ascending(a_map)
    return _values_of_half(values, _sum(values)) / a_map.flat.size


@sums
def _sum(values):
    total = 0.0
    for i in range(values.size):
        total += np.float64(values[i])
    return total


@kernel
def _values_of_half(values, total):
    """How many of the values, from the last one down, hold half of the total."""
    held, count = 0.0, 0
    while held < 0.5 * total and count < values.size:
        count += 1
        held += values[values.size - count]
    return count

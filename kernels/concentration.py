"""How concentrated the mass of one map is."""

from __future__ import annotations

from kernels.facts import MapFacts
from kernels.jit import sums
from kernels.order import ranks


def gini(a_map: MapFacts) -> float:
    """Gini coefficient sum_p (2 rank_p - n - 1) x_p / (n sum x): 0 even, (n - 1) / n all in one pixel."""
    return _weighted(a_map.fact(ranks)[0], a_map.flat) / (a_map.flat.size * a_map.total)


@sums
def _weighted(weights, values):
    total = 0.0
    for p in range(values.size):
        total += float(weights[p]) * values[p]
    return total

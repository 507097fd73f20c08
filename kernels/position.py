"""Where the mass of a map lies: centre of mass, peak, and the six zones.

Rows count downwards, columns to the right, both from 0; the diagonal is sqrt((H-1)^2 + (W-1)^2).
"""

from __future__ import annotations

from math import hypot

import numpy as np

from kernels.cached_maps import MapFacts, PairFacts
from kernels.jit import sums

THIRDS, HALVES = 3, 2


def centroid_shift(pair: PairFacts) -> float:
    """Distance of the two centres of mass (sum r v / sum v, sum c v / sum v), as a share of the diagonal."""
    return _distance(pair.before.fact(mass)[0], pair.after.fact(mass)[0], pair.before.values.shape)


def peak_shift(pair: PairFacts) -> float:
    """Distance of the two maxima, each the mean position of all pixels that hold the largest value."""
    return _distance(pair.before.fact(peak), pair.after.fact(peak), pair.before.values.shape)


def zone_overlap(pair: PairFacts) -> float:
    """Sum over the six zones of min(share before, share after) of the mass."""
    return min(1.0, sum(map(min, pair.before.fact(mass)[1], pair.after.fact(mass)[1])))


def mass(a_map: MapFacts) -> tuple[tuple[float, float], list[float]]:
    """Centre of mass (row, column), and the six shares of mass by zone: third 3 r // H, half 2 c // W."""
    profiles = a_map.slot.shared.array("profiles", (THIRDS, a_map.values.shape[1]), np.float64)
    row, column, zones = _mass(a_map.values, profiles)
    return (row, column), zones.tolist()


def peak(a_map: MapFacts) -> tuple[float, float]:
    """Mean (row, column) of the pixels that hold the maximum."""
    return _peak(a_map.values, np.float32(a_map.maximum))


def _distance(first: tuple[float, float], second: tuple[float, float], shape: tuple[int, ...]) -> float:
    return hypot(first[0] - second[0], first[1] - second[1]) / hypot(shape[0] - 1, shape[1] - 1)


@sums
def _mass(values, profiles):
    """Centre of mass and shares by zone; `profiles` gets the sums along the columns of each third."""
    height, width = values.shape
    middle = (width + 1) // 2  # the first column with 2 c // W = 1
    profiles[:] = 0.0
    by_row, by_column = 0.0, 0.0
    for r in range(height):
        profile, in_row = profiles[THIRDS * r // height], 0.0
        for c in range(width):
            profile[c] += values[r, c]
            in_row += np.float64(values[r, c])
        by_row += r * in_row
    zones = np.empty(THIRDS * HALVES)
    for third in range(THIRDS):
        zones[HALVES * third] = profiles[third, :middle].sum()
        zones[HALVES * third + 1] = profiles[third, middle:].sum()
        for c in range(width):
            by_column += c * profiles[third, c]
    total = zones.sum()
    return by_row / total, by_column / total, zones / total


@sums
def _peak(values, maximum):
    rows, columns, count = 0.0, 0.0, 0.0
    for r in range(values.shape[0]):
        in_row = 0.0
        for c in range(values.shape[1]):
            here = 1.0 if values[r, c] == maximum else 0.0
            in_row += here
            columns += here * c
        rows += r * in_row
        count += in_row
    return rows / count, columns / count

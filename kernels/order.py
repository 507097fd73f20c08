"""The one sort of a map, and what is read off it: ranks, thresholds and area50.

A map is sorted as 64-bit items (bits of the value) << 32 | pixel: floats >= 0 are ordered as their bits are,
ties by pixel, so there is one order, and everything read off it is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernels.facts import MapFacts
from kernels.jit import kernel

TOP_PERCENTS = (5, 10, 20, 30)
_DIGIT_BITS = 11  # three digits cover the 31 bits of a float >= 0; 2,048 counters stay in the first cache


@dataclass(frozen=True)
class Order:
    """What one sort tells of a map of n pixels.

    ranks: int32 (n,), 2 rank - (n + 1) per pixel, where rank 1 is the smallest and ties share their mean
        rank: whole numbers that add up to 0
    square: the sum of the squares of `ranks`
    thresholds: float32, one per TOP_PERCENTS, the smallest value of {x >= k-th largest and x > 0}
    area50: smallest share of pixels that holds half of the mass
    """

    ranks: np.ndarray
    square: float
    thresholds: np.ndarray
    area50: float


def order(a_map: MapFacts) -> Order:
    """Sort a map that is not empty, once."""
    n = a_map.flat.size
    items = a_map.slot.shared.array("items", (2, n), np.uint64)
    counts = a_map.slot.shared.array("counts", (3, 1 << _DIGIT_BITS), np.int64)
    ranks = a_map.slot.own.array("ranks", n, np.int32)
    _sort(a_map.flat.view(np.uint32), items[0], items[1], counts)
    square = _rank(items[0], ranks)
    indices = np.array([n - (percent * n + 99) // 100 for percent in TOP_PERCENTS])
    values = a_map.flat[_pixels(items[0], a_map.flat, indices)]
    return Order(ranks, square, values, _area50(items[0], a_map.flat, a_map.total))


@kernel
def _sort(bits, items, other, counts):
    """Radix sort by three digits, from the lowest: bits -> items -> other -> items."""
    mask = np.uint64((1 << _DIGIT_BITS) - 1)
    low, middle, high = np.uint64(32), np.uint64(32 + _DIGIT_BITS), np.uint64(32 + 2 * _DIGIT_BITS)
    _count(bits, counts)
    for p in range(bits.size):
        item = np.uint64(bits[p]) << np.uint64(32) | np.uint64(p)
        digit = item >> low & mask
        items[counts[0, digit]] = item
        counts[0, digit] += 1
    for i in range(items.size):
        digit = items[i] >> middle & mask
        other[counts[1, digit]] = items[i]
        counts[1, digit] += 1
    for i in range(items.size):
        digit = other[i] >> high & mask
        items[counts[2, digit]] = other[i]
        counts[2, digit] += 1


@kernel
def _count(bits, counts):
    """counts[d, v] becomes the number of items whose digit d is below v: where the first of them goes."""
    counts[:] = 0
    mask = np.uint32((1 << _DIGIT_BITS) - 1)
    for p in range(bits.size):
        counts[0, bits[p] & mask] += 1
        counts[1, bits[p] >> np.uint32(_DIGIT_BITS) & mask] += 1
        counts[2, bits[p] >> np.uint32(2 * _DIGIT_BITS)] += 1
    for d in range(counts.shape[0]):
        start = 0
        for v in range(counts.shape[1]):
            start, counts[d, v] = start + counts[d, v], start


@kernel
def _rank(items, ranks):
    """Write the ranks of `Order`; return the sum of their squares."""
    n, start, square = items.size, 0, 0.0
    while start < n:
        value = items[start] >> np.uint64(32)
        end = start + 1
        while end < n and items[end] >> np.uint64(32) == value:
            end += 1
        rank = start + end - n  # 2 * mean(start + 1 ... end) - (n + 1)
        for i in range(start, end):
            ranks[items[i] & np.uint64(0xFFFFFFFF)] = rank
        square += (end - start) * float(rank) * rank
        start = end
    return square


@kernel
def _pixels(items, values, indices):
    """The pixels at these places of the ascending order, or the first positive one where that is later."""
    first = 0
    while values[items[first] & np.uint64(0xFFFFFFFF)] == 0:
        first += 1
    result = np.empty(indices.size, np.int64)
    for i in range(indices.size):
        result[i] = items[max(indices[i], first)] & np.uint64(0xFFFFFFFF)
    return result


@kernel
def _area50(items, values, total):
    held, count = 0.0, 0
    while held < 0.5 * total and count < items.size:
        count += 1
        held += values[items[items.size - count] & np.uint64(0xFFFFFFFF)]
    return count / items.size

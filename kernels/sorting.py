"""The one sort of a map, and what is read off it: ranks, thresholds and area50.

A map is sorted as 64-bit items key << 32 | pixel. Floats >= 0 are ordered as their bits are, so the key of a
positive value is its bits, counted from the smallest positive value, and the key of 0 is 0. Ties are ordered by
pixel: there is one order, and everything read off it is exact.
"""

from __future__ import annotations

import numpy as np

from kernels.cached_maps import MapFacts
from kernels.jit import kernel, sums

TOP_PERCENTS = (5, 10, 20, 30)
_DIGIT_BITS = 16  # two digits cover the 31 bits of a float >= 0; mostly fewer are needed
PIXEL, _KEY = np.uint64(0xFFFFFFFF), np.uint64(32)  # the lower half of an item, and how far the upper one is shifted


def ranks(a_map: MapFacts) -> tuple[np.ndarray, float]:
    """Ranks int32 (n,) of the pixels as 2 rank - (n + 1), and the sum of their squares.

    Rank 1 is the smallest and ties share their mean rank: these are whole numbers that add up to 0.
    """
    in_order = a_map.fact(items)
    bounds = a_map.slot.shared.array("bounds", in_order.size + 1, np.int32)
    result = a_map.slot.own.array("ranks", in_order.size, np.int32)
    _write_ranks(in_order, bounds, result)
    return result, _sum_of_squares(result)


def top_masks(a_map: MapFacts) -> tuple[np.ndarray, np.ndarray]:
    """Of the masks {x >= k-th largest and x > 0}, one per TOP_PERCENTS: smallest values float32, and sizes int64."""
    return _top_masks(a_map.fact(items), a_map.flat, TOP_PERCENTS)


def ascending(a_map: MapFacts) -> np.ndarray:
    """The values float32 (n,) in ascending order, valid until the next call: whose sum places cannot change."""
    result = a_map.slot.shared.array("ascending", a_map.flat.size, np.float32)
    _write_values(a_map.fact(items), a_map.flat.view(np.uint32), result.view(np.uint32))
    return result


def items(a_map: MapFacts) -> np.ndarray:
    """The items uint64 (n,) of a map that is not empty, in ascending order."""
    n, shared = a_map.flat.size, a_map.slot.shared
    result = a_map.slot.own.array("items", n, np.uint64)
    other, keys = shared.array("other items", n, np.uint64), shared.array("keys", n, np.uint32)
    counts = shared.array("counts", (2, 1 << _DIGIT_BITS), np.uint32)
    _sort(a_map.flat.view(np.uint32), keys, result, other, counts)
    return result


@kernel
def _sort(bits, keys, items, other, counts):
    """Radix sort by two digits, the lower first: keys -> other -> items."""
    width = _write_keys(bits, keys)
    low, high = counts[0, : 1 << width], counts[1, : 1 << width]
    mask, shift = np.uint32((1 << width) - 1), np.uint32(width)
    low[:] = 0
    high[:] = 0
    for p in range(keys.size):
        low[keys[p] & mask] += np.uint32(1)
    _sum_up(low)
    for p in range(keys.size):
        key = keys[p]
        place = low[key & mask]
        low[key & mask] = place + np.uint32(1)
        high[key >> shift] += np.uint32(1)
        other[place] = np.uint64(key) << _KEY | np.uint64(p)
    _sum_up(high)
    for i in range(items.size):
        item = other[i]
        digit = item >> (_KEY + np.uint64(shift))
        place = high[digit]
        high[digit] = place + np.uint32(1)
        items[place] = item


@kernel
def _write_keys(bits, keys):
    """Write the keys and return the number of bits per digit that two digits need."""
    smallest, largest = np.uint32(0xFFFFFFFF), np.uint32(0)
    for p in range(bits.size):
        smallest = min(smallest, bits[p] - np.uint32(1))  # 0 wraps around to the largest number
        largest = max(largest, bits[p])
    for p in range(bits.size):
        keys[p] = bits[p] - smallest if bits[p] > smallest else np.uint32(0)
    width = 1
    while (largest - smallest) >> np.uint32(2 * width) > 0:
        width += 1
    return width


@kernel
def _sum_up(counts):
    """counts[v] becomes the number of keys whose digit is below v: where the first of them goes."""
    before = np.uint32(0)
    for v in range(counts.size):
        before, counts[v] = before + counts[v], before


@kernel
def _write_values(items, bits, ascending):
    """The bits of each item's value: its key and the one number by which keys of positive values are smaller."""
    largest = items[items.size - 1]
    less = bits[largest & PIXEL] - np.uint32(largest >> _KEY)
    for i in range(items.size):
        key = np.uint32(items[i] >> _KEY)
        ascending[i] = key + less if key > 0 else np.uint32(0)


@kernel
def _write_ranks(items, bounds, ranks):
    """ranks[p] = 2 rank - (n + 1) of pixel p, ties sharing their mean rank.

    bounds: int32 (n + 1,); bounds[v] becomes the number of items below the v-th of the different values.

    Ties come as no processor can foresee, so nothing here branches on them.
    """
    one, value, last = np.uint64(1), np.uint64(0), items[0] >> _KEY
    bounds[0] = 0
    for i in range(items.size):
        key = items[i] >> _KEY
        value += np.uint64(key != last)
        bounds[value + one] = i + 1
        last = key
    value, last = np.uint64(0), items[0] >> _KEY
    for i in range(items.size):
        key = items[i] >> _KEY
        value += np.uint64(key != last)
        ranks[items[i] & PIXEL] = bounds[value] + bounds[value + one] - np.int32(items.size)
        last = key


@sums
def _sum_of_squares(ranks):
    total = 0.0
    for p in range(ranks.size):
        total += float(ranks[p]) * float(ranks[p])
    return total


@kernel
def _top_masks(items, values, percents):
    """As `top_masks`; only 0 has the key 0."""
    n = items.size
    smallest, sizes = np.empty(len(percents), np.float32), np.empty(len(percents), np.int64)
    positive = _first_of(items, np.uint64(1))
    for i in range(len(percents)):
        k = (percents[i] * n + 99) // 100
        item = items[max(n - k, positive)]
        smallest[i] = values[item & PIXEL]
        sizes[i] = n - _first_of(items, item >> _KEY)
    return smallest, sizes


@kernel
def _first_of(items, key):
    """The first place in the order whose key is `key` or above."""
    start, end = 0, items.size
    while start < end:
        middle = (start + end) // 2
        if items[middle] >> _KEY < key:
            start = middle + 1
        else:
            end = middle
    return start

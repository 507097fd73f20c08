"""What is known of one map and of one pair of maps, each fact computed at most once.

A fact is a function of a map or of a pair: `a_map.fact(centroid)` computes `centroid(a_map)` when it is first
asked for. So a single metric pays for what it needs, and the whole set shares every sort, sum and histogram.
Memory belongs to a `Slot`, one per map that is in use at a time, and is reused by the next map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from kernels.checks import clean_float32, is_clean
from kernels.jit import inlined, sums
from kernels.reasons import Reason
from kernels.resize import Resizer

Fact = TypeVar("Fact")
_CACHE_LINE = 64
_NEGATIVE_ZERO = -(2**31)  # the bits of -0.0, read as an integer: smaller than those of any other float
_INFINITY = 0x7F800000  # the bits of float32 infinity; read as integers, NaN lies above and negatives below 0


class Memory:
    """Arrays that are allocated when first asked for and handed out again."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    def array(self, name: str, shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
        """The array called `name`, holding what was left in it. One name has one shape and type."""
        if name not in self._arrays:
            self._arrays[name] = _aligned_array(shape, np.dtype(dtype))
        return self._arrays[name]


def _aligned_array(shape: int | tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array that begins with a cache line: a vector that lies in two costs twice."""
    size = int(np.prod(shape)) * dtype.itemsize
    octets = np.empty(size + _CACHE_LINE, np.uint8)
    start = -octets.ctypes.data % _CACHE_LINE
    return octets[start : start + size].view(dtype).reshape(shape)


class Slot:
    """The memory of one map at a time, of size (H, W): its own, and what its thread's maps `share`."""

    def __init__(self, size: tuple[int, ...], shared: Memory) -> None:
        self.size = size
        self.own = Memory()
        self.shared = shared
        self._resizers: dict[tuple, Resizer] = {}

    def load(
        self, source: np.ndarray, reason: int = Reason.DEFINED, shift: tuple[float, float] = (0.0, 0.0)
    ) -> MapFacts:
        """Take `source` in, resized to the size of the slot where it has another one, and moved by `shift`.

        What can be read as it is is not copied, so it must not change while the facts are in use.
        """
        if source.shape != self.size or any(shift):
            values = self.own.array("values", self.size, np.float32)
            self._resizer(source.shape, shift).write(clean_float32(source), values)
            return MapFacts(values, self, reason)
        if not is_clean(source):
            return self._copy(source, reason)
        facts = MapFacts(source, self, reason)
        return facts if facts.is_unsigned else self._copy(source, reason)

    def _copy(self, source: np.ndarray, reason: int) -> MapFacts:
        values = self.own.array("values", self.size, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            np.add(source, 0.0, out=values, casting="unsafe")  # not a plain copy: -0.0 becomes 0.0
        return MapFacts(values, self, reason)

    def _resizer(self, shape: tuple[int, ...], shift: tuple[float, float]) -> Resizer:
        if (shape, shift) not in self._resizers:
            self._resizers[shape, shift] = Resizer(shape, self.size, shift)
        return self._resizers[shape, shift]


class _Facts:
    """The memo behind `fact`."""

    def __init__(self) -> None:
        self._known: dict[Callable, Any] = {}

    def fact(self, compute: Callable[[Any], Fact]) -> Fact:
        """compute(self), from memory after the first time."""
        if compute not in self._known:
            self._known[compute] = compute(self)
        return self._known[compute]


class MapFacts(_Facts):
    """One map: `values` float32 (H, W), `flat` the same as (HW,), the sum of the pixels, their extremes, and `reason`.

    `is_unsigned` is False where a pixel is -0.0, whose bits would be out of order.
    `reason` is what makes every metric of the map undefined (it may come from the CAM stage), else DEFINED.
    """

    def __init__(self, values: np.ndarray, slot: Slot, reason: int) -> None:
        super().__init__()
        self.values = values
        self.flat = values.reshape(-1)
        self.slot = slot
        # Floats >= 0 are ordered as their bits are, and integers vectorise.
        lowest, highest, self.maximum, self.total = _extremes_and_sum(self.flat.view(np.int32), self.flat)
        self.is_unsigned = lowest != _NEGATIVE_ZERO
        self.is_empty = highest == 0
        self.is_constant = lowest == highest
        self.reason = reason or self._own_reason(lowest, highest)

    def _own_reason(self, lowest: int, highest: int) -> Reason:
        if highest >= _INFINITY or (lowest < 0 and not np.isfinite(self.flat).all()):
            return Reason.NON_FINITE
        return Reason.NEGATIVE if lowest < 0 else Reason.DEFINED


class PairFacts(_Facts):
    """Two maps of one size, before and after."""

    def __init__(self, before: MapFacts, after: MapFacts) -> None:
        super().__init__()
        self.before = before
        self.after = after


@sums
def _extremes_and_sum(bits, values):
    """Smallest and largest of the bits, read as integers, the float of the latter, and the sum of the values."""
    lowest, highest, total = bits[0], bits[0], 0.0
    for p in range(bits.size):
        lowest = min(lowest, bits[p])
        highest = max(highest, bits[p])
        total += np.float64(values[p])
    return lowest, highest, _float_of(highest), total


@inlined
def _float_of(bits):
    return np.float64(np.int32(bits).view(np.float32))

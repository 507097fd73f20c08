"""Raw maps (h, w) to the size in which maps are compared (docs/metrics.md).

Bilinear interpolation with half-pixel centres and clamped edges: output pixel i reads the input at

    x = (i + 1/2) w / W - 1/2, clamped to [0, w - 1],

as v[floor x] + (x - floor x) (v[floor x + 1] - v[floor x]), first along columns, then along rows. It is what
OpenCV calls INTER_LINEAR (also when it shrinks: no averaging). In this form a constant stays the same
constant to the last bit, and a non-negative map stays non-negative. A map that is NaN everywhere stays so.

A `shift` (d, e), in shares of the height and the width, moves the picture up and left by as much: row i reads
at x = (i + 1/2 + d H) h / H - 1/2, clamped as before, so that what would come from beyond the edge repeats it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kernels.checks import clean_float32, map_size, positive_integer, real_array
from kernels.jit import kernel
from kernels.threads import for_each


def upsample(
    maps: np.ndarray, size: tuple[int, int], threads: int = 1, shift: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """Maps (N, h, w) of any real type to float32 (N, H, W), `size` = (H, W), moved by `shift`."""
    maps = real_array(maps, "maps", "Nhw")
    size = map_size(size)
    result = np.empty((len(maps), *size), np.float32)

    def worker() -> Callable[[int], None]:
        resizer = Resizer(maps.shape[1:], size, shift)
        return lambda n: resizer.write(maps[n], result[n])

    for_each(range(len(maps)), positive_integer(threads, "threads"), worker)
    return result


class Resizer:
    """Resizes maps of one shape to one size; holds the tables and the scratch memory of one thread."""

    def __init__(self, shape: tuple[int, ...], size: tuple[int, ...], shift: tuple[float, float] = (0.0, 0.0)) -> None:
        self._rows = _table(shape[0], size[0], shift[0])
        self._columns = _table(shape[1], size[1], shift[1])
        self._wide = np.empty((shape[0], size[1]), np.float32)

    def write(self, source: np.ndarray, target: np.ndarray) -> None:
        """Resize `source` (h, w) into `target`, float32 (H, W)."""
        _resize(clean_float32(source), *self._rows, *self._columns, self._wide, target)


def _table(old: int, new: int, shift: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every output index the two input indices it lies between, and its distance from the first."""
    position = np.clip((np.arange(new) + 0.5 + shift * new) * (old / new) - 0.5, 0, old - 1)
    low = position.astype(np.intp)
    return low, np.minimum(low + 1, old - 1), (position - low).astype(np.float32)


@kernel
def _resize(source, top, bottom, down, left, right, along, wide, target):
    for r in range(source.shape[0]):
        for c in range(left.size):
            start = source[r, left[c]]
            wide[r, c] = start + along[c] * (source[r, right[c]] - start)
    for r in range(top.size):
        upper, lower, share = wide[top[r]], wide[bottom[r]], down[r]
        for c in range(left.size):
            target[r, c] = upper[c] + share * (lower[c] - upper[c])

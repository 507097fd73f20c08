"""Where evidence was gained, lost and kept between two maps: the pixels of the largest differences."""

from __future__ import annotations

import numpy as np

from kernels.checks import real_array, same_shape

PERCENT = 10  # of the pixels, in each region
GAINED, LOST, KEPT = range(3)


def regions(before: np.ndarray, after: np.ndarray, percent: int = PERCENT) -> np.ndarray:
    """Masks bool (N, 3, H, W): gained, lost and kept, of maps (N, H, W) that are not negative.

    With u = a / max(a) and v = b / max(b): the k = (percent H W + 99) // 100 pixels of the largest v - u (gained), of
    u - v (lost) and of min(u, v) (kept), as far as these are above 0; of equal ones the first, row by row. A pair with
    an empty or undefined map has empty regions.
    """
    before, after = real_array(before, "before", "NHW"), real_array(after, "after", "NHW")
    same_shape(before, after, ("before", "after"))
    count = (percent * before[0].size + 99) // 100 if len(before) else 0
    found = np.zeros((len(before), 3, *before.shape[1:]), bool)
    for n, (a, b) in enumerate(zip(before.astype(np.float64), after.astype(np.float64), strict=True)):
        if all(np.isfinite(a_map).all() and a_map.max() > 0 for a_map in (a, b)):
            u, v = a / a.max(), b / b.max()
            for region, values in ((GAINED, v - u), (LOST, u - v), (KEPT, np.minimum(u, v))):
                found[n, region] = _largest(values, count)
    return found


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """The mask of the `count` largest values that are above 0."""
    chosen = np.argsort(-values, axis=None, kind="stable")[:count]
    mask = np.zeros(values.size, bool)
    mask[chosen] = values.ravel()[chosen] > 0
    return mask.reshape(values.shape)

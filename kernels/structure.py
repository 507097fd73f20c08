"""Structural similarity of two maps (Wang et al. 2004, doi:10.1109/TIP.2003.819861)."""

from __future__ import annotations

import numpy as np

from kernels.cached_maps import PairFacts
from kernels.jit import inlined, sums

RADIUS = 5
WINDOW = 2 * RADIUS + 1
SIGMA = 1.5
STRIP = 72  # columns at a time: eleven of their rows stay in the first cache
_ROW = STRIP + 16  # a row with its borders, rounded up to whole cache lines
C1, C2 = 0.01**2, 0.03**2  # (K1 L)^2 and (K2 L)^2 with the range L = 1

_gauss = np.exp(-0.5 * (np.arange(-RADIUS, 1) / SIGMA) ** 2)
W0, W1, W2, W3, W4, W5 = (_gauss / (2 * _gauss.sum() - 1)).tolist()  # half of the window: it is symmetric


def ssim(pair: PairFacts) -> float:
    """Mean over the pixels at least 5 from the border, for x = a / max a and y = b / max b, of

    (2 m_x m_y + C1) (2 s_xy + C2) / ((m_x^2 + m_y^2 + C1) (s_x^2 + s_y^2 + C2)),

    m and s the means and (population) covariances under an 11 x 11 Gaussian window of sigma 1.5.
    """
    before, after = pair.before, pair.after
    shared, height = before.slot.shared, before.values.shape[0]
    rows = shared.array("ssim rows", 4 * _ROW, np.float64)
    blurred = shared.array("ssim blurred", height * 4 * STRIP, np.float64)
    return _ssim(before.values, after.values, 1 / before.maximum, 1 / after.maximum, rows, blurred)


@sums
def _ssim(a, b, scale_a, scale_b, rows, blurred):
    """Strip by strip: each row is blurred along itself, and scored across as soon as its window is complete.

    `rows` holds x, y, x^2 + y^2 and x y of one row, `blurred` the same four of every row, blurred. Both are flat,
    so that every tap of the window is a constant distance away: that is what vectorises.
    """
    height, width = a.shape[0] - 2 * RADIUS, a.shape[1] - 2 * RADIUS
    total = 0.0
    for left in range(0, width, STRIP):
        columns = min(STRIP, width - left)
        right = left + columns + 2 * RADIUS
        for r in range(a.shape[0]):
            _products(a[r, left:right], b[r, left:right], scale_a, scale_b, rows)
            _blur_along(rows, blurred[r * 4 * STRIP :], columns)
            if r >= 2 * RADIUS:
                total += _similarity(blurred[(r - 2 * RADIUS) * 4 * STRIP :], columns)
    return total / (height * width)


@inlined
def _products(a, b, scale_a, scale_b, rows):
    for c in range(a.size):
        x, y = scale_a * a[c], scale_b * b[c]
        rows[c] = x
        rows[_ROW + c] = y
        rows[2 * _ROW + c] = x * x + y * y
        rows[3 * _ROW + c] = x * y


@inlined
def _blur_along(rows, blurred, columns):
    for c in range(columns):
        blurred[c] = _window(rows, c, 1)
        blurred[STRIP + c] = _window(rows, _ROW + c, 1)
        blurred[2 * STRIP + c] = _window(rows, 2 * _ROW + c, 1)
        blurred[3 * STRIP + c] = _window(rows, 3 * _ROW + c, 1)


@inlined
def _similarity(blurred, columns):
    """Sum of the similarity over the row of a strip whose windows begin with `blurred`."""
    total = 0.0
    for c in range(columns):
        mean_x = _window(blurred, c, 4 * STRIP)
        mean_y = _window(blurred, STRIP + c, 4 * STRIP)
        product, squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
        variances = _window(blurred, 2 * STRIP + c, 4 * STRIP) - squares
        covariance = _window(blurred, 3 * STRIP + c, 4 * STRIP) - product
        total += (2 * product + C1) * (2 * covariance + C2) / ((squares + C1) * (variances + C2))
    return total


@inlined
def _window(v, i, step):
    """The Gaussian mean of the 11 values from v[i] on, `step` apart."""
    outer = W0 * (v[i] + v[i + 10 * step]) + W1 * (v[i + step] + v[i + 9 * step])
    middle = W2 * (v[i + 2 * step] + v[i + 8 * step]) + W3 * (v[i + 3 * step] + v[i + 7 * step])
    return outer + middle + W4 * (v[i + 4 * step] + v[i + 6 * step]) + W5 * v[i + 5 * step]

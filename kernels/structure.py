"""Structural similarity of two maps (Wang et al. 2004, doi:10.1109/TIP.2003.819861)."""

from __future__ import annotations

import numpy as np

from kernels.cached_maps import MapFacts, PairFacts
from kernels.jit import inlined, sums

RADIUS = 5
WINDOW = 2 * RADIUS + 1
SIGMA = 1.5
STRIP = 216  # columns at a time: eleven of their rows, of two blurred images, stay in the first cache
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
    means = before.fact(local_means), after.fact(local_means)
    rows, blurred = _room(before)
    return _ssim(before.values, after.values, 1 / before.maximum, 1 / after.maximum, *means, rows, blurred)


def local_means(a_map: MapFacts) -> np.ndarray:
    """float64 (H - 10, W - 10): m_x of `ssim`, which every partner of a map needs."""
    height, width = a_map.values.shape
    found = a_map.slot.own.array("local means", (height - 2 * RADIUS, width - 2 * RADIUS), np.float64)
    _local_means(a_map.values, 1 / a_map.maximum, found, *_room(a_map))
    return found


def _room(a_map: MapFacts) -> tuple[np.ndarray, np.ndarray]:
    """Room for two images: of one row of a strip, and of all its rows, blurred.

    Both are flat, so that every tap of the window is a constant distance away: that is what vectorises.
    """
    shared, height = a_map.slot.shared, a_map.values.shape[0]
    rows = shared.array("ssim rows", 2 * _ROW, np.float64)
    return rows, shared.array("ssim blurred", height * 2 * STRIP, np.float64)


@sums
def _local_means(a, scale, means, rows, blurred):
    """Strip by strip: each row is blurred along itself, and across as soon as its window is complete."""
    for left in range(0, means.shape[1], STRIP):
        columns = min(STRIP, means.shape[1] - left)
        for r in range(a.shape[0]):
            _scaled(a[r, left : left + columns + 2 * RADIUS], scale, rows)
            _blur_along(rows, blurred[r * STRIP :], columns)
            if r >= 2 * RADIUS:
                top = r - 2 * RADIUS
                _blur_across(blurred[top * STRIP :], columns, means[top, left : left + columns])


@sums
def _ssim(a, b, scale_a, scale_b, means_a, means_b, rows, blurred):
    """As `_local_means`; `rows` holds x^2 + y^2 and x y of one row, `blurred` both of every row, blurred."""
    height, width = means_a.shape
    total = 0.0
    for left in range(0, width, STRIP):
        columns = min(STRIP, width - left)
        right = left + columns + 2 * RADIUS
        for r in range(a.shape[0]):
            _products(a[r, left:right], b[r, left:right], scale_a, scale_b, rows)
            _blur_along(rows, blurred[r * 2 * STRIP :], columns)
            _blur_along(rows[_ROW:], blurred[(2 * r + 1) * STRIP :], columns)
            if r >= 2 * RADIUS:
                top = r - 2 * RADIUS
                here = means_a[top, left : left + columns], means_b[top, left : left + columns]
                total += _similarity(blurred[top * 2 * STRIP :], here[0], here[1])
    return total / (height * width)


@inlined
def _scaled(a, scale, row):
    for c in range(a.size):
        row[c] = scale * a[c]


@inlined
def _products(a, b, scale_a, scale_b, rows):
    for c in range(a.size):
        x, y = scale_a * a[c], scale_b * b[c]
        rows[c] = x * x + y * y
        rows[_ROW + c] = x * y


@inlined
def _blur_along(row, blurred, columns):
    for c in range(columns):
        blurred[c] = _window(row, c, 1)


@inlined
def _blur_across(blurred, columns, means):
    for c in range(columns):
        means[c] = _window(blurred, c, STRIP)


@inlined
def _similarity(blurred, mean_x, mean_y):
    """Sum of the similarity over the row of a strip whose windows begin with `blurred`."""
    total = 0.0
    for c in range(mean_x.size):
        product, squares = mean_x[c] * mean_y[c], mean_x[c] * mean_x[c] + mean_y[c] * mean_y[c]
        variances = _window(blurred, c, 2 * STRIP) - squares
        covariance = _window(blurred, STRIP + c, 2 * STRIP) - product
        total += (2 * product + C1) * (2 * covariance + C2) / ((squares + C1) * (variances + C2))
    return total


@inlined
def _window(v, i, step):
    """The Gaussian mean of the 11 values from v[i] on, `step` apart."""
    outer = W0 * (v[i] + v[i + 10 * step]) + W1 * (v[i + step] + v[i + 9 * step])
    middle = W2 * (v[i + 2 * step] + v[i + 8 * step]) + W3 * (v[i + 3 * step] + v[i + 7 * step])
    return outer + middle + W4 * (v[i + 4 * step] + v[i + 6 * step]) + W5 * v[i + 5 * step]

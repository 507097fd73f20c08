"""Structural similarity of two maps (Wang et al. 2004, doi:10.1109/TIP.2003.819861)."""

from __future__ import annotations

import numpy as np

from kernels.facts import PairFacts
from kernels.jit import kernel, sums

RADIUS = 5
WINDOW = 2 * RADIUS + 1
SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2  # (K1 L)^2 and (K2 L)^2 with the range L = 1

_gauss = np.exp(-0.5 * (np.arange(-RADIUS, 1) / SIGMA) ** 2)
W0, W1, W2, W3, W4, W5 = (_gauss / (2 * _gauss.sum() - 1)).tolist()  # half of the window: it is symmetric


def ssim(pair: PairFacts) -> float:
    """Mean over the pixels at least 5 from the border, for x = a / max a and y = b / max b, of

    (2 m_x m_y + C1) (2 s_xy + C2) / ((m_x^2 + m_y^2 + C1) (s_x^2 + s_y^2 + C2)),

    m and s the means and (population) covariances under an 11 x 11 Gaussian window of sigma 1.5.
    """
    before, after = pair.before, pair.after
    width = before.values.shape[1]
    shared = before.slot.shared
    row = shared.array("ssim row", (4, width), np.float64)
    ring = shared.array("ssim ring", (WINDOW, 4, width - 2 * RADIUS), np.float64)
    return _ssim(before.values, after.values, 1 / before.maximum, 1 / after.maximum, row, ring)


@kernel
def _ssim(a, b, scale_a, scale_b, row, ring):
    """`row` holds x, y, x^2 + y^2 and x y of one row; `ring` the last 11 such rows, blurred along the row."""
    height, width = a.shape
    total = 0.0
    for r in range(height):
        _products(a[r], b[r], scale_a, scale_b, row)
        for q in range(4):
            _blur_along(row[q], ring[r % WINDOW, q])
        if r >= WINDOW - 1:
            total += _similarity_of_row(ring, r)
    return total / ((height - 2 * RADIUS) * (width - 2 * RADIUS))


@sums
def _products(a, b, scale_a, scale_b, row):
    for c in range(a.size):
        x, y = scale_a * a[c], scale_b * b[c]
        row[0, c] = x
        row[1, c] = y
        row[2, c] = x * x + y * y
        row[3, c] = x * y


@sums
def _blur_along(row, out):
    n = out.size
    a, b, c, d, e, f = row[0:], row[1:], row[2:], row[3:], row[4:], row[5:]
    g, h, i, j, k = row[6:], row[7:], row[8:], row[9:], row[10:]
    for x in range(n):
        outer = W0 * (a[x] + k[x]) + W1 * (b[x] + j[x]) + W2 * (c[x] + i[x])
        out[x] = outer + W3 * (d[x] + h[x]) + W4 * (e[x] + g[x]) + W5 * f[x]


@sums
def _blur_across(rows, q, x):
    a, b, c, d, e, f, g, h, i, j, k = rows
    outer = W0 * (a[q, x] + k[q, x]) + W1 * (b[q, x] + j[q, x]) + W2 * (c[q, x] + i[q, x])
    return outer + W3 * (d[q, x] + h[q, x]) + W4 * (e[q, x] + g[q, x]) + W5 * f[q, x]


@sums
def _similarity_of_row(ring, last):
    """Sum of the similarity over the output row whose window ends in row `last`."""
    first = last + 1  # the oldest row of the ring is the next one to be overwritten
    rows = (
        ring[first % 11], ring[(first + 1) % 11], ring[(first + 2) % 11], ring[(first + 3) % 11],
        ring[(first + 4) % 11], ring[(first + 5) % 11], ring[(first + 6) % 11], ring[(first + 7) % 11],
        ring[(first + 8) % 11], ring[(first + 9) % 11], ring[(first + 10) % 11],
    )  # fmt: skip
    total = 0.0
    for x in range(ring.shape[2]):
        mean_x, mean_y = _blur_across(rows, 0, x), _blur_across(rows, 1, x)
        product, squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
        covariance = _blur_across(rows, 3, x) - product
        variances = _blur_across(rows, 2, x) - squares
        total += (2 * product + C1) * (2 * covariance + C2) / ((squares + C1) * (variances + C2))
    return total

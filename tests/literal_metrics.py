"""Slow, literal versions of every map metric: one plain loop or exact fraction per definition, nothing shared.

They take float maps (H, W) as lists of Python floats would be taken, and nothing but the definition.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, dist, exp, fsum, hypot, log, log2, sqrt

import numpy as np


def pixels(a_map: np.ndarray) -> list[tuple[int, int, float]]:
    return [(r, c, float(a_map[r, c])) for r in range(a_map.shape[0]) for c in range(a_map.shape[1])]


def flat(a_map: np.ndarray) -> list[float]:
    return [value for _, _, value in pixels(a_map)]


def diagonal(a_map: np.ndarray) -> float:
    return hypot(a_map.shape[0] - 1, a_map.shape[1] - 1)


def centroid(a_map: np.ndarray) -> tuple[float, float]:
    total = fsum(flat(a_map))
    return fsum(r * v for r, _, v in pixels(a_map)) / total, fsum(c * v for _, c, v in pixels(a_map)) / total


def centroid_shift(a: np.ndarray, b: np.ndarray) -> float:
    return dist(centroid(a), centroid(b)) / diagonal(a)


def peak(a_map: np.ndarray) -> tuple[float, float]:
    largest = max(flat(a_map))
    places = [(r, c) for r, c, v in pixels(a_map) if v == largest]
    return sum(r for r, _ in places) / len(places), sum(c for _, c in places) / len(places)


def peak_shift(a: np.ndarray, b: np.ndarray) -> float:
    return dist(peak(a), peak(b)) / diagonal(a)


def zone_overlap(a: np.ndarray, b: np.ndarray) -> float:
    def shares(m: np.ndarray) -> dict[tuple[int, int], float]:
        height, width = m.shape
        zones: dict[tuple[int, int], list[float]] = {}
        for r, c, v in pixels(m):
            zones.setdefault((3 * r // height, 2 * c // width), []).append(v)
        return {zone: fsum(values) / fsum(flat(m)) for zone, values in zones.items()}

    before, after = shares(a), shares(b)
    return fsum(min(before[zone], after[zone]) for zone in before)


def iou(first: list[bool], second: list[bool]) -> float:
    both = sum(x and y for x, y in zip(first, second, strict=True))
    either = sum(x or y for x, y in zip(first, second, strict=True))
    return both / either


def top_mask(a_map: np.ndarray, percent: int) -> list[bool]:
    values = flat(a_map)
    k = ceil(Fraction(percent, 100) * len(values))
    threshold = sorted(values, reverse=True)[k - 1]
    return [v >= threshold and v > 0 for v in values]


def relative_mask(a_map: np.ndarray, share: Fraction) -> list[bool]:
    threshold = share * Fraction(max(flat(a_map)))
    return [Fraction(v) >= threshold for v in flat(a_map)]


def iou_half(a: np.ndarray, b: np.ndarray) -> float:
    return iou(relative_mask(a, Fraction(1, 2)), relative_mask(b, Fraction(1, 2)))


def iou_curve(a: np.ndarray, b: np.ndarray) -> float:
    shares = [Fraction(j, 20) for j in range(1, 20)]
    return fsum(iou(relative_mask(a, s), relative_mask(b, s)) for s in shares) / 19


def soft_iou(a: np.ndarray, b: np.ndarray) -> float:
    max_a, max_b = max(flat(a)), max(flat(b))
    x, y = [v / max_a for v in flat(a)], [v / max_b for v in flat(b)]
    return fsum(map(min, x, y)) / fsum(map(max, x, y))


def correlation(x: list[float], y: list[float]) -> float:
    mean_x, mean_y = fsum(x) / len(x), fsum(y) / len(y)
    covariance = fsum((u - mean_x) * (v - mean_y) for u, v in zip(x, y, strict=True))
    return covariance / sqrt(fsum((u - mean_x) ** 2 for u in x)) / sqrt(fsum((v - mean_y) ** 2 for v in y))


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    return correlation(flat(a), flat(b))


def ranks(values: list[float]) -> list[float]:
    return [sum(u < v for u in values) + (1 + sum(u == v for u in values)) / 2 for v in values]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    return correlation(ranks(flat(a)), ranks(flat(b)))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    x, y = a.astype(float) / float(a.max()), b.astype(float) / float(b.max())
    window = np.array([[exp(-(i * i + j * j) / (2 * 1.5**2)) for j in range(-5, 6)] for i in range(-5, 6)])
    window /= window.sum()
    values = []
    for r in range(5, a.shape[0] - 5):
        for c in range(5, a.shape[1] - 5):
            u, v = x[r - 5 : r + 6, c - 5 : c + 6], y[r - 5 : r + 6, c - 5 : c + 6]
            m_u, m_v = (window * u).sum(), (window * v).sum()
            s_u, s_v = (window * (u - m_u) ** 2).sum(), (window * (v - m_v) ** 2).sum()
            s_uv = (window * (u - m_u) * (v - m_v)).sum()
            light = (2 * m_u * m_v + 0.01**2) / (m_u**2 + m_v**2 + 0.01**2)
            values.append(light * (2 * s_uv + 0.03**2) / (s_u + s_v + 0.03**2))
    return fsum(values) / len(values)


def js_divergence(a: np.ndarray, b: np.ndarray) -> float:
    sum_a, sum_b = fsum(flat(a)), fsum(flat(b))
    p, q = [v / sum_a for v in flat(a)], [v / sum_b for v in flat(b)]
    m = [(u + v) / 2 for u, v in zip(p, q, strict=True)]
    to_m = [fsum(u * log2(u / w) for u, w in zip(x, m, strict=True) if u > 0) for x in (p, q)]
    return sum(to_m) / 2


def gini(a_map: np.ndarray) -> float:
    values = flat(a_map)
    return fsum(abs(u - v) for u in values for v in values) / (2 * len(values) * fsum(values))


def entropy(a_map: np.ndarray) -> float:
    total = fsum(flat(a_map))
    p = [v / total for v in flat(a_map)]
    return -fsum(u * log(u) for u in p if u > 0) / log(len(p))


def area50(a_map: np.ndarray) -> float:
    values = sorted((Fraction(v) for v in flat(a_map)), reverse=True)
    held, half = Fraction(0), sum(values) / 2
    for count, value in enumerate(values, start=1):
        held += value
        if held >= half:
            return count / len(values)
    raise AssertionError("all pixels hold all of the mass")


def iou_top(percent: int):
    return lambda a, b: iou(top_mask(a, percent), top_mask(b, percent))


LITERAL = {
    "centroid_shift": centroid_shift,
    "peak_shift": peak_shift,
    "zone_overlap": zone_overlap,
    "iou_top20": iou_top(20),
    "iou_top5": iou_top(5),
    "iou_top10": iou_top(10),
    "iou_top30": iou_top(30),
    "iou_half": iou_half,
    "iou_curve": iou_curve,
    "soft_iou": soft_iou,
    "pearson": pearson,
    "spearman": spearman,
    "ssim": ssim,
    "js_divergence": js_divergence,
    "gini": gini,
    "entropy": entropy,
    "area50": area50,
}

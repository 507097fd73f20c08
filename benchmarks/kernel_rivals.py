"""The map metrics as one would fairly write them with numpy, SciPy, scikit-image and OpenCV.

One call per library function, `np.partition` for quantiles, nothing computed twice within a function, the faster
of two library functions where both exist. Maps are float32 (H, W), non-negative, not constant; unlike ours,
nothing here looks for maps on which a metric is undefined.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import scipy.ndimage
import scipy.spatial.distance
import scipy.stats
import skimage.metrics

PERCENTS = (20, 5, 10, 30)


def centroid_ndimage(a: np.ndarray, b: np.ndarray) -> float:
    shift = np.subtract(scipy.ndimage.center_of_mass(a), scipy.ndimage.center_of_mass(b))
    return np.hypot(*shift) / np.hypot(a.shape[0] - 1, a.shape[1] - 1)


def centroid_shift(a: np.ndarray, b: np.ndarray) -> float:
    return np.hypot(*np.subtract(_centroid(a), _centroid(b))) / np.hypot(a.shape[0] - 1, a.shape[1] - 1)


def _centroid(a: np.ndarray) -> tuple[float, float]:
    by_row, by_column = a.sum(axis=1, dtype=np.float64), a.sum(axis=0, dtype=np.float64)
    total = by_row.sum()
    return by_row @ np.arange(len(by_row)) / total, by_column @ np.arange(len(by_column)) / total


def peak_shift(a: np.ndarray, b: np.ndarray) -> float:
    return np.hypot(*(_peak(a) - _peak(b))) / np.hypot(a.shape[0] - 1, a.shape[1] - 1)


def _peak(a: np.ndarray) -> np.ndarray:
    return np.mean(np.divmod(np.flatnonzero(a == a.max()), a.shape[1]), axis=1)


def zone_overlap(a: np.ndarray, b: np.ndarray) -> float:
    return np.minimum(_zones(a), _zones(b)).sum()


def _zones(a: np.ndarray) -> np.ndarray:
    height, width = a.shape
    rows = np.add.reduceat(a, -(-np.arange(3) * height // 3), axis=0, dtype=np.float64)
    zones = np.add.reduceat(rows, [0, (width + 1) // 2], axis=1)
    return zones / zones.sum()


def mask_iou(x: np.ndarray, y: np.ndarray) -> float:
    return np.count_nonzero(x & y) / np.count_nonzero(x | y)


def iou_top(percent: int) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda a, b: mask_iou(*(_top_masks(m, (percent,))[0] for m in (a, b)))


def _top_masks(a: np.ndarray, percents: tuple[int, ...]) -> list[np.ndarray]:
    places = [a.size - (percent * a.size + 99) // 100 for percent in percents]
    thresholds = np.partition(a, places, axis=None)[places]
    return [(a >= t) & (a > 0) for t in thresholds]


def iou_half(a: np.ndarray, b: np.ndarray) -> float:
    return mask_iou(a >= 0.5 * a.max(), b >= 0.5 * b.max())


def iou_curve(a: np.ndarray, b: np.ndarray) -> float:
    x, y = a * (np.float64(20) / a.max()), b * (np.float64(20) / b.max())
    return np.mean([mask_iou(x >= j, y >= j) for j in range(1, 20)])


def soft_iou(a: np.ndarray, b: np.ndarray) -> float:
    x, y = a / a.max(), b / b.max()
    return np.minimum(x, y).sum() / np.maximum(x, y).sum()


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    x, y = a.ravel() - a.mean(dtype=np.float64), b.ravel() - b.mean(dtype=np.float64)
    return x @ y / np.sqrt((x @ x) * (y @ y))


def pearson_scipy(a: np.ndarray, b: np.ndarray) -> float:
    return scipy.stats.pearsonr(a.ravel(), b.ravel()).statistic


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    return scipy.stats.spearmanr(a.ravel(), b.ravel()).statistic


def spearman_rankdata(a: np.ndarray, b: np.ndarray) -> float:
    return pearson(scipy.stats.rankdata(a), scipy.stats.rankdata(b))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    return skimage.metrics.structural_similarity(
        a / a.max(), b / b.max(), gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0
    )


def js_divergence(a: np.ndarray, b: np.ndarray) -> float:
    return scipy.spatial.distance.jensenshannon(a.ravel(), b.ravel(), base=2) ** 2


def js_numpy(a: np.ndarray, b: np.ndarray) -> float:
    p, q = a / a.sum(dtype=np.float64), b / b.sum(dtype=np.float64)
    return (_x_log_x(p) + _x_log_x(q)) / 2 - _x_log_x((p + q) / 2)


def _x_log_x(p: np.ndarray) -> float:
    return np.vdot(p, np.log2(np.maximum(p, 1e-300)))


def entropy(a: np.ndarray) -> float:
    return scipy.stats.entropy(a.ravel()) / np.log(a.size)


def entropy_numpy(a: np.ndarray) -> float:
    return -_x_log_x(a / a.sum(dtype=np.float64)) / np.log2(a.size)


def gini(a: np.ndarray) -> float:
    return _gini_of_sorted(np.sort(a, axis=None))


def _gini_of_sorted(x: np.ndarray) -> float:
    n = x.size
    return np.arange(1 - n, n, 2.0) @ x / (n * x.sum(dtype=np.float64))


def area50(a: np.ndarray) -> float:
    return _area50_of_sorted(np.sort(a, axis=None))


def _area50_of_sorted(x: np.ndarray) -> float:
    held = np.cumsum(x[::-1], dtype=np.float64)
    return (np.searchsorted(held, held[-1] / 2) + 1) / x.size


PAIR: dict[str, dict[str, Callable[[np.ndarray, np.ndarray], float]]] = {
    "centroid_shift": {"numpy": centroid_shift, "scipy.ndimage": centroid_ndimage},
    "peak_shift": {"numpy": peak_shift},
    "zone_overlap": {"numpy": zone_overlap},
    "iou_top20": {"numpy": iou_top(20)},
    "iou_half": {"numpy": iou_half},
    "iou_curve": {"numpy": iou_curve},
    "soft_iou": {"numpy": soft_iou},
    "pearson": {"numpy": pearson, "scipy": pearson_scipy},
    "spearman": {"scipy": spearman, "scipy.rankdata": spearman_rankdata},
    "ssim": {"skimage": ssim},
    "js_divergence": {"scipy": js_divergence, "numpy": js_numpy},
}
CONCENTRATION: dict[str, dict[str, Callable[[np.ndarray], float]]] = {
    "gini": {"numpy": gini},
    "entropy": {"scipy": entropy, "numpy": entropy_numpy},
    "area50": {"numpy": area50},
}


def full_set(a: np.ndarray, b: np.ndarray) -> list[float]:
    """Every column of `pair_metrics`, in its order: one partition and one sort per map serve what they can."""
    tops = [mask_iou(x, y) for x, y in zip(_top_masks(a, PERCENTS), _top_masks(b, PERCENTS), strict=True)]
    pair = [
        centroid_shift(a, b), peak_shift(a, b), zone_overlap(a, b), *tops, iou_half(a, b), iou_curve(a, b),
        soft_iou(a, b), pearson(a, b), spearman(a, b), ssim(a, b), js_numpy(a, b),
    ]  # fmt: skip
    for before, after in zip(_concentration(a), _concentration(b), strict=True):
        pair += [before, after, after - before]
    return pair


def _concentration(a: np.ndarray) -> list[float]:
    ascending = np.sort(a, axis=None)
    return [_gini_of_sorted(ascending), entropy_numpy(a), _area50_of_sorted(ascending)]


def resize(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    result = np.empty((len(maps), *size), np.float32)
    for source, target in zip(maps, result, strict=True):
        cv2.resize(source, size[::-1], dst=target, interpolation=cv2.INTER_LINEAR)
    return result


def gradcam(A: np.ndarray, G: np.ndarray) -> np.ndarray:
    return _weighted(A, G.mean(axis=(1, 2)))


def gradcam_plus_plus(A: np.ndarray, G: np.ndarray, over: Callable[..., np.ndarray] = np.sum) -> np.ndarray:
    """`over` the positions: the sum of the paper, or the mean."""
    positive = np.maximum(G, 0)
    weights = over(positive / (2 + positive * over(A, axis=(1, 2))[:, None, None]), axis=(1, 2))
    return _weighted(A, weights)


def layercam(A: np.ndarray, G: np.ndarray) -> np.ndarray:
    return np.maximum(np.einsum("khw,khw->hw", np.maximum(G, 0), A), 0)


def hirescam(A: np.ndarray, G: np.ndarray) -> np.ndarray:
    return np.maximum(np.einsum("khw,khw->hw", G, A), 0)


def xgradcam(A: np.ndarray, G: np.ndarray) -> np.ndarray:
    mass = A.sum(axis=(1, 2))
    weights = np.einsum("khw,khw->k", G, A)
    return _weighted(A, np.divide(weights, mass, out=np.zeros_like(mass), where=abs(mass) > 1e-12))


def eigencam(A: np.ndarray, _G: np.ndarray) -> np.ndarray:
    _, values, vectors = np.linalg.svd(A.reshape(len(A), -1), full_matrices=False)
    found = values[0] * vectors[0] * np.sign(vectors[0].sum())
    return np.maximum(found, 0).reshape(A.shape[1:])


def _weighted(A: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.maximum(weights @ A.reshape(len(A), -1), 0).reshape(A.shape[1:])


CAM: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "gradcam++-mean": partial(gradcam_plus_plus, over=np.mean),
    "layercam": layercam,
    "hirescam": hirescam,
    "xgradcam": xgradcam,
    "eigencam": eigencam,
}


def pairwise_soft_iou(x: np.ndarray, rows: int = 64) -> np.ndarray:
    """x (N, P), relative to its maximum: blocks of rows small enough that the minima stay in cache."""
    total = x.sum(axis=1, dtype=np.float64)
    result = np.empty((len(x), len(x)))
    smaller = np.empty((rows, x.shape[1]), x.dtype)
    for i in range(len(x)):
        for j in range(i, len(x), rows):
            block = x[j : j + rows]
            common = np.minimum(x[i], block, out=smaller[: len(block)]).sum(axis=1)
            result[i, j : j + rows] = common / (total[i] + total[j : j + rows] - common)
            result[j : j + rows, i] = result[i, j : j + rows]
    return result


def pairwise_mask_iou(masks: np.ndarray) -> np.ndarray:
    """masks (N, P): a matrix product of zeros and ones counts the common pixels."""
    x = masks.astype(np.float32)
    both = x @ x.T
    own = both.diagonal()
    return both / (own[:, None] + own - both)

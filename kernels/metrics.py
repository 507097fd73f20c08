"""The metrics of docs/metrics.md: the registry, and the entry that computes them all for a batch of pairs.

`METRICS` holds one record each in report order. A record is callable: that is the checked public function of
one metric alone, `METRICS["pearson"](before, after)`. `pair_metrics` shares what can be shared between them.
Both give the same bits for a pair, whatever else is in the batch and however many threads there are.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.concentration import area50, entropy, gini
from kernels.correlation import pearson, spearman
from kernels.information import js_divergence
from kernels.overlap import iou_curve, iou_half, iou_top, soft_iou
from kernels.position import centroid_shift, peak_shift, zone_overlap
from kernels.registry import by_name, look_up
from kernels.scoring import Metric, PairScores, score_pairs
from kernels.structure import WINDOW, ssim

_TOP_SOURCE = "Jaccard 1901 on the k largest pixels"


def _iou_top(percent: int) -> Metric:
    definition = f"IoU of the masks {{x >= t and x > 0}}, t = the k-th largest value, k = ({percent} H W + 99) // 100"
    return Metric(f"iou_top{percent}", "pair", (0, 1), "high", "overlap", definition, _TOP_SOURCE, iou_top(percent))


_RECORDS = (
    Metric(
        "centroid_shift",
        "pair",
        (0, 1),
        "low",
        "mass",
        "distance of the centres of mass as a share of the diagonal",
        "Elangovan & Ting, arXiv 2604.08513",
        centroid_shift,
        least_pixels=2,
    ),
    Metric(
        "peak_shift",
        "pair",
        (0, 1),
        "low",
        "variation",
        "distance of the maxima, each the mean position of its ties, as a share of the diagonal",
        "the pointing game of Zhang et al. 2016, doi:10.1007/s11263-017-1059-x, as a distance",
        peak_shift,
        least_pixels=2,
    ),
    Metric(
        "zone_overlap",
        "pair",
        (0, 1),
        "high",
        "overlap",
        "sum over six zones (thirds by height, halves by width) of the smaller of the two shares of mass",
        "histogram intersection, Swain & Ballard 1991, doi:10.1007/BF00130487",
        zone_overlap,
    ),
    _iou_top(20),
    _iou_top(5),
    _iou_top(10),
    _iou_top(30),
    Metric(
        "iou_half",
        "pair",
        (0, 1),
        "high",
        "overlap",
        "IoU of the masks {x >= max / 2}",
        "Jaccard 1901 at half of the maximum",
        iou_half,
    ),
    Metric(
        "iou_curve",
        "pair",
        (0, 1),
        "high",
        "overlap",
        "mean IoU of the masks {x >= r max} over r = 0.05, 0.10 ... 0.95",
        "Jaccard 1901 averaged over thresholds",
        iou_curve,
    ),
    Metric(
        "soft_iou",
        "pair",
        (0, 1),
        "high",
        "overlap",
        "sum of the smaller over sum of the larger of a / max a and b / max b",
        "Ruzicka 1958; Jaccard for weighted sets",
        soft_iou,
    ),
    Metric(
        "pearson",
        "pair",
        (-1, 1),
        "high",
        "variation",
        "product-moment correlation of the pixels",
        "Pearson 1895, doi:10.1098/rspl.1895.0041",
        pearson,
    ),
    Metric(
        "spearman",
        "pair",
        (-1, 1),
        "high",
        "variation",
        "correlation of the ranks of the pixels, ties sharing their mean rank",
        "Spearman 1904, doi:10.2307/1412159",
        spearman,
    ),
    Metric(
        "ssim",
        "pair",
        (-1, 1),
        "high",
        "variation",
        "structural similarity of a / max a and b / max b: Gaussian window 11 x 11, sigma 1.5, K1 0.01, K2 0.03, "
        "range 1, borders cropped by 5",
        "Wang et al. 2004, doi:10.1109/TIP.2003.819861",
        ssim,
        least_side=WINDOW,
    ),
    Metric(
        "js_divergence",
        "pair",
        (0, 1),
        "low",
        "mass",
        "Jensen-Shannon divergence of a / sum a and b / sum b in bits",
        "Lin 1991, doi:10.1109/18.61115",
        js_divergence,
    ),
    Metric(
        "gini",
        "concentration",
        (0, 1),
        "zero",
        "mass",
        "Gini coefficient of the pixels: 0 where the mass is even, (n - 1) / n where one pixel holds it all",
        "Hurley & Rickard 2009, doi:10.1109/TIT.2009.2027527",
        gini,
    ),
    Metric(
        "entropy",
        "concentration",
        (0, 1),
        "zero",
        "mass",
        "Shannon entropy of a / sum a over its maximum ln(H W): 1 where the mass is even",
        "Shannon 1948, doi:10.1002/j.1538-7305.1948.tb01338.x",
        entropy,
        least_pixels=2,
    ),
    Metric(
        "area50",
        "concentration",
        (0, 1),
        "zero",
        "mass",
        "smallest share of the pixels that holds half of the mass",
        "our own, after the half-light area of photometry",
        area50,
    ),
)
METRICS: Mapping[str, Metric] = by_name(_RECORDS)


def metric(name: str) -> Metric:
    """The record of `name`; raises ValueError with the nearest known names."""
    return look_up(METRICS, name, "metric")


def pair_metrics(
    before: np.ndarray,
    after: np.ndarray,
    threads: int = 1,
    *,
    before_reasons: np.ndarray | None = None,
    after_reasons: np.ndarray | None = None,
    size: tuple[int, int] | None = None,
) -> PairScores:
    """Every metric for the pairs (before[n], after[n]) of maps (N, H, W).

    before_reasons, after_reasons: reason codes (N,) of the CAM stage; where one is not DEFINED, every metric
        of that map is undefined for that reason
    size: resize all maps to (H, W) first, by the rule of `kernels.resize`, one map at a time: the same
        numbers as for `upsample`d batches without holding them; then the sides may differ in (h, w)

    Raises TypeError or ValueError where the arguments are not maps, differ in number or, without `size`, in
    shape. What is wrong inside a map is reported as a reason.
    """
    return score_pairs(list(METRICS.values()), before, after, before_reasons, after_reasons, size, threads)

"""Every CAM method and every metric that there is: one record each, and how users add their own (docs/metrics.md).

`METHODS` and `METRICS` hold ours in report order, then those that were registered with `register_method` and
`register_metric` in this process, and those of installed packages: entry points of the groups
`evidence_drift.methods` and `evidence_drift.metrics` that name what these functions returned. Nothing here loads
more than the standard library.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from kernels.record_types import KINDS, Kind, MethodRecord, MetricRecord, Needs, StableIs
from kernels.registry import Registry, look_up

# What reports, policies and files call something else already: words of the glossary, predictions, scopes.
RESERVED_METRICS = frozenset(
    {
        "accuracy", "agreement", "all", "auc", "chance", "conditioning", "consistency", "distribution", "ece",
        "equivalence", "flips", "floor", "holm", "index", "inside", "interaction", "interval", "n", "order",
        "paradigm", "preserved", "reversal", "selection", "undefined", "vanished", "words",
    }
)  # fmt: skip
RESERVED_METHODS = frozenset(["gradcampp"])  # the name under which a page refers to gradcam++
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_STABLE: Mapping[Kind, tuple[StableIs, ...]] = {"pair": ("low", "high"), "concentration": ("zero",)}

_TOP_SOURCE = "Jaccard 1901 on the k largest pixels"


def _iou_top(percent: int) -> MetricRecord:
    definition = f"IoU of the masks {{x >= t and x > 0}}, t = the k-th largest value, k = ({percent} H W + 99) // 100"
    return MetricRecord(
        f"iou_top{percent}",
        "pair",
        (0, 1),
        "high",
        "overlap",
        definition,
        _TOP_SOURCE,
        f"kernels.overlap:iou_top{percent}",
    )


_METRICS = (
    MetricRecord(
        "centroid_shift",
        "pair",
        (0, 1),
        "low",
        "mass",
        "distance of the centres of mass as a share of the diagonal",
        "Elangovan & Ting, arXiv 2604.08513",
        "kernels.position:centroid_shift",
        least_pixels=2,
    ),
    MetricRecord(
        "peak_shift",
        "pair",
        (0, 1),
        "low",
        "variation",
        "distance of the maxima, each the mean position of its ties, as a share of the diagonal",
        "the pointing game of Zhang et al. 2016, doi:10.1007/s11263-017-1059-x, as a distance",
        "kernels.position:peak_shift",
        least_pixels=2,
    ),
    MetricRecord(
        "zone_overlap",
        "pair",
        (0, 1),
        "high",
        "overlap",
        "sum over six zones (thirds by height, halves by width) of the smaller of the two shares of mass",
        "histogram intersection, Swain & Ballard 1991, doi:10.1007/BF00130487",
        "kernels.position:zone_overlap",
    ),
    _iou_top(20),
    _iou_top(5),
    _iou_top(10),
    _iou_top(30),
    MetricRecord(
        "iou_half",
        "pair",
        (0, 1),
        "high",
        "overlap",
        "IoU of the masks {x >= max / 2}",
        "Jaccard 1901 at half of the maximum",
        "kernels.overlap:iou_half",
    ),
    MetricRecord(
        "iou_curve",
        "pair",
        (0, 1),
        "high",
        "overlap",
        "mean IoU of the masks {x >= r max} over r = 0.05, 0.10 ... 0.95",
        "Jaccard 1901 averaged over thresholds",
        "kernels.overlap:iou_curve",
    ),
    MetricRecord(
        "soft_iou",
        "pair",
        (0, 1),
        "high",
        "overlap",
        "sum of the smaller over sum of the larger of a / max a and b / max b",
        "Ruzicka 1958; Jaccard for weighted sets",
        "kernels.overlap:soft_iou",
    ),
    MetricRecord(
        "pearson",
        "pair",
        (-1, 1),
        "high",
        "variation",
        "product-moment correlation of the pixels",
        "Pearson 1895, doi:10.1098/rspl.1895.0041",
        "kernels.correlation:pearson",
    ),
    MetricRecord(
        "spearman",
        "pair",
        (-1, 1),
        "high",
        "variation",
        "correlation of the ranks of the pixels, ties sharing their mean rank",
        "Spearman 1904, doi:10.2307/1412159",
        "kernels.correlation:spearman",
    ),
    MetricRecord(
        "ssim",
        "pair",
        (-1, 1),
        "high",
        "variation",
        "structural similarity of a / max a and b / max b: Gaussian window 11 x 11, sigma 1.5, K1 0.01, K2 0.03, "
        "range 1, borders cropped by 5",
        "Wang et al. 2004, doi:10.1109/TIP.2003.819861",
        "kernels.structure:ssim",
        least_side=11,
    ),
    MetricRecord(
        "js_divergence",
        "pair",
        (0, 1),
        "low",
        "mass",
        "Jensen-Shannon divergence of a / sum a and b / sum b in bits",
        "Lin 1991, doi:10.1109/18.61115",
        "kernels.information:js_divergence",
    ),
    MetricRecord(
        "gini",
        "concentration",
        (0, 1),
        "zero",
        "mass",
        "Gini coefficient of the pixels: 0 where the mass is even, (n - 1) / n where one pixel holds it all",
        "Hurley & Rickard 2009, doi:10.1109/TIT.2009.2027527",
        "kernels.concentration:gini",
    ),
    MetricRecord(
        "entropy",
        "concentration",
        (0, 1),
        "zero",
        "mass",
        "Shannon entropy of a / sum a over its maximum ln(H W): 1 where the mass is even",
        "Shannon 1948, doi:10.1002/j.1538-7305.1948.tb01338.x",
        "kernels.concentration:entropy",
        least_pixels=2,
    ),
    MetricRecord(
        "area50",
        "concentration",
        (0, 1),
        "zero",
        "mass",
        "smallest share of the pixels that holds half of the mass",
        "our own, after the half-light area of photometry",
        "kernels.concentration:area50",
    ),
)
_METHODS = (
    MethodRecord(
        "gradcam",
        "w_k = mean(G_k); M = relu(sum_k w_k A_k)",
        "Selvaraju et al. 2017, doi:10.1109/ICCV.2017.74",
        "kernels.cam:_gradcam",
    ),
    MethodRecord(
        "gradcam++",
        "w_k = sum(relu(G_k) / (2 + G_k sum(A_k))); M = relu(sum_k w_k A_k). "
        "Equation 19 with Y = exp(score): exact for piecewise-linear layers, approximate for Swish and GELU",
        "Chattopadhay et al. 2018, doi:10.1109/WACV.2018.00097",
        "kernels.cam:_gradcam_plus_plus",
        hides=True,
        conditioning="kernels.cam:_conditioning_by_sum",
    ),
    MethodRecord(
        "gradcam++-mean",
        "w_k = mean(relu(G_k) / (2 + G_k mean(A_k))); M = relu(sum_k w_k A_k). Grad-CAM++ with the mean of the "
        "activations in place of their sum, which leaves its denominators near 2",
        "Fel et al. 2022, Xplique's GradCAMPP, arXiv 2206.04394",
        "kernels.cam:_gradcam_plus_plus_mean",
        hides=True,
        conditioning="kernels.cam:_conditioning_by_mean",
    ),
    MethodRecord(
        "layercam",
        "M = relu(sum_k relu(G_k) A_k)",
        "Jiang et al. 2021, doi:10.1109/TIP.2021.3089943",
        "kernels.cam:_layercam",
        hides=True,
    ),
    MethodRecord(
        "hirescam",
        "M = relu(sum_k G_k A_k)",
        "Draelos & Carin 2020, arXiv 2011.08891",
        "kernels.cam:_hirescam",
    ),
    MethodRecord(
        "xgradcam",
        "w_k = sum(G_k A_k) / sum(A_k), 0 where |sum(A_k)| < 1e-12; M = relu(sum_k w_k A_k)",
        "Fu et al. 2020, arXiv 2008.02312",
        "kernels.cam:_xgradcam",
        hides=True,
    ),
    MethodRecord(
        "eigencam",
        "M = relu(s u): u the leading right singular vector of A (C, h w), s its singular value; the sign of u is the "
        "one with sum(u) > 0. The same map for every class",
        "Muhammad & Yeasin 2020, doi:10.1109/IJCNN48605.2020.9206626",
        "kernels.cam:_eigencam",
        hides=True,
        paradigm="activation",
        where="layer",
    ),
    MethodRecord(
        "ablation",
        "M_p = relu(Y(A) - Y(A with A[:, p] replaced by its mean over all positions))",
        "Zeiler & Fergus 2014, doi:10.1007/978-3-319-10590-1_53, at positions of a layer; the replacement after "
        "Ablation-CAM, Ramaswamy & Desai 2020, doi:10.1109/WACV45572.2020.9093360",
        "kernels.several_passes:Ablation",
        paradigm="perturbation",
        asks="tail",
        cost="h w + 1 forward passes of the tail",
        where="layer",
    ),
    MethodRecord(
        "integrated-gradients",
        "M = relu(sum_k A_k integral of dY/dA_k(t A) dt over 0..1), by Gauss and Legendre in 24 steps; "
        "the baseline is 0",
        "Sundararajan et al. 2017, arXiv 1703.01365",
        "kernels.several_passes:IntegratedGradients",
        paradigm="path",
        asks="tail",
        cost="26 forward and backward passes of the tail",
    ),
    MethodRecord(
        "scorecam",
        "M = relu(sum_k w_k A_k) over the 32 channels of the largest standard deviation; w = softmax over them of the "
        "score of the picture times A_k, enlarged and scaled to 0..1",
        "Wang et al. 2020, arXiv 1910.01279; all channels there",
        "kernels.several_passes:ScoreCam",
        paradigm="perturbation",
        asks="network",
        cost="32 forward passes of the network",
        where="layer",
    ),
    MethodRecord(
        "input-x-gradient",
        "M = relu(sum_k G_k x_k), x the picture in grey levels 0..255",
        "Shrikumar et al. 2016, arXiv 1605.01713",
        "kernels.cam:_hirescam",
        where="picture",
    ),
    MethodRecord(
        "smoothgrad",
        "M = sum_k abs(mean of G_k at the picture with noise), 25 draws of brightness with sd 0.15 x 255",
        "Smilkov et al. 2017, arXiv 1706.03825",
        "kernels.several_passes:SmoothGrad",
        asks="tail",
        cost="25 forward and backward passes of the network",
        where="picture",
    ),
    MethodRecord(
        "occlusion",
        "M_p = relu(mean over the patches that cover p of Y(x) - Y(x with the patch set to its mean)); patches of an "
        "eighth of each side, half of that apart",
        "Zeiler & Fergus 2014, doi:10.1007/978-3-319-10590-1_53",
        "kernels.several_passes:Occlusion",
        paradigm="perturbation",
        asks="tail",
        cost="226 forward passes of the network, at 224 x 224",
        where="picture",
    ),
)


def metric(name: str) -> MetricRecord:
    """The record of `name`; raises ValueError with the nearest known names."""
    return look_up(METRICS, name, METRICS.kind)


def cam_method(name: str) -> MethodRecord:
    """The record of `name`; raises ValueError with the nearest known names."""
    return look_up(METHODS, name, METHODS.kind)


def of_one_pass(methods: Iterable[str]) -> list[str]:
    """Those of the methods that need no more than activations and gradients of one pass."""
    return [name for name in methods if not cam_method(name).takes_passes]


def of_several_passes(methods: Iterable[str]) -> list[str]:
    """Those of the methods that take further passes."""
    return [name for name in methods if cam_method(name).takes_passes]


def register_metric(
    name: str,
    function: Callable[..., float],
    *,
    range: tuple[float, float],
    stable_is: StableIs,
    definition: str,
    kind: Kind = "pair",
    needs: Needs = "mass",
    source: str = "",
) -> MetricRecord:
    """Add a metric of your own to table, report, gate and JSON; returns its record, which an entry point may name.

    function: of two maps (before, after), or of one for a concentration: float32 (H, W), finite, not negative,
        read-only, of the size in which maps are compared; several threads call it. It returns a number in `range`, or
        NaN where the metric is undefined, which is counted under the reason `non_finite`
    stable_is: "high" or "low", the side of the range at which nothing drifted; "zero" for a concentration
    needs: what is undefined without asking the function, as in `MetricRecord`

    :raises RegistrationError: a name that is taken or not spelled as ours are, or a record that contradicts itself.
    """
    limits = tuple(range) if isinstance(range, list) else range  # as it is read back from a file
    return METRICS.register(MetricRecord(name, kind, limits, stable_is, needs, definition, source, function))


def register_method(name: str, function: Callable[[Any, Any], Any], *, equation: str, source: str = "") -> MethodRecord:
    """Add a CAM method of your own, to be asked for by its name; returns its record, which an entry point may name.

    function: of activations A and gradients G = dY/dA of one image, both float32 (C, h, w), finite, read-only; returns
        the map (h, w), which is rectified afterwards; where it is not finite, the map is undefined (`non_finite`)

    :raises RegistrationError: a name that is taken or not spelled as ours are, or no equation.
    """
    return METHODS.register(MethodRecord(name, equation, source, function, hides=True))


def check_metric(record: MetricRecord, others: Mapping[str, MetricRecord]) -> None:
    """Raise ValueError where a user's metric, or the description of one, is not as it must be."""
    _check_name(record.name, RESERVED_METRICS)
    _check_choice("kind", record.kind, KINDS)
    _check_choice(f"stable_is of a {record.kind}", record.stable_is, _STABLE[record.kind])
    _check_choice("needs", record.needs, get_args(Needs))
    _check_range(record.range)
    _check_text("definition", record.definition)
    _check_source(record.source)
    if record.is_overlap and (record.kind, record.stable_is, record.range[0]) != ("pair", "high", 0):
        raise ValueError('needs="overlap" scores vanished evidence 0: its metric is a pair, high is stable, from 0 on')
    if record.kind == "concentration" and record.needs != "mass":
        raise ValueError('a concentration has needs="mass": it is of any map that is not empty')
    taken = {column: other.name for other in others.values() for column in _names_of(other)}
    for column in _names_of(record):
        if column in taken:
            raise ValueError(f"its column {column!r} is one of {taken[column]!r}; choose another name")


def check_method(record: MethodRecord, _: Mapping[str, MethodRecord]) -> None:
    """Raise ValueError where a user's CAM method is not as it must be."""
    _check_name(record.name, RESERVED_METHODS)
    _check_text("equation", record.equation)
    _check_source(record.source)
    _check_function(record.implementation)


def _check_new_metric(record: MetricRecord, others: Mapping[str, MetricRecord]) -> None:
    check_metric(record, others)
    _check_function(record.implementation)


def _names_of(record: MetricRecord) -> tuple[str, ...]:
    """The metric's own name and those of its columns."""
    return tuple(dict.fromkeys((record.name, *record.columns, record.stability)))


def _check_name(name: object, reserved: frozenset[str]) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("a name is lower-case letters, digits and _, begins with a letter and has at most 40 of them")
    if name in reserved:
        raise ValueError("the name means something else already; choose another one")


def _check_choice(what: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{what} must be {' or '.join(map(repr, choices))}, not {value!r}")


def _check_range(value: object) -> None:
    problem = f"range must be two finite numbers, the smaller one first, not {value!r}"
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(problem)
    low, high = value
    if any(isinstance(end, bool) or not isinstance(end, (int, float)) for end in (low, high)):
        raise ValueError(problem)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(problem)


def _check_text(what: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"give its {what} as a sentence or a formula: reports show it")


def _check_source(value: object) -> None:
    if not isinstance(value, str):
        raise ValueError(f"source must be a text, not {value!r}")


def _check_function(value: object) -> None:
    if not callable(value):
        raise ValueError(f"its implementation must be a function, not {value!r}")


METRICS: Registry[MetricRecord] = Registry("metric", "evidence_drift.metrics", _METRICS, _check_new_metric)
METHODS: Registry[MethodRecord] = Registry("CAM method", "evidence_drift.methods", _METHODS, check_method)

"""Class activation maps from activations A and gradients G = dY/dA of one layer (docs/metrics.md).

One record per method in `METHODS`; every method reads the same A and G, so five cost one pass of the model.
A kernel gets A and G of one image as (C, P), P = h w, adds up in float64 and writes the raw map M (P,): relu
applied, not rescaled. Sums run over the P positions, k counts channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from kernels.checks import clean_float32, positive_integer, real_array, same_shape
from kernels.jit import kernel, sums
from kernels.reasons import Reason
from kernels.registry import by_name, look_up
from kernels.threads import for_each

SINGULAR_BELOW = 1e-6  # Grad-CAM++ denominators at or below this have no weight
SINGULAR_SHARE = 0.01  # more than this share of the positive gradients without a weight: no map
XGRAD_EMPTY = 1e-12  # |sum(A_k)| below this: the channel has no weight in XGrad-CAM
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class CamMethod:
    """A method: `reduce(A (C, P), G (C, P), M (P,))` writes M before relu and returns the singular share.

    hides: a gradient that is not finite may leave no trace in M, so that gradients are checked beforehand
    """

    name: str
    definition: str
    source: str
    reduce: Callable[[np.ndarray, np.ndarray, np.ndarray], float]
    hides: bool = False


def cam(method: str, activations: np.ndarray, gradients: np.ndarray, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Raw maps float32 (N, h, w) and reason codes uint8 (N,) of `method` for A and G of shape (N, C, h, w).

    An undefined map is NaN everywhere and its reason says why (`NON_FINITE`, `SINGULAR_ALPHA`). A map that is
    zero everywhere is defined: the layer holds no positive evidence.
    Raises ValueError for an unknown method or unequal shapes, TypeError for what is not real.
    """
    return cams([method], activations, gradients, threads)[method]


def cams(
    methods: Iterable[str], activations: np.ndarray, gradients: np.ndarray, threads: int = 1
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """`cam` of several methods at once, by name; A and G are checked and read into the cache only once."""
    activations = real_array(activations, "activations", "NChw")
    gradients = real_array(gradients, "gradients", "NChw")
    same_shape(activations, gradients, ("activations", "gradients"))
    count, _, *shape = activations.shape
    chosen = [cam_method(name) for name in methods]
    result = {method.name: (np.empty((count, *shape), np.float32), np.zeros(count, np.uint8)) for method in chosen}

    def worker() -> Callable[[int], None]:
        total = np.empty(shape[0] * shape[1])
        return lambda n: _explain(chosen, activations[n], gradients[n], total, n, result)

    for_each(range(count), positive_integer(threads, "threads"), worker)
    return result


def cam_method(name: str) -> CamMethod:
    """The record of `name`; raises ValueError with the nearest known names."""
    return look_up(METHODS, name, "CAM method")


def _explain(chosen: list[CamMethod], a: np.ndarray, g: np.ndarray, total: np.ndarray, n: int, result: dict) -> None:
    a = clean_float32(a).reshape(len(a), -1)  # (C, P)
    g = clean_float32(g).reshape(len(g), -1)
    # Whatever is wrong with A shows in every sum, and so does G where no rectifier or empty channel hides it.
    finite = not any(method.hides for method in chosen) or _is_finite(g.reshape(-1))
    for method in chosen:
        maps, reasons = result[method.name]
        singular = method.reduce(a, g, total) if finite else 0.0
        reasons[n] = _write(total, finite, singular, maps[n].reshape(-1))


def _write(total: np.ndarray, finite: bool, singular: float, target: np.ndarray) -> Reason:
    """relu(total) as float32, or NaN everywhere with the reason."""
    if not (_rectify(total, target) and finite):
        reason = Reason.NON_FINITE
    elif singular > SINGULAR_SHARE:
        reason = Reason.SINGULAR_ALPHA
    else:
        return Reason.DEFINED
    target.fill(np.nan)
    return reason


@kernel
def _rectify(total, target):
    """Write relu(total); return whether every sum is a finite float32."""
    finite = True
    for p in range(total.size):
        finite &= abs(total[p]) <= _LARGEST
        target[p] = max(total[p], 0.0)
    return finite


@sums
def _is_finite(values):
    total = 0.0  # finite float32 values cannot overflow it, and others cannot cancel out
    for p in range(values.size):
        total += np.float64(values[p])
    return np.isfinite(total)


@sums
def _gradcam(a, g, out):
    out[:] = 0.0
    for k in range(a.shape[0]):
        weight = 0.0
        for p in range(out.size):
            weight += np.float64(g[k, p])
        weight /= out.size
        for p in range(out.size):
            out[p] += weight * a[k, p]
    return 0.0


@sums
def _gradcam_plus_plus(a, g, out):
    out[:] = 0.0
    positive, singular = 0, 0
    for k in range(a.shape[0]):
        mass, weight = 0.0, 0.0
        for p in range(out.size):
            mass += np.float64(a[k, p])
        for p in range(out.size):
            rectified = max(np.float64(g[k, p]), 0.0)
            denominator = 2.0 + rectified * mass
            usable = denominator > SINGULAR_BELOW
            positive += rectified > 0.0
            singular += not usable
            weight += rectified / denominator if usable else 0.0
        for p in range(out.size):
            out[p] += weight * a[k, p]
    return singular / max(positive, 1)


@sums
def _layercam(a, g, out):
    out[:] = 0.0
    for k in range(a.shape[0]):
        for p in range(out.size):
            out[p] += max(np.float64(g[k, p]), 0.0) * a[k, p]
    return 0.0


@sums
def _hirescam(a, g, out):
    out[:] = 0.0
    for k in range(a.shape[0]):
        for p in range(out.size):
            out[p] += np.float64(g[k, p]) * a[k, p]
    return 0.0


@sums
def _xgradcam(a, g, out):
    out[:] = 0.0
    for k in range(a.shape[0]):
        mass, weight = 0.0, 0.0
        for p in range(out.size):
            mass += np.float64(a[k, p])
            weight += np.float64(g[k, p]) * a[k, p]
        weight = weight / mass if abs(mass) >= XGRAD_EMPTY else 0.0
        for p in range(out.size):
            out[p] += weight * a[k, p]
    return 0.0


METHODS: Mapping[str, CamMethod] = by_name(
    [
        CamMethod(
            "gradcam",
            "w_k = mean(G_k); M = relu(sum_k w_k A_k)",
            "Selvaraju et al. 2017, doi:10.1109/ICCV.2017.74",
            _gradcam,
        ),
        CamMethod(
            "gradcam++",
            "w_k = sum(relu(G_k) / (2 + G_k sum(A_k))); M = relu(sum_k w_k A_k). "
            "Equation 19 with Y = exp(score): exact for piecewise-linear layers, approximate for Swish and GELU",
            "Chattopadhay et al. 2018, doi:10.1109/WACV.2018.00097",
            _gradcam_plus_plus,
            hides=True,
        ),
        CamMethod(
            "layercam",
            "M = relu(sum_k relu(G_k) A_k)",
            "Jiang et al. 2021, doi:10.1109/TIP.2021.3089943",
            _layercam,
            hides=True,
        ),
        CamMethod(
            "hirescam",
            "M = relu(sum_k G_k A_k)",
            "Draelos & Carin 2020, arXiv 2011.08891",
            _hirescam,
        ),
        CamMethod(
            "xgradcam",
            "w_k = sum(G_k A_k) / sum(A_k), 0 where |sum(A_k)| < 1e-12; M = relu(sum_k w_k A_k)",
            "Fu et al. 2020, arXiv 2008.02312",
            _xgradcam,
            hides=True,
        ),
    ]
)

"""Class activation maps from activations A and gradients G = dY/dA of one layer (docs/metrics.md).

`kernels.catalogue.METHODS` holds one record per method; all methods here read the same A and G, so together they cost
one pass of the model (`kernels.several_passes` has those that take more). A kernel of ours gets A and G of one image as
(C, P), P = h w, adds up in float64 and writes the raw map M (P,): relu applied, not rescaled. Sums run over the P
positions, k counts channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from kernels.catalogue import cam_method
from kernels.checks import clean_float32, positive_integer, real_array, same_shape
from kernels.jit import inlined, kernel, sums
from kernels.reasons import Reason
from kernels.record_types import MethodRecord
from kernels.threads import for_each

SINGULAR_BELOW = 1e-6  # Grad-CAM++ denominators at or below this have no weight
SINGULAR_SHARE = 0.01  # more than this share of the positive gradients without a weight: no map
ILL_CONDITIONED_BELOW = 1.0  # a denominator below this magnifies what is wrong with its gradient
XGRAD_EMPTY = 1e-12  # |sum(A_k)| below this: the channel has no weight in XGrad-CAM
EIGEN_STEPS = 10_000  # of the power iteration at most; rectified activations take some ten
EIGEN_TURN = 1e-12  # distance of two unit vectors: rounding in float64
_LARGEST = float(np.finfo(np.float32).max)


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
    chosen = [_of_one_pass(name) for name in methods]
    result = {method.name: (np.empty((count, *shape), np.float32), np.zeros(count, np.uint8)) for method in chosen}

    def worker() -> Callable[[int], None]:
        total = np.empty(shape)
        return lambda n: _explain(chosen, activations[n], gradients[n], total, n, result)

    for_each(range(count), positive_integer(threads, "threads"), worker)
    return result


def conditioning(method: str, activations: np.ndarray, gradients: np.ndarray, threads: int = 1) -> np.ndarray:
    """(N,) share 0..1 of the weight of `method` that comes from denominators d below 1, for A and G (N, C, h, w).

    With the terms t = relu(G) / d of Grad-CAM++ and d > 1e-6: sum over d < 1 of t / sum of t; 0 where no term is above
    0. Such a term grows faster than its gradient and diverges at d = 0, so a few of them can decide a map. NaN for a
    method without denominators, and where A or G is not finite. Our own definition.
    """
    activations = real_array(activations, "activations", "NChw")
    gradients = real_array(gradients, "gradients", "NChw")
    same_shape(activations, gradients, ("activations", "gradients"))
    found, record = np.full(len(activations), np.nan), cam_method(method)
    if record.conditioning is None:
        return found

    def worker() -> Callable[[int], None]:
        return lambda n: found.__setitem__(n, _conditioning_of(record, activations[n], gradients[n]))

    for_each(range(len(found)), positive_integer(threads, "threads"), worker)
    return found


def _conditioning_of(record: MethodRecord, a: np.ndarray, g: np.ndarray) -> float:
    a, g = clean_float32(a).reshape(len(a), -1), clean_float32(g).reshape(len(g), -1)  # (C, P) both
    return record.measure_conditioning(a, g) if _is_finite(a.reshape(-1)) and _is_finite(g.reshape(-1)) else np.nan


def _of_one_pass(name: str) -> MethodRecord:
    """The record of a method that needs no more than A and G; raises ValueError for any other."""
    record = cam_method(name)
    if record.takes_passes:
        raise ValueError(f"{name} is no function of activations and gradients alone: it takes {record.cost}")
    return record


def _explain(chosen: list[MethodRecord], a: np.ndarray, g: np.ndarray, total: np.ndarray, n: int, result: dict) -> None:
    whole = clean_float32(a), clean_float32(g), total  # (C, h, w), (C, h, w), (h, w)
    flat = whole[0].reshape(len(a), -1), whole[1].reshape(len(g), -1), total.reshape(-1)  # (C, P), (C, P), (P,)
    # Whatever is wrong with A shows in every sum, and so does G where no rectifier or empty channel hides it.
    finite = not any(method.hides for method in chosen) or _is_finite(flat[1].reshape(-1))
    for method in chosen:
        maps, reasons = result[method.name]
        singular = method.reduce(*(whole if method.is_users else flat)) if finite else 0.0
        reasons[n] = _write(flat[2], finite, singular, maps[n].reshape(-1))


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


@inlined
def _plus_plus(a, g, out, positions):
    """Grad-CAM++ with sum(A_k) / positions in its denominators; returns the share of terms without a weight."""
    out[:] = 0.0
    positive, singular = 0, 0
    for k in range(a.shape[0]):
        mass, weight = 0.0, 0.0
        for p in range(out.size):
            mass += np.float64(a[k, p])
        mass /= positions
        for p in range(out.size):
            rectified = max(np.float64(g[k, p]), 0.0)
            denominator = 2.0 + rectified * mass
            usable = denominator > SINGULAR_BELOW
            positive += rectified > 0.0
            singular += not usable
            weight += rectified / denominator if usable else 0.0
        for p in range(out.size):
            out[p] += weight / positions * a[k, p]
    return singular / max(positive, 1)


@sums
def _gradcam_plus_plus(a, g, out):
    return _plus_plus(a, g, out, 1.0)


@sums
def _gradcam_plus_plus_mean(a, g, out):
    return _plus_plus(a, g, out, float(out.size))


@inlined
def _ill_conditioned(a, g, positions):
    """Share of the terms of `_plus_plus` whose denominators are below 1, by what they weigh."""
    total, ill = 0.0, 0.0
    for k in range(a.shape[0]):
        mass = 0.0
        for p in range(a.shape[1]):
            mass += np.float64(a[k, p])
        mass /= positions
        for p in range(a.shape[1]):
            rectified = max(np.float64(g[k, p]), 0.0)
            denominator = 2.0 + rectified * mass
            term = rectified / denominator if denominator > SINGULAR_BELOW else 0.0
            total += term
            ill += term if denominator < ILL_CONDITIONED_BELOW else 0.0
    return ill / total if total > 0.0 else 0.0


@sums
def _conditioning_by_sum(a, g):
    return _ill_conditioned(a, g, 1.0)


@sums
def _conditioning_by_mean(a, g):
    return _ill_conditioned(a, g, float(a.shape[1]))


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


@sums
def _eigencam(a, _g, out):
    """The leading right singular vector by power iteration from A^T A 1, so that its sum is positive.

    It stops where a step turns the vector by less than EIGEN_TURN, or after EIGEN_STEPS: of singular values that differ
    by less than a thousandth neither is the leading one, and the map is a mixture of both vectors.
    """
    vector, sums_of_rows = np.ones(out.size), np.empty(a.shape[0])
    for _ in range(EIGEN_STEPS):
        _rows_times(a, vector, sums_of_rows)
        _columns_times(a, sums_of_rows, out)
        length = 0.0
        for p in range(out.size):
            length += out[p] * out[p]
        length = np.sqrt(length)
        if not 0.0 < length < np.inf:  # no activation at all, or one that is not finite: out says which
            return 0.0
        turn = 0.0
        for p in range(out.size):
            unit = out[p] / length
            turn += (unit - vector[p]) ** 2
            vector[p] = unit
        if turn <= EIGEN_TURN**2:
            break
    _rows_times(a, vector, sums_of_rows)
    singular_value = np.sqrt(np.sum(sums_of_rows**2))
    for p in range(out.size):
        out[p] = singular_value * vector[p]
    return 0.0


@inlined
def _rows_times(a, vector, result):
    """A v: (C, P) and (P,) to (C,)."""
    for k in range(a.shape[0]):
        total = 0.0
        for p in range(a.shape[1]):
            total += np.float64(a[k, p]) * vector[p]
        result[k] = total


@inlined
def _columns_times(a, weights, result):
    """A^T w: (C, P) and (C,) to (P,)."""
    result[:] = 0.0
    for k in range(a.shape[0]):
        for p in range(a.shape[1]):
            result[p] += weights[k] * a[k, p]

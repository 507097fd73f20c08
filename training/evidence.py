"""Class activation maps that can be differentiated once more, and how far two sets of them overlap.

Maps are those of `kernels/cam.py`, by the same equations: A and G = dY/dA of one layer, (N, h, w, C) both, give
M (N, h, w) >= 0. Here they are TensorFlow operations, so that a loss of M has a gradient by the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from training.framework import tf

EMPTY = 1e-12  # a map whose maximum (or sum) is not above this holds no evidence


def _gradcam(a: Any, g: Any) -> Any:
    """sum_k mean(G_k) A_k (Selvaraju 2017, doi:10.1109/ICCV.2017.74)."""
    return tf.reduce_sum(tf.reduce_mean(g, axis=(1, 2), keepdims=True) * a, axis=-1)


def _layercam(a: Any, g: Any) -> Any:
    """sum_k relu(G_k) A_k (Jiang 2021, doi:10.1109/TIP.2021.3089943)."""
    return tf.reduce_sum(tf.nn.relu(g) * a, axis=-1)


def _hirescam(a: Any, g: Any) -> Any:
    """sum_k G_k A_k (Draelos & Carin 2020, arXiv 2011.08891)."""
    return tf.reduce_sum(g * a, axis=-1)


_SUMS: dict[str, Callable[[Any, Any], Any]] = {"gradcam": _gradcam, "layercam": _layercam, "hirescam": _hirescam}


def evidence_maps(method: str, activations: Any, gradients: Any) -> Any:
    """M = relu(sum) of a method, (N, h, w)."""
    return tf.nn.relu(_SUMS[method](activations, gradients))


def soft_iou(maps: Any, references: Any) -> Any:
    """sum min(x, y) / sum max(x, y) with x = a / max a, y = b / max b, (N,) in 0..1; 0 where one map is empty."""
    x, y = _scaled(maps), _scaled(references)
    both, either = (tf.reduce_sum(part, axis=(1, 2)) for part in (tf.minimum(x, y), tf.maximum(x, y)))
    return tf.math.divide_no_nan(both, either)


def cosine(maps: Any, references: Any) -> Any:
    """sum a b / sqrt(sum a^2 sum b^2), (N,) in 0..1; 0 where one map is empty."""
    a, b = _scaled(maps), _scaled(references)  # so that squares of small maps do not vanish in float32
    dot, aa, bb = (tf.reduce_sum(product, axis=(1, 2)) for product in (a * b, a * a, b * b))
    filled = aa * bb > 0  # the slope of a square root at 0 is infinite
    return tf.where(filled, dot * tf.math.rsqrt(tf.where(filled, aa * bb, 1.0)), 0.0)


def inside(maps: Any, regions: Any) -> Any:
    """sum a r / sum a, (N,) in 0..1: the share of a map inside of a region r, 0..1 per position; 0 if it is empty."""
    mass = tf.reduce_sum(maps, axis=(1, 2))
    return tf.math.divide_no_nan(tf.reduce_sum(maps * tf.cast(regions, maps.dtype), axis=(1, 2)), mass)


SIMILARITIES: dict[str, Callable[[Any, Any], Any]] = {"soft-iou": soft_iou, "cosine": cosine, "inside": inside}


def _scaled(maps: Any) -> Any:
    """Each map divided by its maximum; an empty one is 0 everywhere, and so is its slope."""
    maximum = tf.reduce_max(maps, axis=(1, 2), keepdims=True)
    filled = maximum > EMPTY
    return tf.where(filled, maps, 0.0) / tf.where(filled, maximum, 1.0)

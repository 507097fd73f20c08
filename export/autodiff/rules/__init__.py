"""One vector-Jacobian rule per operator, grouped by kin. Importing this package registers them all.

In every formula `s` is the `Step`: `s.a`, `s.b`, `s.c` are the operator's inputs, `s.y` its first output and `s.g`
the cotangent that arrives at `s.y`.
"""

from export.autodiff.rules import (
    activations,
    attention,
    convolution,
    einsum,
    elementwise,
    indexing,
    layout,
    linear,
    normalization,
    pooling,
    quantization,
    reduction,
    resampling,
)

__all__ = [
    "activations",
    "attention",
    "convolution",
    "einsum",
    "elementwise",
    "indexing",
    "layout",
    "linear",
    "normalization",
    "pooling",
    "quantization",
    "reduction",
    "resampling",
]

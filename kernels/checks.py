"""What the public functions accept, checked once at the border; jitted bodies assume clean input.

Any memory order, any byte order, read-only or not, and any real number type are accepted. What is in the
array (NaN, negative values) is judged per map and reported by `kernels.reasons.Reason`, never raised.
"""

from __future__ import annotations

import numpy as np

_REAL_KINDS = "biuf"


def real_array(array: object, name: str, axes: str) -> np.ndarray:
    """`array` as numpy array with one axis per letter of `axes` and no empty one but the first (N may be 0).

    Raises TypeError where it does not hold real numbers and ValueError where its shape is another.
    """
    result = np.asarray(array)
    if result.dtype.kind not in _REAL_KINDS:
        raise TypeError(f"{name} must hold real numbers, not {result.dtype}; convert it to float32")
    wanted = f"({', '.join(axes)})"
    if result.ndim != len(axes):
        raise ValueError(f"{name} must have the shape {wanted}, not {result.shape}; a single one needs [None] in front")
    if 0 in result.shape[1:]:
        raise ValueError(f"{name} must have the shape {wanted} with no empty axis, not {result.shape}")
    return result


def same_shape(first: np.ndarray, second: np.ndarray, names: tuple[str, str]) -> None:
    """Raise ValueError where two arrays that belong together differ in shape."""
    if first.shape != second.shape:
        raise ValueError(f"{names[0]} has the shape {first.shape} and {names[1]} {second.shape}; they must be equal")


def positive_integer(value: object, name: str) -> int:
    """`value` as int; raises TypeError where it is none and ValueError below 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
    return int(value)


def map_size(size: object) -> tuple[int, int]:
    """`size` as (H, W), both at least 1; raises ValueError or TypeError otherwise."""
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise ValueError(f"size must be a pair (H, W), not {size!r}")
    return positive_integer(size[0], "the height in size"), positive_integer(size[1], "the width in size")


def is_clean(array: np.ndarray) -> bool:
    """True for C-ordered, aligned, writable float32: the one form for which kernels are compiled."""
    return array.flags.carray and array.dtype == np.float32


def clean_float32(array: np.ndarray) -> np.ndarray:
    """`array` itself where it is clean, else a copy that is.

    A value beyond float32 becomes infinite, and is then reported as `NON_FINITE`.
    """
    if is_clean(array):
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array(array, dtype=np.float32, order="C")

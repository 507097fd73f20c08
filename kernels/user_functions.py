"""Metrics and CAM methods of the user's own: what their functions get, and what is checked of what they return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kernels.cached_maps import MapFacts, PairFacts
from kernels.function_errors import UserFunctionError
from kernels.record_types import MethodRecord, MetricRecord

ROUNDING = 1e-6  # of the range's width: what float32 arithmetic may pass its ends by; it is cut off


def checked_metric(record: MetricRecord) -> Callable[[Any], float]:
    """The user's metric as a function of facts that meet the record's needs: a number in its range, or NaN.

    The function gets the maps themselves, read-only: they are shared with the other metrics.
    """
    what, function = f"metric {record.name!r}", _function_of(record, f"metric {record.name!r}")
    low, high = map(float, record.range)
    slack = ROUNDING * (high - low)

    def checked(maps: tuple[np.ndarray, ...]) -> float:
        value = _number(what, _called(what, function, maps))
        if not np.isfinite(value):
            return np.nan
        if not low - slack <= value <= high + slack:
            raise UserFunctionError(what, f"returned {value:g}, outside of its range {low:g} .. {high:g}")
        return min(max(value, low), high)

    def of_pair(pair: PairFacts) -> float:
        return checked((pair.before.fact(_read_only), pair.after.fact(_read_only)))

    def of_map(a_map: MapFacts) -> float:
        return checked((a_map.fact(_read_only),))

    return of_pair if record.kind == "pair" else of_map


def checked_method(record: MethodRecord) -> Callable[[np.ndarray, np.ndarray, np.ndarray], float]:
    """The user's method as reduce(A (C, h, w), G (C, h, w), M (h, w)), which writes M before relu."""
    what, function = f"CAM method {record.name!r}", _function_of(record, f"CAM method {record.name!r}")

    def reduce(activations: np.ndarray, gradients: np.ndarray, out: np.ndarray) -> float:
        found = np.asarray(_called(what, function, (_locked(activations), _locked(gradients))))
        if found.shape != out.shape or found.dtype.kind not in "biuf":
            raise UserFunctionError(
                what, f"returned {found.dtype} of shape {found.shape}; expected real numbers of shape {out.shape}"
            )
        out[:] = found
        return 0.0

    return reduce


def _function_of(record: MetricRecord | MethodRecord, what: str) -> Callable[..., Any]:
    if not callable(record.implementation):
        raise UserFunctionError(what, "only its description is known here; register it, or install what defines it")
    return record.implementation


def _called(what: str, function: Callable[..., Any], arguments: tuple[np.ndarray, ...]) -> Any:
    try:
        return function(*arguments)
    except Exception as error:
        raise UserFunctionError(what, f"raised {type(error).__name__}: {error}") from error


def _number(what: str, value: Any) -> float:
    """A real number, of Python or numpy; complex numbers, texts and arrays of several are none."""
    found = np.asarray(value)
    if found.size != 1 or found.dtype.kind not in "biuf":
        raise UserFunctionError(what, f"returned {_brief(value)}; expected one real number")
    return float(found.reshape(()))


def _brief(value: Any) -> str:
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else f"{value!r:.60}"


def _read_only(a_map: MapFacts) -> np.ndarray:
    return _locked(a_map.values)


def _locked(array: np.ndarray) -> np.ndarray:
    """A view through which nothing can be written."""
    view = array.view()
    view.flags.writeable = False
    return view

"""How metrics score batches of maps: what is undefined, and why, is decided here.

Each thread owns two slots of memory, one for each side of a pair, so memory is bounded by threads x map size.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kernels.cached_maps import MapFacts, Memory, PairFacts, Slot
from kernels.checks import map_size, positive_integer, real_array
from kernels.reasons import Reason
from kernels.record_types import MetricRecord
from kernels.threads import for_each


@dataclass(frozen=True)
class PairScores:
    """Values float64 (..., N, M) and reason codes uint8 of the same shape, of N pairs, one column per name.

    A value is NaN exactly where its reason is an undefined one; `kernels.reasons` tells the cases apart.
    """

    names: tuple[str, ...]
    values: np.ndarray
    reasons: np.ndarray

    def column(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Values and reasons (..., N) of one column; raises ValueError where there is none of that name."""
        if name not in self.names:
            raise ValueError(f"no column {name!r}; there are {', '.join(self.names)}")
        place = self.names.index(name)
        return self.values[..., place], self.reasons[..., place]


@dataclass(frozen=True)
class Side:
    """One side of the pairs: maps (N, h, w), and per map a reason code that makes it undefined from the start."""

    maps: np.ndarray
    reasons: np.ndarray

    @classmethod
    def of(cls, maps: object, reasons: object, name: str) -> Side:
        """The checked side; `reasons` may be None."""
        checked = real_array(maps, name, "NHW")
        codes = np.zeros(len(checked), np.uint8) if reasons is None else np.asarray(reasons, np.uint8)
        if codes.shape != (len(checked),):
            raise ValueError(f"{name}_reasons must have the shape ({len(checked)},), not {codes.shape}")
        return cls(checked, codes)

    def load(self, slot: Slot, n: int, shift: tuple[float, float] = (0.0, 0.0)) -> MapFacts:
        """The facts of map n, moved by `shift`, in the memory of `slot`."""
        return slot.load(self.maps[n], int(self.reasons[n]), shift)


class RecentMaps:
    """The maps of a side that were asked for last, as many as there are slots, with what is known of them."""

    def __init__(self, side: Side, slots: Sequence[Slot]) -> None:
        self._side = side
        self._free = deque(slots)
        self._known: OrderedDict[tuple[int, tuple[float, float]], tuple[Slot, MapFacts]] = OrderedDict()

    def load(self, n: int, shift: tuple[float, float] = (0.0, 0.0)) -> MapFacts:
        """The facts of map n, moved by `shift`; valid until as many other maps as there are slots were asked for."""
        key = n, shift
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key][1]
        slot = self._free.popleft() if self._free else self._known.popitem(last=False)[1][0]
        facts = self._side.load(slot, n, shift)
        self._known[key] = slot, facts
        return facts


def score(metric: MetricRecord, maps: tuple[object, ...], threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Values float64 (N,) and reason codes uint8 (N,) of one metric, for `(before, after)` or for `(maps,)`."""
    wanted = 2 if metric.kind == "pair" else 1
    if len(maps) != wanted:
        raise TypeError(f"{metric.name} takes {wanted} batch(es) of maps (N, H, W), not {len(maps)}")
    if metric.kind == "concentration":
        return score_maps(metric, maps[0], threads)
    return score_pairs([metric], maps[0], maps[1], threads=threads).column(metric.name)


def score_pairs(
    metrics: Sequence[MetricRecord],
    before: object,
    after: object,
    before_reasons: object = None,
    after_reasons: object = None,
    size: tuple[int, int] | None = None,
    threads: int = 1,
) -> PairScores:
    """Score before[n] against after[n] by `metrics`; the arguments are those of `metrics.pair_metrics`."""
    left, right = Side.of(before, before_reasons, "before"), Side.of(after, after_reasons, "after")
    size = common_size(left.maps, right.maps, size)
    if len(left.maps) != len(right.maps):
        raise ValueError(f"before holds {len(left.maps)} maps and after {len(right.maps)}; pairs need as many of each")
    scores = empty_scores(metrics, len(left.maps))
    writer = PairWriter(metrics, size)

    def worker() -> Callable[[int], None]:
        shared = Memory()
        one, other = Slot(size, shared), Slot(size, shared)
        return lambda n: writer.write(left.load(one, n), right.load(other, n), scores.values[n], scores.reasons[n])

    for_each(range(len(left.maps)), positive_integer(threads, "threads"), worker)
    return scores


def score_maps(metric: MetricRecord, maps: object, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Values float64 (N,) and reason codes uint8 (N,) of a concentration metric for maps (N, H, W)."""
    side = Side.of(maps, None, "maps")
    size = side.maps.shape[1:]
    values, reasons = np.empty(len(side.maps)), np.empty(len(side.maps), np.uint8)

    def worker() -> Callable[[int], None]:
        slot = Slot(size, Memory())

        def describe(n: int) -> None:
            values[n], reasons[n] = _describe(metric, side.load(slot, n), metric.fits(size))

        return describe

    for_each(range(len(side.maps)), positive_integer(threads, "threads"), worker)
    return values, reasons


def empty_scores(metrics: Sequence[MetricRecord], *shape: int) -> PairScores:
    """Scores of `shape` pairs, to be filled in."""
    names = tuple(column for metric in metrics for column in metric.columns)
    return PairScores(names, np.empty((*shape, len(names))), np.empty((*shape, len(names)), np.uint8))


class PairWriter:
    """Writes the row of one pair; knows once per batch which metrics the map size allows."""

    def __init__(self, metrics: Sequence[MetricRecord], size: tuple[int, ...]) -> None:
        self._plan = [(metric, metric.fits(size)) for metric in metrics]

    def write(self, before: MapFacts, after: MapFacts, values: np.ndarray, reasons: np.ndarray) -> None:
        """Fill `values` and `reasons`, both (M,), in the order of the columns."""
        pair = PairFacts(before, after)
        undefined = _pair_reasons(before, after)
        row: list[tuple[float, int]] = []
        for metric, fits in self._plan:
            if metric.kind == "pair":
                row.append(_compare(metric, pair, undefined[metric.needs] if fits else _too_small(before, after)))
            else:
                row += _change(_describe(metric, before, fits), _describe(metric, after, fits))
        values[:], reasons[:] = zip(*row, strict=True)


def _compare(metric: MetricRecord, pair: PairFacts, reason: int) -> tuple[float, int]:
    if reason == Reason.DEFINED:
        value = metric.compute(pair)
        return value, (reason if value == value else Reason.NON_FINITE)  # NaN, which a user's function may return
    return (0.0 if reason == Reason.VANISHED else np.nan), reason


def _describe(metric: MetricRecord, a_map: MapFacts, fits: bool) -> tuple[float, int]:
    reason = a_map.reason or (Reason.EMPTY_MAP if a_map.is_empty else Reason.DEFINED)
    if not fits:
        reason = a_map.reason or Reason.TOO_SMALL
    if reason:
        return np.nan, reason
    value = a_map.fact(metric.compute)
    return value, (reason if value == value else Reason.NON_FINITE)


def _change(before: tuple[float, int], after: tuple[float, int]) -> list[tuple[float, int]]:
    return [before, after, (after[0] - before[0], before[1] or after[1])]


def _too_small(before: MapFacts, after: MapFacts) -> int:
    return before.reason or after.reason or Reason.TOO_SMALL


def _pair_reasons(before: MapFacts, after: MapFacts) -> dict[str, int]:
    """Per kind of need, the reason for the pair: a broken map first, then an empty, then a constant one."""
    broken = before.reason or after.reason
    if broken:
        return dict.fromkeys(("overlap", "mass", "variation"), broken)
    empty = before.is_empty + after.is_empty
    constant = before.is_constant or after.is_constant
    return {
        "overlap": (Reason.DEFINED, Reason.VANISHED, Reason.EMPTY_UNION)[empty],
        "mass": Reason.EMPTY_MAP if empty else Reason.DEFINED,
        "variation": Reason.EMPTY_MAP if empty else Reason.CONSTANT_MAP if constant else Reason.DEFINED,
    }


def common_size(before: np.ndarray, after: np.ndarray, size: tuple[int, int] | None) -> tuple[int, int]:
    """(H, W) in which two batches are compared; raises ValueError where they differ and `size` is None."""
    if size is not None:
        return map_size(size)
    if before.shape[1:] != after.shape[1:]:
        raise ValueError(
            f"before has maps of {before.shape[1:]} and after of {after.shape[1:]}; "
            "give size=(H, W) to compare them at a common one"
        )
    return before.shape[1], before.shape[2]

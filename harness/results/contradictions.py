"""What an `evaluation.json` says that cannot be true, so that no table, report or gate rests on it.

The schema checks each field by itself. Here are the claims that take more than one field: a pair of checkpoints that
are not listed, two entries for one number, an interval whose low end is above its high one, a value outside the range
of its metric, more of something than there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from harness.results.schema import Evaluation, MetricSummary, PairResult

ROUNDING = 1e-6  # by which a float32 mean may leave its range
SHARE, CHANGE = (0.0, 1.0), (-1.0, 1.0)
Range = tuple[float, float]
Item = TypeVar("Item", bound=Hashable)


class _Interval(Protocol):
    """What has two ends."""

    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


def first_contradiction(result: Evaluation) -> str | None:
    """The first claim of a result that cannot be true, in words; None where there is none."""
    pairs = chain.from_iterable(_of_pair(result, pair) for pair in result.pairs)
    causes = _of_causes(result)
    return next(chain(_of_lists(result), _of_checkpoints(result), pairs, causes, _of_study(result)), None)


def _range_of(result: Evaluation, metric: str) -> Range | None:
    """Between which values a column of a result lies; None for a metric that is not known here."""
    return result.vocabulary.range_of(metric) if metric in result.vocabulary.columns else None


def _of_lists(result: Evaluation) -> Iterator[str]:
    for name in ("pairs", "layers", "methods"):
        if not getattr(result, name):
            yield f"it lists no {name}"
    known = {record.name for record in result.vocabulary.methods}
    yield from (f"the CAM method {name!r} is not known here" for name in result.methods if name not in known)
    if not isinstance(result.environment.get("versions", {}), dict):
        yield "its environment's versions are no table"


def _of_checkpoints(result: Evaluation) -> Iterator[str]:
    if len(result.unreadable) > result.images:
        yield f"{len(result.unreadable)} of {result.images} images are unreadable"
    keys = [item.key for item in result.checkpoints]
    yield from (f"checkpoint {key!r} is listed twice" for key in _repeated(keys))
    names = [(pair.architecture, pair.name) for pair in result.pairs]
    yield from (f"pair {name!r} of {architecture!r} is listed twice" for architecture, name in _repeated(names))
    for pair in result.pairs:
        missing = [key for key in (pair.before, pair.after) if key not in keys]
        if missing:
            yield f"pair {pair.name!r} names a checkpoint {missing[0]!r} that is not listed"
    for item in result.checkpoints:
        for name, estimate in item.quality.items():
            yield from _of_interval(f"{name} of {item.key!r}", estimate, SHARE, estimate.mean)


def _of_causes(result: Evaluation) -> Iterator[str]:
    """What the causal check and the null ladder name, and their shares."""
    pairs = {pair.name for pair in result.pairs}
    named = [("causal check", item.pair, item.layer, item.method) for item in result.causal]
    named += [("null", item.pair, item.layer, item.method) for item in result.nulls]
    for what, name, layer, method in named:
        if name not in pairs or layer not in result.layers or method not in result.methods:
            yield f"a {what} is of {name!r}, {layer}, {method}, which is not listed"
    for check in result.causal:
        for scope in check.scopes:
            name = f"share that moved of {check.pair!r}, {check.method}, {scope.scope!r}"
            yield from _of_interval(name, scope.moved, SHARE, scope.moved.mean)
    for null in result.nulls:
        name = f"overlap of {null.pair!r} with {null.name!r} under {null.method}"
        yield from _of_interval(name, null.similarity, SHARE, null.similarity.mean)


def _of_pair(result: Evaluation, pair: PairResult) -> Iterator[str]:
    places = [(item.layer, item.method, item.scope, item.metric) for item in pair.metrics]
    for layer, method, scope, metric in _repeated(places):
        yield f"pair {pair.name!r} has two entries for {metric} of {method} at {layer}, scope {scope!r}"
    yield from _of_interval(f"agreement of {pair.name!r}", pair.agreement, SHARE, pair.agreement.mean)
    for name, estimate in pair.change.items():
        yield from _of_interval(f"change of {name} of {pair.name!r}", estimate, CHANGE, estimate.mean)
    yield from _of_flips(pair)
    yield from _of_regions(pair)
    for item in pair.metrics:
        where = f"{item.metric} of {item.method} at {item.layer}, pair {pair.name!r}, scope {item.scope!r}"
        yield from _of_summary(where, item, _range_of(result, item.metric))
        yield from _of_counts(where, item, pair.selected, result.patients)


def _of_flips(pair: PairResult) -> Iterator[str]:
    """Numbers of answers that do not add up."""
    flips = pair.flips
    if flips is None:
        return
    where = f"flips of {pair.name!r}"
    if not 0 <= flips.flipped <= flips.n or (flips.negative or 0) + (flips.positive or 0) > flips.flipped:
        yield f"{where}: {flips.flipped} of {flips.n} flipped, {flips.negative} negative and {flips.positive} positive"
    if flips.negative_flip_rate is not None:
        yield from _of_interval(where, flips.negative_flip_rate, SHARE, flips.negative_flip_rate.mean)
    for item in flips.tables:
        counts = (item.same_still, item.same_moved, item.flipped_still, item.flipped_moved, item.unknown)
        place = f"{where}, {item.method} at {item.layer}"
        if min(counts) < 0 or sum(counts) > flips.n or item.flipped_still + item.flipped_moved > flips.flipped:
            yield f"{place}: its counts are not of {flips.n} records, {flips.flipped} of them flipped"
        yield from _of_interval(place, item.moved_unseen_rate, SHARE, item.moved_unseen_rate.mean)


def _of_regions(pair: PairResult) -> Iterator[str]:
    """Shares of evidence that are none, or more records than there are."""
    for item in pair.regions:
        where = f"region {item.region!r} of {pair.name!r}, {item.method} at {item.layer}"
        if min(item.n, item.without, item.undefined) < 0 or item.n + item.without + item.undefined > pair.selected:
            yield f"{where}: more or fewer records than the {pair.selected} that are compared"
        for estimate in (item.area, item.before, item.after, item.gained, item.lost, item.others):
            if estimate is not None:
                yield from _of_interval(where, estimate, SHARE, estimate.mean)
        for estimate in (item.change, item.above_area, item.above_others):
            if estimate is not None:
                yield from _of_interval(where, estimate, CHANGE, estimate.mean)


def _of_counts(where: str, item: MetricSummary, selected: int, patients: int) -> Iterator[str]:
    """Fewer than none of something, or more than there is."""
    undefined = sum(item.undefined.values())
    if min(item.n, item.n_patients, item.vanished, *item.undefined.values()) < 0:
        yield f"{where}: a number of images or patients is negative"
    if item.n + undefined > selected:
        yield f"{where}: {item.n} images have a value and {undefined} have none, but {selected} are compared"
    if item.vanished > item.n:
        yield f"{where}: {item.vanished} of {item.n} images vanished"
    if item.n_patients > min(item.n, patients):
        yield f"{where}: {item.n_patients} patients in {item.n} images of {patients} patients"


def _of_summary(where: str, item: MetricSummary, limits: Range | None) -> Iterator[str]:
    quantiles = (item.q05, item.q25, item.median, item.q75, item.q95)
    yield from _of_interval(where, item.estimate, limits, item.estimate.mean, *quantiles)
    for name, reference in (("chance", item.chance), ("floor", item.floor)):
        if reference is not None:
            yield from _of_interval(f"{name} of {where}", reference, limits, reference.mean)
    if item.vanished_rate is not None:
        yield from _of_interval(f"vanished rate of {where}", item.vanished_rate, SHARE, item.vanished_rate.mean)
    if item.index is not None:
        yield from _of_interval(f"index of {where}", item.index, None)
        references = (item.index.observed, item.index.chance, item.index.floor)
        yield from _outside(f"index of {where}", limits, references)
    for name, (low, high) in item.intervals.items():
        if not low <= high:
            yield f"{name} of {where}: the interval's low end {low:g} is above its high end {high:g}"


def _of_study(result: Evaluation) -> Iterator[str]:
    for comparison in result.study.comparisons if result.study else ():
        for found in comparison.differences:
            where = f"difference of {found.first} and {found.second} in {comparison.metric}"
            yield from _of_interval(where, found, None)


def _of_interval(where: str, found: _Interval, limits: Range | None, *values: float | None) -> Iterator[str]:
    """An interval the wrong way round, and ends or further values outside the limits."""
    if found.low is not None and found.high is not None and found.low > found.high:
        yield f"{where}: the interval's low end {found.low:g} is above its high end {found.high:g}"
    yield from _outside(where, limits, (*values, found.low, found.high))


def _outside(where: str, limits: Range | None, values: Iterable[float | None]) -> Iterator[str]:
    if limits is None:
        return
    low, high = limits
    for value in values:
        if value is not None and not low - ROUNDING <= value <= high + ROUNDING:
            yield f"{where}: {value:g} lies outside {low:g} .. {high:g}"


def _repeated(items: Iterable[Item]) -> list[Item]:
    return [item for item, count in Counter(items).items() if count > 1]

"""The statistic that a rule names, looked up in a result, with its interval and what it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.gate.policy import FLIP_RATES, NEGATIVE_FLIPS, Rule
from harness.results.schema import Estimate, Evaluation, FlipTable, MetricSummary, PairResult
from kernels.registry import nearest

_QUANTILES: dict[str, Literal["q05", "median", "q95"]] = {"p05": "q05", "median": "median", "p95": "q95"}


@dataclass(frozen=True)
class Statistic:
    """A statistic with its 95 % interval; `reason` says why there is none, `undefined` is a share of the images."""

    value: float | None
    low: float | None
    high: float | None
    reason: str | None = None
    images: int | None = None
    patients: int | None = None
    undefined: float = 0.0


class UnavailableError(Exception):
    """The result does not hold what the rule asks for."""


def find(rule: Rule, result: Evaluation, pair: PairResult, scope: str) -> Statistic:
    """The rule's statistic at a pair and scope.

    :raises UnavailableError: the result has no such maps, metric, prediction or index.
    """
    if rule.region is not None:
        return _inside(rule, pair)
    if rule.metric in FLIP_RATES:
        return _flips(rule, pair)
    if rule.is_quality:
        return _quality(rule, result, pair)
    items = [item for item in pair.metrics if (item.method, item.layer) == (rule.method, rule.layer)]
    if not items:
        known = sorted({f"{item.method} at {item.layer}" for item in pair.metrics})
        wanted = f"{rule.method} at {rule.layer}"
        raise UnavailableError(f"the result has no maps of {wanted}; {near(wanted, known)}")
    items = [item for item in items if item.metric == rule.metric]
    if not items:
        raise UnavailableError(f"the result has no {rule.metric}; evaluate anew")
    found = [item for item in items if item.scope == scope]
    if not found:
        return Statistic(None, None, None, "no image of the class")
    return _of_summary(rule, found[0])


def near(name: str, names: Sequence[str]) -> str:
    """What the result has in place of `name`."""
    return f"it has {' and '.join(nearest(name, names))}"


def _quality(rule: Rule, result: Evaluation, pair: PairResult) -> Statistic:
    found = pair.change if rule.statistic == "change" else result.by_key[pair.after].quality
    if rule.metric not in found:
        raise UnavailableError(f"the result has no {rule.metric}: its images have no classes")
    return _of_estimate(found[rule.metric], result.images - len(result.unreadable), result.patients)


def _inside(rule: Rule, pair: PairResult) -> Statistic:
    names = sorted({item.region for item in pair.regions})
    if not names:
        raise UnavailableError("the result has no regions; evaluate with --masks or --boxes")
    if rule.region not in names:
        raise UnavailableError(f"the result has no region {rule.region!r}; {near(str(rule.region), names)}")
    wanted = (rule.region, rule.method, rule.layer)
    found = [item for item in pair.regions if (item.region, item.method, item.layer) == wanted]
    if not found:
        known = sorted({f"{item.method} at {item.layer}" for item in pair.regions})
        place = f"{rule.method} at {rule.layer}"
        raise UnavailableError(f"the result has no maps of {place}; {near(place, known)}")
    (item,) = found
    whole = item.n + item.undefined
    return _of_estimate(item.after, item.n, item.n_patients, item.undefined / whole if whole else 1.0)


def _flips(rule: Rule, pair: PairResult) -> Statistic:
    if pair.flips is None:
        raise UnavailableError("the result counts no flips: an earlier version wrote it; evaluate anew")
    if rule.metric == NEGATIVE_FLIPS:
        if pair.flips.negative_flip_rate is None:
            raise UnavailableError("the result has no negative flips: its images have no classes")
        return _of_estimate(pair.flips.negative_flip_rate, pair.flips.n, pair.flips.n_patients)
    found = [item for item in pair.flips.tables if (item.method, item.layer) == (rule.method, rule.layer)]
    if not found:
        known = sorted(f"{item.method} at {item.layer}" for item in pair.flips.tables)
        wanted = f"{rule.method} at {rule.layer}"
        raise UnavailableError(f"the result has no maps of {wanted}; {near(wanted, known)}")
    return _moved_unseen(found[0])


def _moved_unseen(item: FlipTable) -> Statistic:
    """Images of which it is not known whether they moved are the undefined ones."""
    if item.threshold is None:
        raise UnavailableError("the result cannot say which images moved: it was made without jitter")
    same = item.same_still + item.same_moved
    whole = same + item.flipped_still + item.flipped_moved + item.unknown
    return _of_estimate(item.moved_unseen_rate, same, item.n_patients, item.unknown / whole if whole else 1.0)


def _of_summary(rule: Rule, item: MetricSummary) -> Statistic:
    undefined = sum(item.undefined.values())
    share = undefined / (item.n + undefined) if item.n + undefined else 1.0
    if rule.statistic == "index":
        return _index(item, undefined)
    if rule.statistic in ("mean", "vanished-rate"):
        estimate = item.estimate if rule.statistic == "mean" else item.vanished_rate
        if estimate is None:
            raise UnavailableError(f"the result counts no vanished evidence for {rule.metric}; evaluate anew")
        return _of_estimate(estimate, item.n, item.n_patients, share)
    name = _QUANTILES[rule.statistic]
    low, high = item.intervals.get(name, (None, None))
    reason = item.estimate.reason or "no interval"
    return Statistic(getattr(item, name), low, high, reason, item.n, item.n_patients, share)


def _index(item: MetricSummary, undefined: int) -> Statistic:
    if item.index is None:
        raise UnavailableError("the result has no stability index: it was made without chance or floor")
    index = item.index
    compared = item.n + undefined if index.sampled is None else index.sampled
    lost = (compared - index.n) / compared if compared else 1.0  # images without a score, chance or floor
    return Statistic(index.value, index.low, index.high, index.reason, index.n, index.n_patients, lost)


def _of_estimate(estimate: Estimate, images: int, patients: int, undefined: float = 0.0) -> Statistic:
    return Statistic(estimate.mean, estimate.low, estimate.high, estimate.reason, images, patients, undefined)

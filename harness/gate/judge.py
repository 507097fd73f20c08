"""Is this result provably good enough? A policy and an evaluation in, a verdict out.

Five outcomes of a case (a rule at one pair and scope):

- `pass`: the bound holds, as surely as the rule demands;
- `fail`: it does not;
- `warn`: it does not, and the rule only warns;
- `error`: the result does not hold what the rule asks for, or cannot be compared with the baseline;
- `skipped`: the result holds it, but on too few images or patients, too often undefined, or without an interval.

An undefined value is never a pass: every comparison here asks for `provably good`, which NaN is not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from harness.gate.policy import ALL, EACH, WORST, Policy, Requirements, Rule
from harness.results.schema import Estimate, Evaluation, MetricSummary, PairResult
from kernels.registry import nearest

Outcome = Literal["pass", "fail", "warn", "error", "skipped"]
OUTCOMES: tuple[Outcome, ...] = ("fail", "error", "skipped", "warn", "pass")
_OF_CHECKPOINTS = {  # what all checkpoints have in common, in words -> the field of their metadata
    "image rule": "image_rule",
    "score kind": "score_kind",
    "explained score": "explained",
    "thresholds": "thresholds",
}
_QUANTILES: dict[str, Literal["q05", "median", "q95"]] = {"p05": "q05", "median": "median", "p95": "q95"}


@dataclass(frozen=True)
class Case:
    """What one rule found at one place. `would_pass` is the bound that this result would just have passed."""

    rule: int  # counted from 1
    title: str
    pair: str
    scope: str
    outcome: Outcome
    message: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    bound: str = ""
    would_pass: str = ""


@dataclass(frozen=True)
class Verdict:
    """All cases, and what else has to be said. `exit_code`: 1 fails, 3 where a case is an error or was skipped."""

    cases: Sequence[Case]
    warnings: Sequence[str]
    fail_on_warning: bool = False

    @property
    def outcome(self) -> Outcome:
        """The worst outcome; a failure goes first."""
        found = {case.outcome for case in self.cases}
        return next((outcome for outcome in OUTCOMES if outcome in found), "error")

    @property
    def exit_code(self) -> int:
        """0, 1 or 3, as the command line returns it."""
        if self.outcome == "fail" or (self.fail_on_warning and any(case.outcome == "warn" for case in self.cases)):
            return 1
        return 3 if self.outcome in ("error", "skipped") else 0

    @property
    def counts(self) -> dict[Outcome, int]:
        """How many cases had each outcome."""
        found = Counter(case.outcome for case in self.cases)
        return {outcome: found[outcome] for outcome in OUTCOMES if found[outcome]}


@dataclass(frozen=True)
class _Found:
    """A statistic with its interval, and on how much it rests; `missing` says why there is none."""

    value: float | None
    low: float | None
    high: float | None
    reason: str | None = None
    images: int | None = None
    patients: int | None = None
    undefined: float = 0.0


class _UnavailableError(Exception):
    """The result does not hold what the rule asks for."""


def judge(
    result: Evaluation,
    policy: Policy,
    baseline: Evaluation | None = None,
    digest: str | None = None,
    fail_on_warning: bool = False,
) -> Verdict:
    """Judge every rule at every pair and scope.

    :param digest: sha256 of the file that holds `result`, to notice a policy that was derived from it.
    """
    warnings = []
    if digest is not None and digest == policy.derived_from:
        warnings.append("the policy was derived from this very result: a pass says nothing, judge another one")
    judging = _Judge(result, policy.requirements, baseline)
    cases = [case for number, rule in enumerate(policy.rule, 1) for case in judging.cases(number, rule)]
    return Verdict([*judging.of_images(), *cases], warnings, fail_on_warning)


def title(rule: Rule) -> str:
    """The rule as a few words."""
    place = f" ({rule.method}, {rule.layer})" if not rule.is_quality else ""
    return f"{rule.metric} {rule.statistic}{place}"


def difference_from(result: Evaluation, baseline: Evaluation) -> str | None:
    """Why two results cannot be compared, or None: classes, image rule, score, layers, map size, selection."""
    ours, theirs = _kind_of(result), _kind_of(baseline)
    for name, value in ours.items():
        if name in theirs and value != theirs[name]:
            return f"{name} differs from the baseline's: {value} and {theirs[name]}"
    return None if theirs.keys() & ours.keys() >= set(_OF_CHECKPOINTS) else "the baseline says nothing of its models"


def _kind_of(result: Evaluation) -> dict[str, Any]:
    """What has to be the same for two results to be comparable, and which tensor each layer of an architecture is."""
    kind: dict[str, Any] = {
        "format": result.format,
        "classes": result.classes,
        "map size": result.map_size,
        "selection": result.selection,
    }
    for item in result.checkpoints:
        for name, field in _OF_CHECKPOINTS.items():
            value = getattr(item.metadata, field)
            known = kind.setdefault(name, [])
            known += [value] if value not in known else []
        kind |= {f"CAM layer {layer.label} of {item.architecture}": layer.name for layer in item.metadata.layers}
    for record in result.registered_metrics:
        kind[f"metric {record.name}"] = record.model_dump(exclude={"definition", "source"})
    return kind


class _Judge:
    """Judges rules against one result."""

    def __init__(self, result: Evaluation, requirements: Requirements, baseline: Evaluation | None) -> None:
        self.result = result
        self.requirements = requirements
        self.baseline = baseline

    def of_images(self) -> Iterator[Case]:
        """A skipped case where more images than the policy allows could not be read."""
        share, allowed = len(self.result.unreadable) / max(self.result.images, 1), self.requirements.max_undefined
        if not share <= allowed:
            message = f"{share:.1%} of the images could not be read; the policy allows {allowed:.1%}"
            yield Case(0, "images", "", ALL, "skipped", message)

    def cases(self, number: int, rule: Rule) -> Iterator[Case]:
        """Every case of a rule."""
        pairs = [pair for pair in self.result.pairs if rule.pair in (None, pair.name, pair.architecture)]
        if not pairs:
            known = [pair.name for pair in self.result.pairs]
            message = f"the result has no pair {rule.pair!r}; {_near(str(rule.pair), known)}"
            yield Case(number, title(rule), str(rule.pair), rule.scope, "error", message)
        for pair in pairs:
            try:
                yield from self._of_pair(number, rule, pair)
            except _UnavailableError as error:
                yield Case(number, title(rule), pair.name, rule.scope, "error", str(error))

    def _of_pair(self, number: int, rule: Rule, pair: PairResult) -> list[Case]:
        classes = self.result.classes
        if rule.is_quality or rule.scope == ALL:
            return [self._case(number, rule, pair, ALL)[0]]
        if rule.scope in (EACH, WORST) and not classes:
            raise _UnavailableError("the result has no classes")
        if rule.scope in (EACH, WORST):
            judged = [self._of_class(number, rule, pair, name) for name in classes]
            if rule.scope == EACH:
                return [case for case, _ in judged]
            worst, _ = min(judged, key=lambda found: (OUTCOMES.index(found[0].outcome), found[1]))
            return [replace(worst, scope=f"{worst.scope} (worst class)")]
        if rule.scope not in classes:
            raise _UnavailableError(f"the result has no class {rule.scope!r}; {_near(rule.scope, classes)}")
        return [self._case(number, rule, pair, rule.scope)[0]]

    def _of_class(self, number: int, rule: Rule, pair: PairResult, name: str) -> tuple[Case, float]:
        """As `_case`; what one class lacks does not hide another one."""
        try:
            return self._case(number, rule, pair, name)
        except _UnavailableError as error:
            return Case(number, title(rule), pair.name, name, "error", str(error)), -math.inf

    def _case(self, number: int, rule: Rule, pair: PairResult, scope: str) -> tuple[Case, float]:
        """The case, and by how much it keeps its bounds (negative: breaks them)."""
        found = _find(rule, self.result, pair, scope)
        bounds = self._tightened(rule, pair, scope) if rule.needs_baseline else (rule.min, rule.max)
        outcome, message = _outcome(rule, found, bounds, self.requirements)
        value, low, high = (math.nan if end is None else end for end in (found.value, found.low, found.high))
        would_pass, bound = _would_pass(rule, found, bounds), _bound(bounds)
        case = Case(number, title(rule), pair.name, scope, outcome, message, value, low, high, bound, would_pass)
        return case, _margin(rule, found, bounds)

    def _tightened(self, rule: Rule, pair: PairResult, scope: str) -> tuple[float | None, float | None]:
        """The bounds of the rule, and those that the baseline sets."""
        if self.baseline is None:
            raise _UnavailableError("the rule is against a baseline; give one with --baseline")
        other = self._baseline_pair(pair)
        reason = difference_from(self.result, self.baseline)
        reason = reason or _other_reference(rule, self.result, pair, self.baseline, other)
        if reason:
            raise _UnavailableError(reason)
        value = self._baseline_value(rule, other, scope)
        relative = rule.max_relative_worsening
        margins = (rule.max_worsening, None if relative is None else relative * abs(value))
        margin = min(margin for margin in margins if margin is not None)
        (low, high), (least, most) = (rule.min, rule.max), rule.range
        allowed = value - rule.direction * margin
        if allowed <= least if rule.direction > 0 else allowed >= most:
            raise _UnavailableError(f"nothing is worse than {allowed:.4g}, so the rule would stop nothing; tighten it")
        if rule.direction > 0:
            return max(allowed, -math.inf if low is None else low), high
        return low, min(allowed, math.inf if high is None else high)

    def _baseline_value(self, rule: Rule, pair: PairResult, scope: str) -> float:
        """The value to compare with, which has to rest on as much as one that is judged."""
        assert self.baseline is not None
        found = _find(rule, self.baseline, pair, scope)
        reason = _too_little(rule, found, self.requirements)
        if reason or found.value is None or not math.isfinite(found.value):
            raise _UnavailableError(f"the baseline has no value to compare with: {reason or found.reason}")
        return found.value

    def _baseline_pair(self, pair: PairResult) -> PairResult:
        """The pair of the baseline that corresponds: of that name, else the one of its architecture and place."""
        assert self.baseline is not None
        place, pairs = (pair.architecture, pair.kind, pair.replicate), self.baseline.pairs
        named = [item for item in pairs if (item.architecture, item.name) == (pair.architecture, pair.name)]
        found = named or [item for item in pairs if (item.architecture, item.kind, item.replicate) == place]
        if len(found) != 1:
            known = ", ".join(f"{item.name!r} of {item.architecture}" for item in pairs)
            raise _UnavailableError(
                f"the baseline has no one pair for {pair.name!r} of {pair.architecture}; it has {known}"
            )
        return found[0]


def _other_reference(
    rule: Rule, result: Evaluation, pair: PairResult, baseline: Evaluation, other: PairResult
) -> str | None:
    """Why two indices cannot be compared: another kind of floor, or other draws."""
    ours = (pair.floor, result.jitter_draws, result.chance_draws)
    theirs = (other.floor, baseline.jitter_draws, baseline.chance_draws)
    if rule.statistic == "index" and ours != theirs:
        return f"floor and draws differ from the baseline's: {ours} and {theirs}"
    return None


def _margin(rule: Rule, found: _Found, bounds: tuple[float | None, float | None]) -> float:
    """How far inside its bounds a statistic lies; -inf where it is undefined."""
    ends = (_decisive(rule, found, upper=False), _decisive(rule, found, upper=True))
    if None in ends:
        return -math.inf
    least, most = (math.nan if end is None else end for end in ends)
    low, high = bounds
    return min(least - low if low is not None else math.inf, high - most if high is not None else math.inf)


def _outcome(
    rule: Rule, found: _Found, bounds: tuple[float | None, float | None], requirements: Requirements
) -> tuple[Outcome, str]:
    missing = _why_skipped(rule, found, requirements)
    if missing:
        return "skipped", missing
    least, most = (_decisive(rule, found, upper=upper) for upper in (False, True))
    assert least is not None
    assert most is not None
    low, high = bounds
    # Written so that a NaN anywhere makes it False.
    if (low is None or least >= low) and (high is None or most <= high):
        return "pass", ""
    return ("fail" if rule.severity == "fail" else "warn"), _explanation(rule, least, most, bounds)


def _why_skipped(rule: Rule, found: _Found, requirements: Requirements) -> str:
    """Why the rule cannot be judged, or nothing."""
    too_little = _too_little(rule, found, requirements)
    if too_little:
        return too_little
    for what, part in (("value", found.value), *(("interval", _decisive(rule, found, upper=u)) for u in (False, True))):
        if part is None or not math.isfinite(part):
            return f"no {what} ({found.reason or 'undefined'})"
    return ""


def _too_little(rule: Rule, found: _Found, requirements: Requirements) -> str:
    """What the value rests on, where that is less than the policy requires."""
    if found.images is not None and found.images < requirements.min_images:
        return f"{found.images} images; the policy requires {requirements.min_images}"
    if found.patients is not None and found.patients < requirements.min_patients:
        return f"{found.patients} patients; the policy requires {requirements.min_patients}"
    allowed = requirements.max_undefined if rule.max_undefined is None else rule.max_undefined
    if not found.undefined <= allowed:
        return f"undefined for {found.undefined:.1%} of the images; the policy allows {allowed:.1%}"
    return ""


def _decisive(rule: Rule, found: _Found, upper: bool) -> float | None:
    """What is held against the upper (or lower) bound: the interval's bad end, its good end, or the value."""
    if rule.mode == "point":
        return found.value
    return found.high if upper == (rule.mode == "surely-good") else found.low


def _explanation(rule: Rule, least: float, most: float, bounds: tuple[float | None, float | None]) -> str:
    low, _ = bounds
    end = least if low is not None and not least >= low else most
    what = {"surely-good": "the interval's bad end", "point": "the value", "surely-bad": "even the interval's good end"}
    return f"{what[rule.mode]} is {end:.4g}"


def _find(rule: Rule, result: Evaluation, pair: PairResult, scope: str) -> _Found:
    if rule.is_quality:
        return _quality(rule, result, pair)
    items = [item for item in pair.metrics if (item.method, item.layer) == (rule.method, rule.layer)]
    if not items:
        known = sorted({f"{item.method} at {item.layer}" for item in pair.metrics})
        wanted = f"{rule.method} at {rule.layer}"
        raise _UnavailableError(f"the result has no maps of {wanted}; {_near(wanted, known)}")
    items = [item for item in items if item.metric == rule.metric]
    if not items:
        raise _UnavailableError(f"the result has no {rule.metric}; evaluate anew")
    found = [item for item in items if item.scope == scope]
    if not found:
        return _Found(None, None, None, "no image of the class")
    return _statistic(rule, found[0])


def _quality(rule: Rule, result: Evaluation, pair: PairResult) -> _Found:
    found = pair.change if rule.statistic == "change" else result.by_key[pair.after].quality
    if rule.metric not in found:
        raise _UnavailableError(f"the result has no {rule.metric}: its images have no classes")
    return _of_estimate(found[rule.metric], result.images - len(result.unreadable), result.patients)


def _statistic(rule: Rule, item: MetricSummary) -> _Found:
    undefined = sum(item.undefined.values())
    share = undefined / (item.n + undefined) if item.n + undefined else 1.0
    if rule.statistic == "index":
        if item.index is None:
            raise _UnavailableError("the result has no stability index: it was made without chance or floor")
        index = item.index
        compared = item.n + undefined if index.sampled is None else index.sampled
        lost = (compared - index.n) / compared if compared else 1.0  # images without a score, chance or floor
        return _Found(index.value, index.low, index.high, index.reason, index.n, index.n_patients, lost)
    if rule.statistic in ("mean", "vanished-rate"):
        estimate = item.estimate if rule.statistic == "mean" else item.vanished_rate
        assert estimate is not None
        return _of_estimate(estimate, item.n, item.n_patients, share)
    name = _QUANTILES[rule.statistic]
    low, high = item.intervals.get(name, (None, None))
    reason = item.estimate.reason or "no interval"
    return _Found(getattr(item, name), low, high, reason, item.n, item.n_patients, share)


def _of_estimate(estimate: Estimate, images: int, patients: int, undefined: float = 0.0) -> _Found:
    return _Found(estimate.mean, estimate.low, estimate.high, estimate.reason, images, patients, undefined)


def _bound(bounds: tuple[float | None, float | None]) -> str:
    signs = zip((">=", "<="), bounds, strict=True)
    return ", ".join(f"{sign} {bound:.4g}" for sign, bound in signs if bound is not None)


def _would_pass(rule: Rule, found: _Found, bounds: tuple[float | None, float | None]) -> str:
    """The tightest bound, to four decimals, that this result passes."""
    low, high = bounds
    least, most = (_decisive(rule, found, upper=upper) for upper in (False, True))
    parts = []
    if low is not None and least is not None:
        parts.append(f">= {math.floor(least * 1e4) / 1e4:.4f}")
    if high is not None and most is not None:
        parts.append(f"<= {math.ceil(most * 1e4) / 1e4:.4f}")
    return ", ".join(parts)


def _near(name: str, names: Sequence[str]) -> str:
    return f"it has {' and '.join(nearest(name, names))}"

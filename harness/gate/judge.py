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
from collections.abc import Iterator

from harness.gate.comparability import difference_from, foreign_origins, other_reference, same_models
from harness.gate.policy import ALL, EACH, FLIP_RATES, WORST, Policy, Requirements, Rule
from harness.gate.statistic import Statistic, UnavailableError, find, near
from harness.gate.verdict import OUTCOMES, Case, Outcome, Verdict
from harness.results.cautions import cautions
from harness.results.schema import Evaluation, PairResult

Bounds = tuple[float | None, float | None]


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
    judging = _Judge(result, policy.requirements, baseline)
    required, warnings = _required(result, policy, baseline)
    cases = [case for number, rule in enumerate(policy.rule, 1) for case in judging.cases(number, rule)]
    if digest is not None and digest == policy.derived_from:
        warnings.append("the policy was derived from this very result: a pass says nothing, judge another one")
    return Verdict(cases=[*required, *cases], warnings=warnings, fail_on_warning=fail_on_warning)


def _required(result: Evaluation, policy: Policy, baseline: Evaluation | None) -> tuple[list[Case], list[str]]:
    """Cases for what the policy requires of the result as a whole and it lacks, and warnings for what it does not."""
    cases, warnings = list(_of_images(result, policy.requirements.max_undefined)), []
    cases += _of_judges(result, policy) if policy.requirements.independent else []
    for pair, message in same_models(result):
        if policy.requirements.distinct:
            cases.append(Case(rule=0, title="distinct models", pair=pair, outcome="fail", message=message))
        else:
            warnings.append(f"{pair}: {message}")
    for message in foreign_origins(result, policy, baseline):
        if policy.requirements.same_data:
            cases.append(Case(rule=0, title="same data", outcome="error", message=message))
        else:
            warnings.append(message)
    return cases, warnings + cautions(result)


def _of_images(result: Evaluation, allowed: float) -> Iterator[Case]:
    """A skipped case where more images than the policy allows could not be read."""
    share = len(result.unreadable) / max(result.images, 1)
    if not share <= allowed:
        message = f"{share:.1%} of the images could not be read; the policy allows {allowed:.1%}"
        yield Case(rule=0, title="images", outcome="skipped", message=message)


def _of_judges(result: Evaluation, policy: Policy) -> Iterator[Case]:
    """A skipped case for each training that taught a checkpoint what every rule on maps judges by."""
    judges = {result.vocabulary.method(rule.method).paradigm for rule in policy.rule if rule.method is not None}
    for checkpoint in result.checkpoints:
        for item in checkpoint.metadata.preserved:
            own = result.vocabulary.method(item.method).paradigm
            if not judges - {own}:
                message = (
                    f"{checkpoint.key} was trained to preserve evidence by {item.method}, and no rule is of another "
                    f"paradigm than {own}: add one on ablation, or set requirements.independent = false"
                )
                yield Case(rule=0, title="independent judge", outcome="skipped", message=message)


def title(rule: Rule) -> str:
    """The rule as a few words."""
    place = f" ({rule.method}, {rule.layer})" if not rule.is_quality else ""
    if rule.region is not None:
        return f"inside {rule.region}{place}"
    return f"{rule.metric}{'' if rule.metric in FLIP_RATES else f' {rule.statistic}'}{place}"


class _Judge:
    """Judges rules against one result."""

    def __init__(self, result: Evaluation, requirements: Requirements, baseline: Evaluation | None) -> None:
        self.result = result
        self.requirements = requirements
        self.baseline = baseline

    def cases(self, number: int, rule: Rule) -> Iterator[Case]:
        """Every case of a rule."""
        pairs = [pair for pair in self.result.pairs if rule.pair in (None, pair.name, pair.architecture)]
        if not pairs:
            known = [pair.name for pair in self.result.pairs]
            message = f"the result has no pair {rule.pair!r}; {near(str(rule.pair), known)}"
            yield _error(number, rule, str(rule.pair), rule.scope, message)
        for pair in pairs:
            try:
                yield from self._of_pair(number, rule, pair)
            except UnavailableError as error:
                yield _error(number, rule, pair.name, rule.scope, str(error))

    def _of_pair(self, number: int, rule: Rule, pair: PairResult) -> list[Case]:
        classes = self.result.classes
        if rule.is_quality or rule.scope == ALL:
            return [self._case(number, rule, pair, ALL)[0]]
        if rule.scope in (EACH, WORST) and not classes:
            raise UnavailableError("the result has no classes")
        if rule.scope in (EACH, WORST):
            judged = [self._of_class(number, rule, pair, name) for name in classes]
            if rule.scope == EACH:
                return [case for case, _ in judged]
            worst, _ = min(judged, key=lambda found: (OUTCOMES.index(found[0].outcome), found[1]))
            return [worst.model_copy(update={"scope": f"{worst.scope} (worst class)"})]
        if rule.scope not in classes:
            raise UnavailableError(f"the result has no class {rule.scope!r}; {near(rule.scope, classes)}")
        return [self._case(number, rule, pair, rule.scope)[0]]

    def _of_class(self, number: int, rule: Rule, pair: PairResult, name: str) -> tuple[Case, float]:
        """As `_case`; what one class lacks does not hide another one."""
        try:
            return self._case(number, rule, pair, name)
        except UnavailableError as error:
            return _error(number, rule, pair.name, name, str(error)), -math.inf

    def _case(self, number: int, rule: Rule, pair: PairResult, scope: str) -> tuple[Case, float]:
        """The case, and by how much it keeps its bounds (negative: breaks them)."""
        found = find(rule, self.result, pair, scope)
        bounds = self._tightened(rule, pair, scope) if rule.needs_baseline else (rule.min, rule.max)
        outcome, message = _outcome(rule, found, bounds, self.requirements)
        case = Case(
            rule=number,
            title=title(rule),
            pair=pair.name,
            scope=scope,
            outcome=outcome,
            message=message,
            value=found.value,
            low=found.low,
            high=found.high,
            bound=_bound(bounds),
            would_pass=_would_pass(rule, found, bounds),
            floor=pair.floor if rule.statistic == "index" else None,
        )
        return case, _margin(rule, found, bounds)

    def _tightened(self, rule: Rule, pair: PairResult, scope: str) -> Bounds:
        """The bounds of the rule, and those that the baseline sets."""
        if self.baseline is None:
            raise UnavailableError("the rule is against a baseline; give one with --baseline")
        other = self._baseline_pair(pair)
        reason = difference_from(self.result, self.baseline)
        reason = reason or other_reference(rule, self.result, pair, self.baseline, other)
        if reason:
            raise UnavailableError(reason)
        value = self._baseline_value(rule, other, scope)
        relative = rule.max_relative_worsening
        margins = (rule.max_worsening, None if relative is None else relative * abs(value))
        margin = min(margin for margin in margins if margin is not None)
        (low, high), (least, most) = (rule.min, rule.max), rule.range
        allowed = value - rule.direction * margin
        if allowed <= least if rule.direction > 0 else allowed >= most:
            raise UnavailableError(f"nothing is worse than {allowed:.4g}, so the rule would stop nothing; tighten it")
        if rule.direction > 0:
            return max(allowed, -math.inf if low is None else low), high
        return low, min(allowed, math.inf if high is None else high)

    def _baseline_value(self, rule: Rule, pair: PairResult, scope: str) -> float:
        """The value to compare with, which has to rest on as much as one that is judged."""
        assert self.baseline is not None
        found = find(rule, self.baseline, pair, scope)
        reason = _too_little(rule, found, self.requirements)
        if reason or found.value is None or not math.isfinite(found.value):
            raise UnavailableError(f"the baseline has no value to compare with: {reason or found.reason}")
        return found.value

    def _baseline_pair(self, pair: PairResult) -> PairResult:
        """The pair of the baseline that corresponds: of that name, else the one of its architecture and place."""
        assert self.baseline is not None
        place, pairs = (pair.architecture, pair.kind, pair.replicate), self.baseline.pairs
        named = [item for item in pairs if (item.architecture, item.name) == (pair.architecture, pair.name)]
        found = named or [item for item in pairs if (item.architecture, item.kind, item.replicate) == place]
        if len(found) != 1:
            known = ", ".join(f"{item.name!r} of {item.architecture}" for item in pairs)
            raise UnavailableError(
                f"the baseline has no one pair for {pair.name!r} of {pair.architecture}; it has {known}"
            )
        return found[0]


def _error(number: int, rule: Rule, pair: str, scope: str, message: str) -> Case:
    return Case(rule=number, title=title(rule), pair=pair, scope=scope, outcome="error", message=message)


def _margin(rule: Rule, found: Statistic, bounds: Bounds) -> float:
    """How far inside its bounds a statistic lies; -inf where it is undefined."""
    ends = (_decisive(rule, found, upper=False), _decisive(rule, found, upper=True))
    if None in ends:
        return -math.inf
    least, most = (math.nan if end is None else end for end in ends)
    low, high = bounds
    return min(least - low if low is not None else math.inf, high - most if high is not None else math.inf)


def _outcome(rule: Rule, found: Statistic, bounds: Bounds, requirements: Requirements) -> tuple[Outcome, str]:
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


def _why_skipped(rule: Rule, found: Statistic, requirements: Requirements) -> str:
    """Why the rule cannot be judged, or nothing."""
    too_little = _too_little(rule, found, requirements)
    if too_little:
        return too_little
    for what, part in (("value", found.value), *(("interval", _decisive(rule, found, upper=u)) for u in (False, True))):
        if part is None or not math.isfinite(part):
            return f"no {what} ({found.reason or 'undefined'})"
    return ""


def _too_little(rule: Rule, found: Statistic, requirements: Requirements) -> str:
    """What the value rests on, where that is less than the policy requires."""
    if found.images is not None and found.images < requirements.min_images:
        return f"{found.images} images; the policy requires {requirements.min_images}"
    if found.patients is not None and found.patients < requirements.min_patients:
        return f"{found.patients} patients; the policy requires {requirements.min_patients}"
    allowed = requirements.max_undefined if rule.max_undefined is None else rule.max_undefined
    if not found.undefined <= allowed:
        return f"undefined for {found.undefined:.1%} of the images; the policy allows {allowed:.1%}"
    return ""


def _decisive(rule: Rule, found: Statistic, upper: bool) -> float | None:
    """What is held against the upper (or lower) bound: the interval's bad end, its good end, or the value."""
    if rule.mode == "point":
        return found.value
    return found.high if upper == (rule.mode == "surely-good") else found.low


def _explanation(rule: Rule, least: float, most: float, bounds: Bounds) -> str:
    low, _ = bounds
    end = least if low is not None and not least >= low else most
    what = {"surely-good": "the interval's bad end", "point": "the value", "surely-bad": "even the interval's good end"}
    return f"{what[rule.mode]} is {end:.4g}"


def _bound(bounds: Bounds) -> str:
    signs = zip((">=", "<="), bounds, strict=True)
    return ", ".join(f"{sign} {bound:.4g}" for sign, bound in signs if bound is not None)


def _would_pass(rule: Rule, found: Statistic, bounds: Bounds) -> str:
    """The tightest bound, to four decimals, that this result passes."""
    low, high = bounds
    least, most = (_decisive(rule, found, upper=upper) for upper in (False, True))
    parts = []
    if low is not None and least is not None:
        parts.append(f">= {math.floor(least * 1e4) / 1e4:.4f}")
    if high is not None and most is not None:
        parts.append(f"<= {math.ceil(most * 1e4) / 1e4:.4f}")
    return ", ".join(parts)

"""A first policy, proposed from an evaluation that was found good: `gate --init`.

Two ways to a bound on a mean, both from the interval's bad end e, since that is what a rule judges:

- With three or more replicates: the limit that one more training of the same kind stays within with 99.5 %,

      mean(e) -+ t(0.995, f) s sqrt(1 + 1/R),

  s the standard deviation between the R replicates, pooled over the classes (f = (R - 1) x classes). Source: Hahn &
  Meeker 1991, Statistical Intervals, doi:10.1002/9780470316771, section 4.8 (prediction of a future observation).
- With fewer, or too few patients per class: half way between chance and floor, or a tenth of their distance beyond e,
  where that is further; the most lenient over the replicates.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from scipy import stats

from harness.common.errors import InputError
from harness.common.formatting import digits, one_line
from harness.common.provenance import bytes_digest
from harness.common.storage import Location, write_whole
from harness.gate.comparability import befores
from harness.gate.policy import ALL, Requirements, parse_policy
from harness.results.pseudonyms import portable_path
from harness.results.schema import Estimate, Evaluation, MetricSummary, PairResult, read_result, result_file
from harness.results.vocabulary import DIRECTIONS, HEADLINE

METRICS = (HEADLINE, "centroid_shift")  # how much of the evidence stayed, and how far its centre moved
MOST_UNDEFINED = 0.5
LOST = 0.05  # share of images with vanished or undefined maps, above which a mean over the others says little
HALF_WAY = 0.5  # between chance and floor
SLACK = 0.1  # of the distance from chance to floor, beyond what the evaluation reached
DECIMALS = 6  # to which two methods agree that are one map
REPLICATES = 3  # from which the variation between trainings sets the bounds
CONFIDENCE = 0.995
IMAGES, PATIENTS = 30, 25  # from which a rule is proposed; it asks for fewer, since selections vary
REQUIREMENTS = Requirements(min_images=20, min_patients=20)
_TEMPLATES = Path(__file__).parent / "templates"

Spot = tuple[str, str, str]  # layer, method, metric
Key = tuple[str, str, str, str]  # place and scope


@dataclass(frozen=True)
class Proposed:
    """One rule as TOML keys, with the sentence that explains its bound."""

    keys: dict[str, Any]
    comment: str


def initialise(result: Location, policy: Path) -> int:
    """Write a first policy; returns how many of its rules are on means of maps.

    :raises InputError: the file is there already, or no rule can be derived.
    """
    if policy.exists():
        raise InputError(f"{policy}: exists; name another file with --policy, or remove it")
    content = read_result(result)
    found = Evaluation.parse(content, result_file(result))
    text = propose(found, bytes_digest(content), portable_path(str(result)))
    rules = parse_policy(text, f"the policy proposed for {result}", found.vocabulary).rule
    write_whole(policy, text)
    return sum(rule.statistic == "mean" for rule in rules)


def propose(result: Evaluation, digest: str, name: str) -> str:
    """The text of a policy TOML with bounds from the first architecture of `result`.

    Per layer, method and metric, overall and per class, a bound on the mean; overall an upper bound on the vanished
    rate; and a lower bound on the change in accuracy. What has too little to stand on gets no rule, and the text
    says so.
    """
    if not result.pairs:
        raise InputError(f"{name}: holds no pair of checkpoints to derive a policy from; evaluate anew")
    first = result.pairs[0]
    replicates = [pair for pair in result.pairs if pair.architecture == first.architecture and pair.kind == "drift"]
    pairs = replicates or [first]
    left_out: list[str] = []
    rules = [*_quality_rules(result, pairs[0]), *_map_rules(pairs, left_out)]
    shown: dict[str, Any] = {
        "name": name,
        "digest": digest,
        "data_digest": result.data_digest,
        "befores": sorted(befores(result)),
        "references": result.references,
    }
    shown |= {"rules": rules, "left_out": left_out, "replicates": len(pairs), "requirements": REQUIREMENTS}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=False, keep_trailing_newline=True, trim_blocks=True
    )
    template = environment.get_template("policy.toml.j2")
    return template.render(**shown, toml=_toml, comment=one_line)


def _quality_rules(result: Evaluation, pair: PairResult) -> Iterator[Proposed]:
    if "accuracy" in pair.change:
        bound = -round(min(max(0.05, 2 * result.margin), 0.9), 3)
        keys = {"metric": "accuracy", "statistic": "change", "min": bound, "mode": "point"}
        yield Proposed(keys, "accuracy may fall by that much; its interval is too wide for `surely-good`")


def _map_rules(pairs: Sequence[PairResult], left_out: list[str]) -> Iterator[Proposed]:
    """Rules in the order of the first pair's summaries; methods that are one map get one rule."""
    by_place = [{(*_place_of(item), item.scope): item for item in pair.metrics} for pair in pairs]
    coinciding = _coinciding(by_place)
    for key, first in by_place[0].items():
        if first.metric not in METRICS or key[:2] not in coinciding:
            continue
        items = [found[key] for found in by_place if key in found]
        spread = _spread([found for found in by_place if key in found], key[:3])
        overall = (*key[:2], HEADLINE, ALL)
        lost = max((_lost(found[overall]) for found in by_place if overall in found), default=0.0)
        reason = f"its maps are lost in {lost:.0%} of the images" if lost > LOST else _too_little(items, spread)
        others = coinciding[key[:2]]
        if reason:
            names = " and ".join([first.method, *others])
            left_out.append(f"{first.metric}, {first.scope}, {names} at {first.layer}: {reason}")
        else:
            yield _mean_rule(items, spread, others)
        if first.scope == ALL and first.vanished_rate is not None:
            yield from _vanished_rule(items)


def _coinciding(by_place: Sequence[Mapping[Key, MetricSummary]]) -> dict[tuple[str, str], list[str]]:
    """(layer, method) -> the methods behind it in order whose bounded numbers are the same in every pair and scope.

    Behind global average pooling and one dense layer the gradient of a channel is the same everywhere, and there
    several methods are one map. Such a method has no entry of its own.
    """
    numbers: dict[tuple[str, str], list[object]] = {}
    for found in by_place:
        for (layer, method, metric, scope), item in found.items():
            if metric in METRICS:
                ends = (item.estimate.mean, item.estimate.low, item.estimate.high)
                shown = [None if end is None else round(end, DECIMALS) for end in ends]
                numbers.setdefault((layer, method), []).append((metric, scope, item.n, item.vanished, shown))
    result: dict[tuple[str, str], list[str]] = {}
    for (layer, method), mine in numbers.items():
        first = next((place for place in result if place[0] == layer and numbers[place] == mine), None)
        if first is None:
            result[layer, method] = []
        else:
            result[first].append(method)
    return result


def _lost(item: MetricSummary) -> float:
    """Share of the compared images whose map vanished or is undefined."""
    undefined = sum(item.undefined.values())
    return (item.vanished + undefined) / max(item.n + undefined, 1)


def _too_little(items: Sequence[MetricSummary], spread: tuple[float, int] | None) -> str:
    """Why no rule can be derived, or nothing."""
    for item in items:
        if item.n < IMAGES or item.n_patients < PATIENTS:
            return f"{item.n} images of {item.n_patients} patients are too few"
        if item.estimate.low is None or item.estimate.high is None:
            return "there is no interval"
    bound = _bound(items, spread)
    if bound is None:
        return "floor and chance cannot be told apart"
    direction = DIRECTIONS[items[0].metric]
    if spread is None and any(direction * (bound - chance) <= 0 for chance, _ in _references(items)):
        return "too near to chance: a bound beyond chance would stop nothing"
    return "" if 0 < bound < 1 else "trainings differ so much that a bound would stop nothing"


def _mean_rule(
    items: Sequence[MetricSummary], spread: tuple[float, int] | None, coinciding: Sequence[str] = ()
) -> Proposed:
    bound, first = _bound(items, spread), items[0]
    assert bound is not None
    side = "min" if DIRECTIONS[first.metric] > 0 else "max"
    here = ", ".join(digits(item.estimate.mean) for item in items)
    chance = digits(first.index.chance) if first.index else "unknown"
    floor = digits(first.index.floor) if first.index else "unknown"
    keys = {"metric": first.metric, **_place(first), "statistic": "mean", side: bound, **_undefined(items)}
    why = "" if spread or len(items) < REPLICATES else "; too few patients per class to tell how replicates vary"
    also = f"; {' and '.join(coinciding)} made the same maps: one rule for all" if coinciding else ""
    return Proposed(keys, f"chance {chance}, floor {floor}, here {here}{why}{also}")


def _bound(items: Sequence[MetricSummary], spread: tuple[float, int] | None) -> float | None:
    """The bound, rounded to the lenient side; None where nothing says where it could lie."""
    direction = DIRECTIONS[items[0].metric]
    ends = [_bad_end(item.estimate, direction) for item in items]
    if spread is not None:
        sd, freedom = spread
        reach = float(stats.t.ppf(CONFIDENCE, freedom)) * sd * math.sqrt(1 + 1 / len(ends))
        return _lenient(float(np.mean(ends)) - direction * reach, direction)
    references = _references(items)
    if len(references) < len(items):
        return None
    candidates = []
    for (chance, floor), end in zip(references, ends, strict=True):
        distance = floor - chance  # of the direction's sign
        candidates += [chance + HALF_WAY * distance, end - SLACK * distance]
    return _lenient(min(candidates) if direction > 0 else max(candidates), direction)


def _references(items: Sequence[MetricSummary]) -> list[tuple[float, float]]:
    """(chance, floor) of those whose chance and floor can be told apart."""
    indices = [item.index for item in items if item.index is not None and not item.index.reason]
    return [(one.chance, one.floor) for one in indices if one.chance is not None and one.floor is not None]


def _spread(
    by_place: Sequence[dict[tuple[str, str, str, str], MetricSummary]], place: Spot
) -> tuple[float, int] | None:
    """(standard deviation of the bad ends between replicates, degrees of freedom), pooled over the classes."""
    if len(by_place) < REPLICATES:
        return None
    direction, variances = DIRECTIONS[place[2]], []
    for key in by_place[0]:
        if key[:3] == place and key[3] != ALL:
            estimates = [found[key].estimate for found in by_place if key in found]
            if len(estimates) == len(by_place) and all(item.low is not None for item in estimates):
                variances.append(np.var([_bad_end(item, direction) for item in estimates], ddof=1))
    return (float(np.sqrt(np.mean(variances))), (len(by_place) - 1) * len(variances)) if variances else None


def _bad_end(estimate: Estimate, direction: int) -> float:
    end = estimate.low if direction > 0 else estimate.high
    assert end is not None
    return end


def _lenient(bound: float, direction: int) -> float:
    """Three decimals, away from the good side."""
    return direction * math.floor(direction * bound * 1e3) / 1e3


def _vanished_rule(items: Sequence[MetricSummary]) -> Iterator[Proposed]:
    """A quarter above the worst interval's end; none where evidence vanishes as a rule."""
    ends = [item.vanished_rate.high for item in items if item.vanished_rate and item.vanished_rate.high is not None]
    if not ends:
        return
    bound = max(0.02, math.ceil(1.25 * max(ends) * 1e3) / 1e3)
    if bound < 1:
        shown = ", ".join(f"{item.vanished} of {item.n}" for item in items)
        keys = {"metric": items[0].metric, **_place(items[0]), "statistic": "vanished-rate", "max": bound}
        yield Proposed({**keys, **_undefined(items)}, f"evidence vanished for {shown} images here")


def _place_of(item: MetricSummary) -> Spot:
    return item.layer, item.method, item.metric


def _place(item: MetricSummary) -> dict[str, str]:
    return {"method": item.method, "layer": item.layer, "scope": item.scope}


def _undefined(items: Sequence[MetricSummary]) -> dict[str, float]:
    """What the rule allows to be undefined, where that is more than the policy does by default."""
    shares = [sum(item.undefined.values()) / max(item.n + sum(item.undefined.values()), 1) for item in items]
    if max(shares) <= REQUIREMENTS.max_undefined:
        return {}
    return {"max_undefined": min(MOST_UNDEFINED, math.ceil((2 * max(shares) + 0.05) * 100) / 100)}


def _toml(value: object) -> str:
    """A TOML value: JSON strings and numbers are TOML, too, but for surrogates and the one control character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

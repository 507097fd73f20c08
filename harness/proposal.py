"""A first policy, proposed from an evaluation that was found good: `gate --init`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from harness.policy import ALL, Requirements
from harness.results import Evaluation, MetricSummary, PairResult
from harness.table import digits, one_line

METRIC = "iou_top20"
HALF_WAY = 0.5  # between chance and floor
SLACK = 0.1  # of the distance from chance to floor, below what the evaluation reached
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Proposed:
    """One rule as TOML keys, with the sentence that explains its bound."""

    keys: dict[str, Any]
    comment: str


def propose(result: Evaluation, digest: str, name: str) -> str:
    """The text of a policy TOML with bounds from the floor and chance of `result`.

    Per layer and method, overall and per class: a lower bound on the mean top-20 % overlap; overall an upper bound on
    the vanished rate; and a lower bound on the change in accuracy. What has too little to stand on gets no rule.
    """
    left_out: list[str] = []
    rules = [rule for pair in result.pairs[:1] for rule in _of_pair(result, pair, left_out)]
    shown = {"name": name, "digest": digest, "rules": rules, "left_out": left_out}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=False, keep_trailing_newline=True, trim_blocks=True
    )
    template = environment.get_template("policy.toml.j2")
    return template.render(**shown, requirements=Requirements(), toml=_toml, comment=one_line)


def _of_pair(result: Evaluation, pair: PairResult, left_out: list[str]) -> Iterator[Proposed]:
    if "accuracy" in pair.change:
        yield Proposed(
            {
                "metric": "accuracy",
                "statistic": "change",
                "min": -round(max(0.05, 2 * result.margin), 3),
                "mode": "point",
            },
            "accuracy may fall by that much; an interval this wide would hardly ever pass `surely-good`",
        )
    for item in pair.metrics:
        if item.metric != METRIC:
            continue
        reason = _too_little(item)
        if reason:
            left_out.append(f"{item.scope}, {item.method} at {item.layer}: {reason}")
        else:
            yield _overlap_rule(item)
        if item.scope == ALL and item.vanished_rate is not None and item.vanished_rate.high is not None:
            yield _vanished_rule(item)


def _too_little(item: MetricSummary) -> str:
    """Why no rule can be derived, or nothing."""
    needed = Requirements()
    if item.n < needed.min_images or item.n_patients < needed.min_patients:
        return f"{item.n} images of {item.n_patients} patients are too few"
    if item.index is None or item.index.floor is None or item.index.chance is None:
        return "there is no floor or no chance level"
    if item.index.reason:
        return f"floor and chance cannot be told apart ({item.index.reason})"
    if item.estimate.low is None:
        return "there is no interval"
    return "" if _bound(item) > item.index.chance else "too near to chance: a bound below chance would stop nothing"


def _bound(item: MetricSummary) -> float:
    """Half way from chance to floor, or a little below what the evaluation reached, where that is less."""
    index, low = item.index, item.estimate.low
    assert index is not None
    assert index.chance is not None
    assert index.floor is not None
    assert low is not None
    distance = index.floor - index.chance
    return math.floor(min(index.chance + HALF_WAY * distance, low - SLACK * distance) * 1e3) / 1e3


def _overlap_rule(item: MetricSummary) -> Proposed:
    assert item.index is not None
    comment = f"chance {digits(item.index.chance)}, floor {digits(item.index.floor)}, here {digits(item.estimate.mean)}"
    keys = {"metric": METRIC, **_place(item), "statistic": "mean", "min": _bound(item), **_undefined(item)}
    return Proposed(keys, comment)


def _vanished_rule(item: MetricSummary) -> Proposed:
    high = (item.vanished_rate and item.vanished_rate.high) or 0.0
    bound = min(max(0.02, math.ceil(1.25 * high * 1e3) / 1e3), 0.999)
    comment = f"evidence vanished for {item.vanished} of {item.n} images here"
    keys = {"metric": METRIC, **_place(item), "statistic": "vanished-rate", "max": bound, **_undefined(item)}
    return Proposed(keys, comment)


def _place(item: MetricSummary) -> dict[str, str]:
    return {"method": item.method, "layer": item.layer, "scope": item.scope}


def _undefined(item: MetricSummary) -> dict[str, float]:
    """What the rule allows to be undefined, where that is more than the policy does by default."""
    undefined = sum(item.undefined.values())
    share = undefined / (item.n + undefined)
    return {} if share <= Requirements().max_undefined else {"max_undefined": math.ceil((share + 0.02) * 100) / 100}


def _toml(value: object) -> str:
    """A TOML value: JSON strings and numbers are TOML, too."""
    return json.dumps(value, ensure_ascii=True)

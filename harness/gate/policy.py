"""A policy: the rules by which a gate judges an evaluation, read from TOML and checked.

A rule names a metric, where to look (method, layer, scope, pair), a statistic of it, a bound, and how sure the gate
has to be. What no result could ever satisfy or violate is refused when the policy is read.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, ValidationInfo, model_validator

from harness.common.errors import InputError
from harness.common.storage import read_at_most
from harness.common.validation import complaint, did_you_mean
from harness.results.contradictions import CHANGE, SHARE
from harness.results.vocabulary import BUILT_IN, Vocabulary, current

FORMAT = 1
MOST_BYTES = 2**20
QUALITIES = ("accuracy", "auc", "ece")
MAP_STATISTICS = ("mean", "median", "p05", "p95", "index", "vanished-rate")
QUALITY_STATISTICS = ("value", "change")
INSIDE = "inside"  # the share of the evidence after that lies in a region
NEGATIVE_FLIPS, MOVED_UNSEEN = FLIP_RATES = ("negative-flip-rate", "moved-unseen-rate")
ALL, EACH, WORST = "all", "each-class", "worst-class"

Mode = Literal["surely-good", "surely-bad", "point"]
Severity = Literal["fail", "warn"]


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Requirements(_Config):
    """What a result must have before any rule is judged.

    distinct: the gate fails where before and after are the same model, which compares nothing; else it warns
    same_data: the result has to rest on the data and the `before` of policy and baseline; else the gate warns
    independent: a checkpoint that was trained to preserve evidence is not judged, unless a rule on maps is of another
        paradigm than the method that it was trained by; else the gate warns
    """

    min_images: int = Field(default=30, ge=1)
    min_patients: int = Field(default=20, ge=1)
    max_undefined: float = Field(default=0.01, ge=0, le=1)
    distinct: bool = True
    same_data: bool = False
    independent: bool = True


class Rule(_Config):
    """One bound on one statistic.

    metric: a column of the scores; `accuracy`, `auc` or `ece`; `negative-flip-rate` (right before, wrong after: share
        of all images) or `moved-unseen-rate` (evidence moved: share of the images with the same answer)
    region: a rule on the share of the evidence after that lies in a region, in place of a metric; its bounds are
        `min_inside` and `max_inside`
    scope: `all`, `each-class` (a case per class), `worst-class`, or the name of a class
    min, max: bounds on the statistic
    max_worsening, max_relative_worsening: how much worse than the baseline's value it may be; which way is worse is
        known from the metric
    mode: `surely-good`: the interval's bad end must pass; `point`: the value must; `surely-bad`: only its good end
    """

    metric: str
    region: str | None = None
    min_inside: float | None = None
    max_inside: float | None = None
    method: str | None = None
    layer: str | None = None
    pair: str | None = None
    scope: str = ALL
    statistic: str = "value"
    min: float | None = None
    max: float | None = None
    max_worsening: float | None = Field(default=None, ge=0)
    max_relative_worsening: float | None = Field(default=None, ge=0)
    mode: Mode = "surely-good"
    severity: Severity = "fail"
    max_undefined: float | None = Field(default=None, ge=0, le=1)
    _vocabulary: Vocabulary = PrivateAttr(BUILT_IN)  # of the result that is judged, which may have metrics of its own

    @property
    def is_quality(self) -> bool:
        """True for a rule on predictions, False for one on maps."""
        return self.metric in (*QUALITIES, NEGATIVE_FLIPS)

    @property
    def direction(self) -> int:
        """+1 where a higher statistic is better, -1 where a lower one is, 0 where it should stay near zero."""
        if self.statistic == "index":
            return 1
        if self.statistic == "vanished-rate" or self.metric in FLIP_RATES:
            return -1
        if self.region is not None:
            return -1 if self.min is None and self.max is not None else 1
        if self.is_quality:
            return -1 if self.metric == "ece" else 1
        return self._vocabulary.direction_of(self.metric) if self.metric in self._vocabulary.stability else 0

    @property
    def needs_baseline(self) -> bool:
        return self.max_worsening is not None or self.max_relative_worsening is not None

    @model_validator(mode="before")
    @classmethod
    def _of_region(cls, content: Any) -> Any:
        """A rule with a region is one on the metric `inside`, whose bounds have names of their own."""
        if not isinstance(content, dict):
            return content
        bounds = {end: content[f"{end}_inside"] for end in ("min", "max") if f"{end}_inside" in content}
        if "region" not in content:
            if bounds:
                raise ValueError("min_inside and max_inside belong to a rule with a `region`")
            return content
        if content.get("metric", INSIDE) != INSIDE or {"min", "max"} & content.keys():
            raise ValueError("a rule with a `region` takes min_inside or max_inside, and neither metric, min nor max")
        return {**content, "metric": INSIDE, **bounds}

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Rule:
        self._vocabulary = info.context["vocabulary"] if info.context else current()
        if self.region is None:
            _known(self.metric, (*self._vocabulary.columns, *QUALITIES, *FLIP_RATES), "metric")
        if self.region is not None or self.metric in FLIP_RATES:
            _known(self.statistic, ("value",), f"statistic of {self.metric}")
        if self.is_quality:
            _known(self.statistic, QUALITY_STATISTICS, f"statistic of {self.metric}")
            if self.method or self.layer or self.scope != ALL:
                raise ValueError(f"{self.metric} is of the predictions: it takes no method, layer or scope")
        else:
            self._check_place()
        self._check_bounds()
        return self

    def _check_place(self) -> None:
        """Of a rule on maps: a method and a layer, and a statistic that its metric has."""
        if self.method is None or self.layer is None:
            raise ValueError(f"a rule on {self.metric} names its method and its layer")
        self._vocabulary.method(self.method)
        if self.metric == MOVED_UNSEEN or self.region is not None:
            if self.scope != ALL:
                raise ValueError(f"{self.metric} is of all images: it takes no scope")
            return
        _known(self.statistic, MAP_STATISTICS, "statistic")
        self._check_statistic()

    def _check_statistic(self) -> None:
        known = self._vocabulary
        if self.statistic == "index" and self.metric not in known.stability:
            raise ValueError(f"{self.metric} has no stability index; {did_you_mean(self.metric, known.stability)} has")
        if self.statistic == "vanished-rate" and self.metric not in known.overlaps:
            raise ValueError(f"{self.metric} does not count vanished evidence; {', '.join(known.overlaps)} do")
        if self.needs_baseline and self.direction == 0:
            raise ValueError(
                f"{self.metric} has no better side; use {did_you_mean(self.metric, known.absolute_changes)} against a "
                "baseline"
            )

    def _check_bounds(self) -> None:
        if self.min is None and self.max is None and not self.needs_baseline:
            raise ValueError("a rule needs a bound: min, max, max_worsening or max_relative_worsening")
        low, high = self.range
        for name, bound in (("min", self.min), ("max", self.max)):
            if bound is not None and not low <= bound <= high:
                raise ValueError(
                    f"{name} = {bound} is impossible: {self.metric} {self.statistic} lies in {low} .. {high}"
                )
        if self.min == low or self.max == high:
            raise ValueError(f"a bound at the end of {low} .. {high} would always pass; leave it out or tighten it")
        if self.max_worsening is not None and self.max_worsening >= high - low:
            raise ValueError(f"max_worsening = {self.max_worsening} would always pass; {low} .. {high} is no wider")
        if self.max_relative_worsening is not None and self.max_relative_worsening >= 1 and self.direction > 0:
            raise ValueError(f"max_relative_worsening = {self.max_relative_worsening} would always pass; 0.1 is 10 %")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min = {self.min} is above max = {self.max}: nothing could pass")

    @property
    def range(self) -> tuple[float, float]:
        """Between what the statistic lies."""
        if self.statistic == "index":
            return -math.inf, math.inf
        if self.statistic == "change":
            return CHANGE
        if self.is_quality or self.statistic == "vanished-rate" or self.metric in (*FLIP_RATES, INSIDE):
            return SHARE
        return self._vocabulary.range_of(self.metric)


class Policy(_Config):
    """The rules of a gate, and what they require.

    derived_from: sha256 of the result that --init read; data_digest, before_digests: what that result rests on;
    references: how its floor and chance were drawn
    """

    format: Literal[1]
    derived_from: str | None = None
    data_digest: str | None = None
    before_digests: list[str] = []
    references: str | None = None
    requirements: Requirements = Requirements()
    rule: list[Rule] = Field(min_length=1)


def read_policy(path: Path, vocabulary: Vocabulary | None = None) -> Policy:
    """Read and check a policy TOML.

    :param vocabulary: the metrics and methods of the result that will be judged; by default all that are known here.
    :raises InputError: no such file, an unknown key (with the nearest), a metric that does not exist, an impossible
        bound.
    """
    return parse_policy(read_policy_bytes(path), str(path), vocabulary)


def read_policy_bytes(path: Path) -> bytes:
    """The bytes of a policy file; raises InputError where there is none."""
    try:
        return read_at_most(path, MOST_BYTES)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); write one with `python -m harness gate RESULT --init`"
        ) from None


def parse_policy(content: str | bytes, path: str, vocabulary: Vocabulary | None = None) -> Policy:
    """`read_policy` for what was read already; `path` names it in messages."""
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        return Policy.model_validate(tomllib.loads(text), context={"vocabulary": vocabulary or current()})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not a TOML file ({error})") from error
    except ValidationError as error:
        tables: dict[str, type[BaseModel]] = {"rule": Rule, "requirements": Requirements}
        raise InputError(f"{path}: {complaint(error, Policy, tables)}") from error


def _known(name: str, names: Iterable[str], kind: str) -> None:
    if name not in names:
        raise ValueError(f"unknown {kind} {name!r}; did you mean {did_you_mean(name, names)}?")

"""Tables whose rows say where their numbers stand: a file, by the letter of its digest, and a JSON pointer (RFC 6901).

`E/pairs/0/metrics/3` is what stands at `/pairs/0/metrics/3` of the file that section 5 calls E.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.gate.policy import FLIP_RATES, NEGATIVE_FLIPS, Rule
from harness.gate.verdict import Case
from harness.results.schema import Evaluation

RESULT, POLICY, BASELINE = "E", "P", "B"


@dataclass(frozen=True)
class Row:
    """Cells, where their numbers stand, and whether the row is to be noticed."""

    cells: tuple[str, ...]
    source: str = ""
    marked: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[Row]


@dataclass(frozen=True)
class Section:
    """A numbered section: sentences, tables, and a list."""

    number: str
    title: str
    sentences: Sequence[str] = ()
    tables: Sequence[Table] = ()
    points: Sequence[str] = ()
    level: int = field(default=2)


def pair_pointer(result: Evaluation, name: str) -> str:
    """Where a pair stands."""
    return f"{RESULT}/pairs/{[pair.name for pair in result.pairs].index(name)}"


def pointer_of(result: Evaluation, rule: Rule, case: Case) -> str:
    """Where the record stands that a rule was judged by; of what is not there, the pair."""
    if case.pair not in [pair.name for pair in result.pairs]:
        return RESULT
    where, pair = pair_pointer(result, case.pair), next(item for item in result.pairs if item.name == case.pair)
    scope = case.scope.removesuffix(" (worst class)")
    if rule.region is not None:
        keys = [(item.region, item.layer, item.method) for item in pair.regions]
        return _at(f"{where}/regions", keys, (rule.region, rule.layer, rule.method), where)
    if rule.metric == NEGATIVE_FLIPS:
        return f"{where}/flips"
    if rule.metric in FLIP_RATES:
        tables = [(item.layer, item.method) for item in (pair.flips.tables if pair.flips else ())]
        return _at(f"{where}/flips/tables", tables, (rule.layer, rule.method), where)
    if rule.is_quality and rule.statistic == "change":
        return f"{where}/change/{rule.metric}"
    if rule.is_quality:
        return f"{RESULT}/checkpoints/{list(result.by_key).index(pair.after)}/quality/{rule.metric}"
    metrics = [(item.layer, item.method, item.metric, item.scope) for item in pair.metrics]
    return _at(f"{where}/metrics", metrics, (rule.layer, rule.method, rule.metric, scope), where)


def _at(where: str, keys: Sequence[tuple], wanted: tuple, otherwise: str) -> str:
    return f"{where}/{keys.index(wanted)}" if wanted in keys else otherwise

"""The result as tables: for a terminal, and as Markdown for pull requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tabulate import tabulate

from harness.common.formatting import digits, inert, one_line
from harness.report.findings import same_model_lines
from harness.results.schema import (
    ALL,
    CheckpointResult,
    ComparisonResult,
    Estimate,
    Evaluation,
    MetricSummary,
    PairResult,
    Ranking,
)
from harness.results.vocabulary import HEADLINE

MARKDOWN = "github"
SHORT = ("centroid_shift", "iou_top20", "pearson", "gini_change")
_STABLE = {"low": "low", "high": "high", "zero": "near 0"}
_ONE_PAIR = [
    "layer",
    "method",
    "metric",
    "stable is",
    "mean",
    "95 % interval",
    "chance",
    "floor",
    "index",
    "n",
    "undefined",
]


def drift_table(result: Evaluation, wide: bool = False) -> str:
    """What was compared, how well the checkpoints classify, and how far their evidence moved."""
    return "\n\n".join(_sections(result, wide, "simple"))


def markdown(result: Evaluation) -> str:
    """The short tables as Markdown."""
    return "# Evidence drift\n\n" + "\n\n".join(_sections(result, wide=False, style=MARKDOWN))


def _sections(result: Evaluation, wide: bool, style: str) -> Iterator[str]:
    same = same_model_lines(result)
    if same:
        yield _lines(same, style)
    yield _set(_checkpoint_rows(result), ["checkpoint", "accuracy", "macro AUC", "calibration error"], style)
    yield _lines(_heading(result), style)
    if len(result.pairs) == 1:
        pair = result.pairs[0]
        shown = None if wide else _short(result)
        yield _set([_row(item) for item in pair.metrics if _shown(item, shown)], _ONE_PAIR, style)
        yield _explanation(result)
        return
    every = sorted({item.metric for pair in result.pairs for item in pair.metrics})
    for metric in every if wide else _short(result):
        yield f"{metric} (mean, 95 % interval; index in brackets)"
        yield _set(list(_matrix(result, metric)), ["pair", "n", *_columns(result)], style)
    yield _explanation(result)
    yield from _study(result, style)


def _lines(lines: Sequence[str], style: str) -> str:
    """Lines of text, as a list in Markdown."""
    if style == MARKDOWN:
        return "\n".join(f"- {inert(one_line(line))}" for line in lines)
    return "\n".join(one_line(line) for line in lines)


def _set(rows: Sequence[Sequence[str]], headers: Sequence[str], style: str) -> str:
    rows, headers = [[one_line(cell) for cell in row] for row in rows], [one_line(cell) for cell in headers]
    if style == MARKDOWN:
        rows, headers = [[inert(cell) for cell in row] for row in rows], [inert(cell) for cell in headers]
    return tabulate(rows, headers, tablefmt=style, disable_numparse=True)


def _checkpoint_rows(result: Evaluation) -> list[list[str]]:
    names = ("accuracy", "auc", "ece")
    return [[item.key, *(_quality(item, name) for name in names)] for item in result.checkpoints]


def _quality(checkpoint: CheckpointResult, name: str) -> str:
    return with_interval(checkpoint.quality[name]) if name in checkpoint.quality else "no labels"


def _heading(result: Evaluation) -> list[str]:
    unreadable = f", {len(result.unreadable)} unreadable" if result.unreadable else ""
    lines = [f"{result.images} images of {result.patients} patients{unreadable}; compared: {result.selection}"]
    return lines + [_pair_line(pair) for pair in result.pairs]


def _pair_line(pair: PairResult) -> str:
    change = pair.change.get("accuracy")
    accuracy = f", accuracy {signed(change)}" if change else ""
    name = pair.name if pair.name.startswith(pair.architecture) else f"{pair.architecture}: {pair.name}"
    return f"{name}: {pair.selected} compared, agreement {with_interval(pair.agreement)}{accuracy}"


def _short(result: Evaluation) -> tuple[str, ...]:
    """The columns of the short tables: some of ours, and of each registered metric the one that tells drift."""
    registered = result.vocabulary.registered_metrics
    return (*SHORT, *(record.change or record.name for record in registered))


def _shown(item: MetricSummary, metrics: Sequence[str] | None) -> bool:
    return item.scope == ALL and (metrics is None or item.metric in metrics)


def _row(item: MetricSummary) -> list[str]:
    estimate = item.estimate
    return [
        item.layer,
        item.method,
        item.metric,
        _STABLE[item.stable_is],
        digits(estimate.mean),
        estimate.reason or f"{digits(estimate.low)} .. {digits(estimate.high)}",
        digits(item.chance.mean) if item.chance else "",
        digits(item.floor.mean) if item.floor else "",
        index(item),
        str(item.n),
        undefined(item),
    ]


def undefined(item: MetricSummary) -> str:
    """How many images have no value, by reason; in brackets the zeros of evidence that vanished."""
    reasons = [f"{count} {reason}" for reason, count in item.undefined.items()]
    return ", ".join(reasons + ([f"({item.vanished} vanished)"] if item.vanished else [])) or "0"


def index(item: MetricSummary) -> str:
    """The stability index with its interval, or why there is none."""
    if item.index is None:
        return ""
    if item.index.reason:
        return item.index.reason
    return f"{item.index.value:.2f} ({digits(item.index.low, 2)} .. {digits(item.index.high, 2)})"


def _columns(result: Evaluation) -> list[str]:
    return [f"{layer} {method}" for layer in result.layers for method in result.methods]


def _matrix(result: Evaluation, metric: str) -> Iterator[list[str]]:
    """A row per pair; where pairs have different floors, each index says which is its own."""
    several = len({pair.floor for pair in result.pairs}) > 1
    for pair in result.pairs:
        cells = {
            (item.layer, item.method): item for item in pair.metrics if item.scope == ALL and item.metric == metric
        }
        yield [
            pair.name,
            str(pair.selected),
            *(
                _cell(cells[layer, method], pair.floor if several else None)
                for layer in result.layers
                for method in result.methods
            ),
        ]


def _cell(item: MetricSummary, floor: str | None) -> str:
    shown = with_interval(item.estimate) if item.estimate.low is not None else digits(item.estimate.mean)
    mark = f", {floor} floor" if floor else ""
    return f"{shown} [{digits(item.index.value, 2)}{mark}]" if item.index else shown


def _explanation(result: Evaluation) -> str:
    floors = sorted({pair.floor or "none" for pair in result.pairs})
    return (
        f"chance: unrelated images of the same class. floor: no training in between ({', '.join(floors)}).\n"
        "index: 1 where drift is no more than the floor, 0 where the maps have nothing to do with each other."
    )


def _study(result: Evaluation, style: str) -> Iterator[str]:
    if result.study is None:
        return
    if not result.study.selected:
        yield "no image is selected by every pair, so architectures are not compared"
        return
    found = [item for item in result.study.comparisons if (item.scope, item.metric) == (ALL, HEADLINE)]
    rows = [
        [item.layer, ranking.method, " > ".join(ranking.architectures), _probability(ranking), str(ranking.n)]
        for item in found
        for ranking in item.rankings
    ]
    if rows:
        yield f"most to least stable by {HEADLINE}, on the {result.study.selected} images that every pair selects"
        yield _set(rows, ["layer", "method", "order", "probability", "n"], style)
    reversals = list(_reversals(found))
    if reversals:
        yield _lines(reversals, style)


def _probability(ranking: Ranking) -> str:
    """Share of the draws in which the architectures come in the order of their means."""
    shares = {tuple(order.architectures): order.probability for order in ranking.orders}
    return ranking.reason or digits(shares.get(tuple(ranking.architectures), 0.0), 2)


def _reversals(found: Sequence[ComparisonResult]) -> Iterator[str]:
    called = [(item.layer, reversal) for item in found for reversal in item.reversals if reversal.called]
    total = sum(len(item.reversals) for item in found)
    if total:
        yield f"{len(called)} of {total} possible reversals between methods are called by {HEADLINE}"
    for layer, item in called:
        yield (
            f"{layer}: {item.architectures[0]} and {item.architectures[1]} change places between {item.methods[0]} and "
            f"{item.methods[1]} (probability {digits(item.probability, 2)}; 0.50 if neither differed)"
        )


def with_interval(estimate: Estimate) -> str:
    """The mean with its interval, or with the reason why there is none."""
    if estimate.low is None:
        return f"{digits(estimate.mean)} (no interval: {estimate.reason})"
    return f"{digits(estimate.mean)} ({digits(estimate.low)} .. {digits(estimate.high)})"


def signed(estimate: Estimate) -> str:
    """A change, with its sign."""
    if estimate.mean is None:
        return "-"
    ends = "" if estimate.low is None else f" ({estimate.low:+.3f} .. {estimate.high:+.3f})"
    return f"{estimate.mean:+.3f}{ends}"

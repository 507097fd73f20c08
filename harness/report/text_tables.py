"""The result as tables: for a terminal, and as Markdown for pull requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import fill

from tabulate import tabulate

from harness.common.formatting import digits, inert, one_line
from harness.models.metadata import sameness
from harness.report import causal, nulls, paradigms
from harness.report.findings import findings, warning_lines
from harness.report.levels import power_beside
from harness.report.summaries import Summaries
from harness.results.schema import (
    ALL,
    CheckpointResult,
    ComparisonResult,
    Estimate,
    Evaluation,
    MetricSummary,
    PairResult,
    Ranking,
    Reversal,
)
from harness.results.vocabulary import HEADLINE, Vocabulary

_INDENT = "  "
MARKDOWN = "github"
PLAIN = "simple"
WIDTH = 80  # columns of a terminal
_GAP = 2  # columns between two of a plain table
_NARROWEST = 6  # column of a table that is made to fit
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
_ONLY_WIDE = ("layer", "method", "stable is", "n", "undefined")  # n: those compared without the undefined
_QUALITY_NAMES = ("accuracy", "auc", "ece")
_CONDITIONING = ["checkpoint", "layer", "method", "weight from denominators < 1", "median", "95 %", "n"]
_QUALITIES = ["checkpoint", "accuracy", "macro AUC", "calibration error"]


def drift_table(result: Evaluation, wide: bool = False) -> str:
    """What was compared, how well the checkpoints classify, and how far their evidence moved.

    :param wide: every metric and column, however long the lines; else the short tables within WIDTH columns
    """
    return "\n\n".join(_sections(result, True, PLAIN) if wide else _narrow(result))


def markdown(result: Evaluation) -> str:
    """The short tables as Markdown."""
    return "# Evidence drift\n\n" + "\n\n".join(_sections(result, wide=False, style=MARKDOWN))


def _sections(result: Evaluation, wide: bool, style: str) -> Iterator[str]:
    warnings = warning_lines(result)
    if warnings:
        yield _lines(warnings, style)
    yield _set(_checkpoint_rows(result), _QUALITIES, style)
    yield _lines(_heading(result), style)
    conditioning = list(_conditioning_rows(result))
    if wide and conditioning:
        yield _set(conditioning, _CONDITIONING, style)
    if len(result.pairs) == 1:
        pair = result.pairs[0]
        shown = None if wide else _short(result)
        yield _set([_row(item) for item in pair.metrics if _shown(item, shown)], _ONE_PAIR, style)
        yield from _regions(result, style)
        yield _explanation(result)
        yield from _causal_table(result, wide, style)
        return
    every = sorted({item.metric for pair in result.pairs for item in pair.metrics})
    for metric in every if wide else _short(result):
        yield f"{metric} (mean, 95 % interval; index in brackets)"
        yield _set(list(_matrix(result, metric)), ["pair", "n", *_columns(result)], style)
    yield from _regions(result, style)
    yield _explanation(result)
    yield from _causal_table(result, wide, style)
    yield from _study(result, style)


def _causal_table(result: Evaluation, wide: bool, style: str) -> Iterator[str]:
    if result.causal:
        yield _lines([causal.NOTE], style)
        yield _set(causal.rows(result, classes=wide), causal.HEADERS, style)
    if result.nulls:
        yield _lines([nulls.NOTE], style)
        yield _set(nulls.rows(result), nulls.HEADERS, style)


def _narrow(result: Evaluation) -> Iterator[str]:
    """The short tables within WIDTH columns."""
    warnings = warning_lines(result)
    if warnings:
        yield _filled(warnings)
    yield _narrow_checkpoints(result)
    yield _filled(_heading(result))
    yield from _by_path(result) if len(result.pairs) == 1 else _by_metric(result)
    yield from _region_lines(result)
    yield _filled(_explanation(result).splitlines())
    yield from _causal_lines(result)
    if result.nulls:
        yield _filled([nulls.NOTE])
        for name in dict.fromkeys(item.name for item in result.nulls):
            yield name
            own = [row[3:] for row in nulls.rows(result) if row[0] == name]
            yield _set(own, nulls.HEADERS[3:], PLAIN, WIDTH)
    yield from _study(result, PLAIN, WIDTH)


def _causal_lines(result: Evaluation) -> Iterator[str]:
    """The causal check, where there is one: two lines per pair, layer and method."""
    if result.causal:
        lines = [
            f"{layer}, {method}: {verdict}; moved {moved}, used {used}, elsewhere {elsewhere}, other images {partner}, "
            f"p {p}, {n} images" + (f" ({pair})" if len(result.pairs) > 1 else "")
            for pair, layer, method, _, verdict, moved, used, elsewhere, partner, p, n in causal.rows(result)
        ]
        yield _filled([causal.NOTE, *lines])


def _filled(lines: Sequence[str]) -> str:
    """Lines of text, broken where they are longer than WIDTH."""
    return "\n".join(fill(one_line(line), WIDTH, subsequent_indent="  ") for line in lines)


def _narrow_checkpoints(result: Evaluation) -> str:
    """How well the checkpoints classify: a row each, or a column each where that is narrower, or without intervals."""
    rows, headers = _checkpoint_rows(result), _QUALITIES
    turned = [list(column) for column in zip(*rows, strict=True)]
    turned_rows = [[name, *values] for name, values in zip(headers[1:], turned[1:], strict=True)]
    for table, heads in ((rows, headers), (turned_rows, ["", *turned[0]])):
        if _total(_natural_widths(table, heads)) <= WIDTH:
            return _set(table, heads, PLAIN, WIDTH)
    means = [[item.key, *(_quality_mean(item, name) for name in _QUALITY_NAMES)] for item in result.checkpoints]
    return _set(means, headers, PLAIN, WIDTH)


def _quality_mean(checkpoint: CheckpointResult, name: str) -> str:
    return digits(checkpoint.quality[name].mean) if name in checkpoint.quality else "no labels"


def _by_path(result: Evaluation) -> Iterator[str]:
    """One pair: a table per layer and method, and what is undefined below it."""
    shown = _short(result)
    headers = [name for name in _ONE_PAIR if name not in _ONLY_WIDE]
    for layer in result.layers:
        for method in result.methods:
            items = [
                item
                for item in result.pairs[0].metrics
                if (item.layer, item.method) == (layer, method) and _shown(item, shown)
            ]
            rows = [
                [cell for name, cell in zip(_ONE_PAIR, _row(item), strict=True) if name in headers] for item in items
            ]
            missing = [f"undefined, {item.metric}: {undefined(item)}" for item in items if undefined(item) != "0"]
            table = _set(rows, headers, PLAIN, WIDTH)
            yield "\n".join([_filled([f"{layer}, {method}"]), table, *filter(None, [_filled(missing)])])


def _by_metric(result: Evaluation) -> Iterator[str]:
    """Several pairs: means and indices, as many columns beside each other as fit."""
    for metric in _short(result):
        yield f"{metric}: mean [index]; intervals with --wide"
        matrix = list(_matrix(result, metric, intervals=False))
        yield from (_set(rows, headers, PLAIN, WIDTH) for rows, headers in _blocks(matrix, _columns(result)))


def _blocks(matrix: Sequence[Sequence[str]], columns: Sequence[str]) -> Iterator[tuple[list[list[str]], list[str]]]:
    """(rows, headers) of a table cut into some that fit, each with the pair and its number of images."""
    left = [[row[0], row[1]] for row in matrix]
    longest = max(len(row[0]) for row in matrix)
    room = WIDTH - min(longest, WIDTH // 3) - max(len(row[1]) for row in matrix) - _GAP
    start = 0
    while start < len(columns):
        stop, used = start, 0
        while stop < len(columns) and (stop == start or used + _width_of(matrix, columns, stop) <= room):
            used += _width_of(matrix, columns, stop)
            stop += 1
        rows = [[*head, *row[2 + start : 2 + stop]] for head, row in zip(left, matrix, strict=True)]
        yield rows, ["pair", "n", *columns[start:stop]]
        start = stop


def _width_of(matrix: Sequence[Sequence[str]], columns: Sequence[str], number: int) -> int:
    return _GAP + max(len(columns[number]), *(len(row[2 + number]) for row in matrix))


def _lines(lines: Sequence[str], style: str) -> str:
    """Lines of text, as a list in Markdown."""
    if style == MARKDOWN:
        return "\n".join(f"- {inert(one_line(line))}" for line in lines)
    return "\n".join(one_line(line) for line in lines)


def _set(rows: Sequence[Sequence[str]], headers: Sequence[str], style: str, width: int | None = None) -> str:
    """A table; cells are broken into lines where it would be wider than `width`."""
    rows, headers = [[one_line(cell) for cell in row] for row in rows], [one_line(cell) for cell in headers]
    if style == MARKDOWN:
        rows, headers = [[inert(cell) for cell in row] for row in rows], [inert(cell) for cell in headers]
    if width is None:
        return tabulate(rows, headers, style, disable_numparse=True)
    widths = _fitted(_natural_widths(rows, headers), width)
    lined = [headers, ["-" * each for each in widths], *rows]  # as rows: headers of their own would be padded
    return tabulate(lined, tablefmt="plain", disable_numparse=True, maxcolwidths=widths)


def _natural_widths(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> list[int]:
    return [max(map(len, column)) for column in zip(headers, *rows, strict=True)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _fitted(widths: list[int], width: int) -> list[int]:
    """Widths of columns, the widest made narrower until all fit."""
    while _total(widths) > width and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return widths


def _checkpoint_rows(result: Evaluation) -> list[list[str]]:
    return [[item.key, *(_quality(item, name) for name in _QUALITY_NAMES)] for item in result.checkpoints]


def _quality(checkpoint: CheckpointResult, name: str) -> str:
    return with_interval(checkpoint.quality[name]) if name in checkpoint.quality else "no labels"


def _conditioning_rows(result: Evaluation) -> Iterator[list[str]]:
    for checkpoint in result.checkpoints:
        for item in checkpoint.conditioning:
            shares = [digits(value) for value in (item.mean, item.median, item.q95)]
            yield [checkpoint.key, item.layer, item.method, *shares, str(item.n)]


def _heading(result: Evaluation) -> list[str]:
    unreadable = f", {len(result.unreadable)} unreadable" if result.unreadable else ""
    lines = [f"{result.images} images of {result.patients} patients{unreadable}; compared: {result.selection}"]
    verdicts = [
        line
        for pair, verdict in zip(result.pairs, _verdicts(result), strict=True)
        for line in (_pair_line(pair), f"{_INDENT}{verdict}", *(f"{_INDENT}{text}" for text in _flips(pair, result)))
    ]
    return lines + verdicts + _sample_lines(result)


def _sample_lines(result: Evaluation) -> list[str]:
    """Which methods were computed on a sample of the images, and how complete path methods are."""
    if result.sample is None:
        return []
    names = [name for name in result.methods if result.vocabulary.method(name).takes_passes]
    lines = [f"{', '.join(names)}: on a sample of at most {result.sample} images, as many of each class"]
    for checkpoint in result.checkpoints:
        lines += [
            f"{checkpoint.key}, {item.layer}, {item.method}: sums of maps off by {digits(item.median, 4)} of the "
            f"difference of scores in the median, {digits(item.q95, 4)} at 95 %"
            for item in checkpoint.completeness
        ]
    return lines


_OF_REGIONS = "share of the evidence inside of regions; area and other patients: what chance gives"
_REGIONS = ["region", "layer", "method", "inside before", "after", "change", "area", "other patients", "n"]


def _region_rows(result: Evaluation) -> Iterator[list[str]]:
    """How much of the evidence lies in each region; the pair first where there are several."""
    for pair in result.pairs:
        for item in pair.regions:
            others = digits(item.others.mean) if item.others else "-"
            shares = [digits(item.before.mean), with_interval(item.after), signed(item.change), digits(item.area.mean)]
            first = [pair.name] if len(result.pairs) > 1 else []
            yield [*first, item.region, item.layer, item.method, *shares, others, str(item.n)]


def _regions(result: Evaluation, style: str) -> Iterator[str]:
    rows = list(_region_rows(result))
    if rows:
        headers = [*(["pair"] if len(result.pairs) > 1 else []), *_REGIONS]
        yield _lines([_OF_REGIONS], style)
        yield _set(rows, headers, style)


def _region_lines(result: Evaluation) -> Iterator[str]:
    """The same as sentences, which fit where a table does not."""
    lines = []
    for pair in result.pairs:
        for item in pair.regions:
            others = f", other patients {digits(item.others.mean)}" if item.others else ""
            where = f"{pair.name}: " if len(result.pairs) > 1 else ""
            shares = (
                f"{digits(item.before.mean)} before, {with_interval(item.after)} after, change {signed(item.change)}"
            )
            beside = f"area {digits(item.area.mean)}{others}; n {item.n}"
            lines.append(f"{where}{item.region}, {item.layer} {item.method}: {shares}; {beside}")
    if lines:
        yield _filled([_OF_REGIONS, *lines])


def _flips(pair: PairResult, result: Evaluation) -> Iterator[str]:
    """How many answers flipped, and how often evidence moved behind the same answer, under the first method.

    Nothing of a model with itself.
    """
    flips = pair.flips
    if flips is None or not flips.tables or sameness(result.by_key[pair.before], result.by_key[pair.after]):
        return
    negative = flips.negative_flip_rate
    named = "" if negative is None else f" ({flips.negative} negative, rate {with_interval(negative)})"
    item = flips.tables[0]
    known = item.same_still + item.same_moved
    unseen = f"; same answer, moved: {item.same_moved} of {known}" if known else ""
    yield f"answers: {flips.flipped} of {flips.n} flipped{named}{unseen}"


def _verdicts(result: Evaluation) -> Iterator[str]:
    """The words of each pair; beside no drift, what would have been shown."""
    for finding in findings(result, Summaries(result)):
        without = power_beside(finding.level, finding.index)
        more = f". {without}" if without else ""
        where = f" by {HEADLINE}, {result.layers[0]}, {result.methods[0]}" if finding.index else ""
        yield f"{finding.level.words}{where}{more}"


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


def _matrix(result: Evaluation, metric: str, intervals: bool = True) -> Iterator[list[str]]:
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
                _cell(cells[layer, method], pair.floor if several else None, intervals)
                for layer in result.layers
                for method in result.methods
            ),
        ]


def _cell(item: MetricSummary, floor: str | None, interval: bool) -> str:
    shown = with_interval(item.estimate) if interval and item.estimate.low is not None else digits(item.estimate.mean)
    mark = f", {floor} floor" if floor else ""
    return f"{shown} [{digits(item.index.value, 2)}{mark}]" if item.index else shown


def _explanation(result: Evaluation) -> str:
    floors = sorted({pair.floor or "none" for pair in result.pairs})
    return (
        f"chance: unrelated images of the same class. floor: no training in between ({', '.join(floors)}).\n"
        "index: 1 where drift is no more than the floor, 0 where the maps have nothing to do with each other."
    )


def _study(result: Evaluation, style: str, width: int | None = None) -> Iterator[str]:
    lines = (lambda texts: _lines(texts, style)) if width is None else _filled
    if result.study is None:
        return
    if not result.study.selected:
        yield lines(["no image is selected by every pair, so architectures are not compared"])
        return
    found = [item for item in result.study.comparisons if (item.scope, item.metric) == (ALL, HEADLINE)]
    rows = [
        [item.layer, ranking.method, " > ".join(ranking.architectures), _probability(ranking), str(ranking.n)]
        for item in found
        for ranking in item.rankings
    ]
    if rows:
        yield lines(
            [f"most to least stable by {HEADLINE}, on the {result.study.selected} images that every pair selects"]
        )
        yield _set(rows, ["layer", "method", "order", "probability", "n"], style, width)
    by_paradigm = [line for item in found for line in paradigms.orders(item, result.vocabulary)]
    if by_paradigm:
        yield lines(["by paradigm:", *by_paradigm])
    reversals = list(_reversals(found, result.vocabulary))
    if reversals:
        yield lines(reversals)


def _probability(ranking: Ranking) -> str:
    """Share of the draws in which the architectures come in the order of their means."""
    shares = {tuple(order.architectures): order.probability for order in ranking.orders}
    return ranking.reason or digits(shares.get(tuple(ranking.architectures), 0.0), 2)


def _reversals(found: Sequence[ComparisonResult], vocabulary: Vocabulary) -> Iterator[str]:
    called = [(item.layer, reversal) for item in found for reversal in item.reversals if reversal.called]
    total = sum(len(item.reversals) for item in found)
    if total:
        yield f"{len(called)} of {total} possible reversals between methods are called by {HEADLINE}"
    for layer, item in called:
        yield (
            f"{layer}: {item.architectures[0]} and {item.architectures[1]} change places between {item.methods[0]} and "
            f"{item.methods[1]}{_between(item, vocabulary)} (probability {digits(item.probability, 2)}; 0.50 if "
            "neither differed)"
        )


def _between(item: Reversal, vocabulary: Vocabulary) -> str:
    """Whether a reversal lies within a paradigm or between two, where there are methods of several."""
    kind = paradigms.kind_of(item.methods, vocabulary)
    return "" if kind == "within gradient" else f", {kind}"


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

"""The tables of a report as data: what stands in which cell, in words and positions, ready for a template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.common.formatting import DASH, MINUS, number, percent, signed, span
from harness.report.glossary import reason_sentence
from harness.report.summaries import Summaries, with_span
from harness.results.cautions import ILL_CONDITIONED
from harness.results.schema import (
    ALL,
    ComparisonResult,
    Evaluation,
    IndexResult,
    MetricSummary,
    PairResult,
    Ranking,
    Reversal,
    StudyResult,
)
from harness.results.vocabulary import BUILT_IN, HEADLINE, Vocabulary
from harness.statistics.rankings import NULL_PROBABILITY

_VARIANTS = ("iou_top5", "iou_top10", "iou_top30", "iou_half", "iou_curve")  # of the headline; in evaluation.json only
_BEYOND = 0.1  # how far the line of an index goes on below 0 and above 1
_WORTH_NAMING = 0.005  # probability of an order; less would read 0.00


def switched(vocabulary: Vocabulary) -> tuple[str, ...]:
    """The metrics that a page can switch between."""
    return (HEADLINE, *(name for name in vocabulary.stability if name not in (HEADLINE, *_VARIANTS)))


def _families(vocabulary: Vocabulary) -> dict[str, list[str]]:
    """Words for metrics that are often undefined together."""
    each = {name: vocabulary.metric(f"{name}_change") for name in vocabulary.concentration}
    return {
        "all overlap metrics": list(vocabulary.overlaps),
        **{f"{name}_*": [*record.columns, record.stability] for name, record in each.items()},
        "all change and shift metrics": [*vocabulary.changes, *vocabulary.absolute_changes],
    }


@dataclass(frozen=True)
class Title:
    """A pair in words: checkpoints without the architecture, where that is said beside them."""

    architecture: str
    before: str
    after: str


@dataclass(frozen=True)
class Scale:
    """A stability index on a line from below 0 to above 1: positions in per cent; off the ends it stands on them."""

    dot: float
    start: float
    width: float


@dataclass(frozen=True)
class Cell:
    """A mean with its index. tint: 0 (stable) .. 100 (drifted); None where there is no index."""

    mean: str
    ends: str
    index: str
    index_ends: str
    n: int
    tint: int | None
    note: str  # why something is missing
    without: str = "no index"  # what stands where there is none


@dataclass(frozen=True)
class Row:
    """A row of cells; `labels` are its headings from left to right."""

    labels: tuple[str, ...]
    cells: list[Cell]


@dataclass(frozen=True)
class Box:
    """The spread of one metric over images, in per cent of the metric's range, and the numbers in words.

    band: (start, width) of the interval of the mean, chance and floor: positions on the axis; None where undefined
    """

    layer: str
    method: str
    n: int
    undefined: str
    quantiles: tuple[float, ...] | None  # q05, q25, median, q75, q95
    mean: float | None
    band: tuple[float, float] | None
    chance: float | None
    floor: float | None
    words: dict[str, str]


@dataclass(frozen=True)
class Axis:
    """Ticks of a metric's range: (position in per cent, label)."""

    ticks: list[tuple[float, str]]
    stable_at: str  # left or right


@dataclass(frozen=True)
class Missing:
    """What is undefined for some metrics of one layer and method."""

    pair: str
    layer: str
    method: str
    metrics: list[str]
    reason: str
    images: int
    share: str


def cell(item: MetricSummary | None) -> Cell:
    """The cell of a summary; an empty one where nothing was compared."""
    if item is None or item.estimate.mean is None:
        return Cell(DASH, "", "", "", item.n if item else 0, None, "nothing to compare")
    if _is_same_everywhere(item):
        ends, why = span(item.estimate.low, item.estimate.high), "every image has the value of identical maps"
        return Cell(number(item.estimate.mean), ends, "", "", item.n, None, why, "no difference")
    index, estimate = item.index, item.estimate
    value = index.value if index else None
    note = (index.reason if index else None) or estimate.reason
    return Cell(
        number(estimate.mean),
        span(estimate.low, estimate.high),
        number(value, 2) if value is not None else "",
        span(index.low, index.high, 2) if index else "",
        item.n,
        None if value is None else round(100 * (1 - min(max(value, 0.0), 1.0))),
        reason_sentence(note) if note else "",
    )


def _is_same_everywhere(item: MetricSummary) -> bool:
    """True where no image differs at all by a metric that has an index: an index would measure the floor alone."""
    end = {"high": 1.0, "low": 0.0}.get(item.stable_is)
    return item.index is not None and item.sd == 0 and item.estimate.mean == end


def title(pair: PairResult) -> Title:
    """The name of a pair."""
    before, after = (key.removeprefix(f"{pair.architecture}/") for key in (pair.before, pair.after))
    return Title(pair.architecture, before, after)


def scale_position(value: float) -> float:
    """Where an index stands on the line of `Scale`, in per cent."""
    return round(100 * (min(max(value, -_BEYOND), 1 + _BEYOND) + _BEYOND) / (1 + 2 * _BEYOND), 2)


def scale(index: IndexResult | None) -> Scale | None:
    """The line of an index with its interval; None without one."""
    if index is None or index.value is None or index.low is None or index.high is None:
        return None
    start = scale_position(index.low)
    return Scale(scale_position(index.value), start, round(scale_position(index.high) - start, 2))


def paths(result: Evaluation) -> list[tuple[str, str]]:
    """(layer, method) in the order of the result."""
    return [(layer, method) for layer in result.layers for method in result.methods]


def matrix(result: Evaluation, summaries: Summaries, metric: str) -> list[Row]:
    """Pairs by (layer, method)."""
    return [
        Row(
            (pair.architecture, _arrow(pair), str(pair.selected)),
            [cell(summaries.get(pair, *path, metric)) for path in paths(result)],
        )
        for pair in result.pairs
    ]


def _arrow(pair: PairResult) -> str:
    named = title(pair)
    return f"{named.before} \N{RIGHTWARDS ARROW} {named.after}"


def by_class(result: Evaluation, summaries: Summaries, pair: PairResult, metric: str) -> list[Row]:
    """(layer, method) by class."""
    return [
        Row(path, [cell(summaries.get(pair, *path, metric, scope)) for scope in result.classes])
        for path in paths(result)
    ]


def boxes(result: Evaluation, summaries: Summaries, pair: PairResult, metric: str) -> list[Box]:
    """The spread under every layer and method."""
    items = (summaries.get(pair, *path, metric) for path in paths(result))
    limits = result.vocabulary.range_of(metric)
    return [_box(item, limits) for item in items if item is not None]


def axis(metric: str, vocabulary: Vocabulary = BUILT_IN) -> Axis:
    """The axis of a metric: its whole range, so that metrics of one kind can be compared by eye."""
    low, high = vocabulary.range_of(metric)
    values = [low + step * (high - low) / 4 for step in range(5)]
    return Axis(
        [(_position(value, (low, high)) or 0.0, f"{value:g}".replace("-", MINUS)) for value in values],
        "right" if vocabulary.direction_of(metric) > 0 else "left",
    )


def _position(value: float | None, limits: tuple[float, float]) -> float | None:
    low, high = limits
    return None if value is None else round(100 * (value - low) / (high - low), 2)


def _box(item: MetricSummary, limits: tuple[float, float]) -> Box:
    estimate = item.estimate
    quantiles = [_position(value, limits) for value in (item.q05, item.q25, item.median, item.q75, item.q95)]
    known = tuple(value for value in quantiles if value is not None)
    low, high = _position(estimate.low, limits), _position(estimate.high, limits)
    return Box(
        layer=item.layer,
        method=item.method,
        n=item.n,
        undefined=_undefined(item),
        quantiles=known if len(known) == len(quantiles) else None,
        mean=_position(estimate.mean, limits),
        band=None if low is None or high is None else (low, round(high - low, 2)),
        chance=_position(item.chance.mean, limits) if item.chance else None,
        floor=_position(item.floor.mean, limits) if item.floor else None,
        words=_box_words(item),
    )


def _box_words(item: MetricSummary) -> dict[str, str]:
    return {
        "mean": number(item.estimate.mean),
        "ends": span(item.estimate.low, item.estimate.high),
        "median": number(item.median),
        "middle": span(item.q25, item.q75),
        "most": span(item.q05, item.q95),
        "chance": number(item.chance.mean if item.chance else None),
        "floor": number(item.floor.mean if item.floor else None),
    }


def _undefined(item: MetricSummary) -> str:
    missing = sum(item.undefined.values())
    parts = [f"{count} {what}" for count, what in ((missing, "undefined"), (item.vanished, "vanished")) if count]
    return ", ".join(parts)


@dataclass(frozen=True)
class Concentration:
    """How concentrated the maps of a layer and method are: per metric before, after, change and its interval."""

    path: tuple[str, str]
    values: list[tuple[str, str, str, str]]


def concentrations(result: Evaluation, summaries: Summaries, pair: PairResult) -> list[Concentration]:
    """Of one pair, over all images."""
    columns = [result.vocabulary.metric(f"{name}_change").columns for name in result.vocabulary.concentration]
    return [
        Concentration(path, [_concentration(summaries, pair, path, names) for names in columns])
        for path in paths(result)
    ]


def _concentration(
    summaries: Summaries, pair: PairResult, path: tuple[str, str], columns: Sequence[str]
) -> tuple[str, str, str, str]:
    """Before, after, change and its interval, from the columns of the first three."""
    found = [summaries.get(pair, *path, column) for column in columns]
    before, after, change = (item.estimate if item else None for item in found)
    return (
        number(before.mean if before else None),
        number(after.mean if after else None),
        signed(change.mean if change else None),
        span(change.low, change.high) if change else "",
    )


# Undefined values


def missing(result: Evaluation) -> list[Missing]:
    """Counts of what is undefined, those metrics together that lack the same images."""
    families = _families(result.vocabulary)
    return [
        Missing(pair.name, layer, method, metrics, reason, images, percent(images / pair.selected, 1))
        for pair in result.pairs
        for (layer, method, reason, images), metrics in _by_reason(pair, families).items()
    ]


def _by_reason(pair: PairResult, families: Mapping[str, Sequence[str]]) -> dict[tuple[str, str, str, int], list[str]]:
    found: dict[tuple[str, str, str, int], list[str]] = {}
    for item in pair.metrics:
        counts = {**item.undefined, **({"vanished": item.vanished} if item.vanished else {})}
        for reason, images in counts.items() if item.scope == ALL else ():
            found.setdefault((item.layer, item.method, reason, images), []).append(item.metric)
    return {key: _merged(metrics, families) for key, metrics in found.items()}


def _merged(metrics: Sequence[str], families: Mapping[str, Sequence[str]]) -> list[str]:
    """Families of which every member is there, by one word; the others by name."""
    names = list(metrics)
    for word, family in families.items():
        if all(name in names for name in family):
            names = [word, *(name for name in names if name not in family)]
    return names


def reason_sentences(result: Evaluation, rows: Sequence[Missing]) -> dict[str, str]:
    """Every reason that occurs in the result, with its sentence."""
    labels = {row.reason for row in rows} | {reason for pair in result.pairs for reason in _interval_reasons(pair)}
    labels |= {reason for reason in _study_reasons(result.study) if reason}
    return {label: reason_sentence(label) for label in sorted(labels)}


def _interval_reasons(pair: PairResult) -> Iterator[str]:
    for item in pair.metrics:
        if item.estimate.reason:
            yield item.estimate.reason
        if item.index and item.index.reason:
            yield item.index.reason


def _study_reasons(study: StudyResult | None) -> Iterator[str | None]:
    if study is None:
        return
    yield from (test.reason for test in study.convergence)
    for item in headline_comparisons(study):
        yield from (one.reason for one in item.differences)
        yield from (one.reason for one in item.rankings)
        yield from (one.reason for one in item.reversals)
        yield item.interaction.reason if item.interaction else None


# Architectures and methods against each other


@dataclass(frozen=True)
class Order:
    """The order of the architectures under one method."""

    layer: str
    method: str
    order: str
    means: str
    probability: str
    others: str  # the next probable orders
    n: int


def headline_comparisons(study: StudyResult | None) -> list[ComparisonResult]:
    """The comparisons of the headline metric over all images, one per layer."""
    found = study.comparisons if study else []
    return [item for item in found if (item.scope, item.metric) == (ALL, HEADLINE)]


def orders(comparisons: Sequence[ComparisonResult]) -> list[Order]:
    """One row per layer and method."""
    return [_order(item.layer, ranking) for item in comparisons for ranking in item.rankings]


def _order(layer: str, ranking: Ranking) -> Order:
    own = ranking.architectures
    shares = {tuple(order.architectures): order.probability for order in ranking.orders}
    others = [
        f"{_chain(order.architectures)} ({number(order.probability, 2)})"
        for order in ranking.orders
        if order.architectures != own and order.probability >= _WORTH_NAMING
    ]
    return Order(
        layer,
        ranking.method,
        _chain(own),
        ", ".join(number(mean) for mean in ranking.means),
        ranking.reason or number(shares.get(tuple(own), 0.0), 2),
        "; ".join(others[:2]),
        ranking.n,
    )


def _chain(architectures: Sequence[str]) -> str:
    return " > ".join(architectures)


@dataclass(frozen=True)
class Line:
    """A row of plain texts, the first ones naming it."""

    texts: tuple[str, ...]
    marked: bool = False  # a called reversal


def reversals(comparisons: Sequence[ComparisonResult]) -> list[Line]:
    """Called reversals first, then the most probable of the others."""
    found = [(item.layer, one) for item in comparisons for one in item.reversals]
    found.sort(key=lambda named: (not named[1].called, -_reach(named[1])))
    return [
        Line(
            (
                layer,
                f"{one.architectures[0]} and {one.architectures[1]}",
                f"{one.methods[0]} to {one.methods[1]}",
                f"{signed(one.first)} to {signed(one.second)}",
                number(one.probability, 2) if not one.reason else one.reason,
                number(NULL_PROBABILITY, 2),
            ),
            one.called,
        )
        for layer, one in found
    ]


def _reach(reversal: Reversal) -> float:
    """The smaller of its two differences: what both methods say at least."""
    return min(abs(reversal.first or 0.0), abs(reversal.second or 0.0))


def differences(comparisons: Sequence[ComparisonResult]) -> list[Line]:
    """Mean differences of two methods of an architecture, or of two architectures under a method."""
    return [
        Line(
            (
                item.layer,
                " · ".join(one.first),
                " · ".join(one.second),
                f"{signed(one.value)}{f' ({span(one.low, one.high)})' if one.low is not None else ''}",
                number(one.p_holm, 4) if one.reason is None else one.reason,
                str(one.n),
            )
        )
        for item in comparisons
        for one in item.differences
    ]


def interactions(comparisons: Sequence[ComparisonResult]) -> list[Line]:
    """Share of architecture x method, one row per layer."""
    return [
        Line(
            (
                item.layer,
                f"{percent(one.value, 1)}{f' ({percent(one.low, 1)} to {percent(one.high, 1)})' if one.low else ''}",
                one.reason or str(one.n),
            )
        )
        for item in comparisons
        if (one := item.interaction) is not None
    ]


# Predictions


def equivalences(result: Evaluation) -> list[Line]:
    """Before against after of every pair, then the ends of the architectures against each other."""
    tests = [test for pair in result.pairs for test in pair.equivalence]
    tests += result.study.convergence if result.study else []
    return [
        Line(
            (
                test.name,
                test.of,
                f"{signed(test.difference)}{f' ({span(test.low90, test.high90)})' if test.low90 is not None else ''}",
                f"±{test.margin:g}",
                ("equivalent" if test.equivalent else "not shown") if test.reason is None else test.reason,
            )
        )
        for test in tests
    ]


def qualities(result: Evaluation) -> list[Row]:
    """Accuracy, AUC and calibration error per checkpoint."""
    return [
        Row(
            (checkpoint.key, checkpoint.architecture, checkpoint.phase),
            [
                Cell(number(found.mean), span(found.low, found.high), "", "", 0, None, "")
                if (found := checkpoint.quality.get(name))
                else Cell(DASH, "", "", "", 0, None, "no labels")
                for name in ("accuracy", "auc", "ece")
            ],
        )
        for checkpoint in result.checkpoints
    ]


def changes(result: Evaluation) -> list[Line]:
    """Agreement and change per pair."""
    return [
        Line(
            (
                pair.name,
                with_span(pair.agreement),
                *(
                    f"{signed(found.mean)}{f' ({span(found.low, found.high)})' if found.low is not None else ''}"
                    if (found := pair.change.get(name))
                    else DASH
                    for name in ("accuracy", "auc", "ece")
                ),
            )
        )
        for pair in result.pairs
    ]


def flips(result: Evaluation) -> list[Line]:
    """Answers against evidence: per pair, layer and method the counts of the two-by-two."""
    return [
        Line(
            (
                pair.name,
                item.layer,
                item.method,
                *map(str, (item.same_still, item.same_moved, item.flipped_still, item.flipped_moved, item.unknown)),
                with_span(item.moved_unseen_rate),
            )
        )
        for pair in result.pairs
        if pair.flips
        for item in pair.flips.tables
    ]


def negative_flips(result: Evaluation) -> list[Line]:
    """Per pair how many answers flipped, and which way."""
    return [
        Line(
            (
                pair.name,
                str(flips.n),
                str(flips.flipped),
                DASH if flips.negative is None else str(flips.negative),
                with_span(flips.negative_flip_rate) if flips.negative_flip_rate else DASH,
                DASH if flips.positive is None else str(flips.positive),
            )
        )
        for pair in result.pairs
        if (flips := pair.flips) is not None
    ]


def consistencies(result: Evaluation) -> list[Line]:
    """Per checkpoint, layer and method: one number per class."""
    rows = []
    for checkpoint in result.checkpoints:
        by_path: dict[tuple[str, str], dict[str, str]] = {}
        for item in checkpoint.consistency:
            by_path.setdefault((item.layer, item.method), {})[item.scope] = number(item.value, 2)
        rows += [
            Line((checkpoint.key, *path, *(found.get(scope, DASH) for scope in result.classes)))
            for path, found in by_path.items()
        ]
    return rows


def regions(result: Evaluation) -> list[Line]:
    """Per pair, region, layer and method: the share of the evidence inside, and what stands beside it."""
    return [
        Line(
            (
                pair.name,
                item.region,
                item.layer,
                item.method,
                with_span(item.before),
                with_span(item.after),
                f"{signed(item.change.mean)} ({span(item.change.low, item.change.high) or 'no interval'})",
                number(item.gained.mean),
                number(item.lost.mean),
                number(item.area.mean),
                number(item.others.mean) if item.others else DASH,
                str(item.n),
            )
        )
        for pair in result.pairs
        for item in pair.regions
    ]


def conditionings(result: Evaluation) -> list[Line]:
    """Per checkpoint, layer and method: the share of the weight from denominators below 1; marked where ill."""
    return [
        Line(
            (
                checkpoint.key,
                item.layer,
                item.method,
                percent(item.mean, 1),
                percent(item.median, 1),
                percent(item.q95, 1),
                str(item.n),
            ),
            item.mean > ILL_CONDITIONED,
        )
        for checkpoint in result.checkpoints
        for item in checkpoint.conditioning
    ]


# Drift along a training


@dataclass(frozen=True)
class Step:
    """A checkpoint of a training: how well it classifies, and its drift since the first and since the one before."""

    key: str
    accuracy: str
    auc: str
    since_first: str
    since_previous: str


def trainings(result: Evaluation) -> list[list[str]]:
    """Keys of the checkpoints of each training, in its order."""
    found: dict[tuple[str, int], list[str]] = {}
    for pair in result.pairs:
        if pair.kind == "since-first":
            found.setdefault((pair.architecture, pair.replicate), [pair.before]).append(pair.after)
    return list(found.values())


def steps(result: Evaluation, summaries: Summaries, keys: Sequence[str]) -> list[Step]:
    """The rows of one training."""
    return [_step(result, summaries, keys, position) for position in range(len(keys))]


def _step(result: Evaluation, summaries: Summaries, keys: Sequence[str], position: int) -> Step:
    quality = result.by_key[keys[position]].quality
    accuracy, auc = quality.get("accuracy"), quality.get("auc")
    return Step(
        keys[position],
        with_span(accuracy) if accuracy else "no labels",
        with_span(auc) if auc else "no labels",
        _index(result, summaries, keys[0], keys[position]) if position else "",
        _index(result, summaries, keys[position - 1], keys[position]) if position else "",
    )


def _index(result: Evaluation, summaries: Summaries, before: str, after: str) -> str:
    pair = pair_between(result, before, after)
    item = summaries.get(pair, result.layers[0], result.methods[0], HEADLINE) if pair else None
    if item is None or item.index is None:
        return DASH
    return with_span(item.index, 2) if item.index.value is not None else item.index.reason or DASH


def pair_between(result: Evaluation, before: str, after: str) -> PairResult | None:
    """The pair of two checkpoints of a training: the second is compared with the first as one before it only once."""
    return next((pair for pair in result.pairs if (pair.before, pair.after) == (before, after)), None)

"""The findings in words: what drifted, by how much against floor and chance, for whom, and what is not known.

The words follow the interval of the stability index of the headline metric at the first layer under the first method
(`harness.report.levels`). Of a pair whose maps are identical nothing is said but that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from harness.common.formatting import count, number, percent, points, signed, span
from harness.models.metadata import sameness
from harness.report.glossary import reason_sentence
from harness.report.levels import SAME_MAPS, SAME_MODEL, UNKNOWN, Level, level_of, power_beside
from harness.report.paradigms import agreement
from harness.report.summaries import Summaries, with_span
from harness.results.cautions import at_chance, cautions, trained_to_stay
from harness.results.schema import (
    Equivalence,
    Estimate,
    Evaluation,
    FlipTable,
    IndexResult,
    MetricSummary,
    PairResult,
)
from harness.results.vocabulary import HEADLINE
from harness.statistics.bootstrap import MIN_PATIENTS

_UNDEFINED_SHARE = 0.01  # from which the undefined are named: a gate's usual bound
_FLOORS = {"jitter": "noise alone leaves", "replicate": "a second training with another seed leaves"}
_IDENTITY = "soft_iou"  # 1 where two maps are the same but for their scale, and nowhere else
_MILDEST_FLOOR = (
    "Noise is the mildest floor: trainings that differ by their seed alone move maps, too, and by how much only "
    "replicates tell."
)


@dataclass(frozen=True)
class Fact:
    """One aspect of a finding; `term` is the key of its definition."""

    label: str
    term: str
    text: str


@dataclass(frozen=True)
class Finding:
    """What a report says first about a pair."""

    pair: PairResult
    level: Level
    index: IndexResult | None
    sentence: str
    facts: list[Fact]


def findings(result: Evaluation, summaries: Summaries) -> list[Finding]:
    """One finding per pair."""
    return [_finding(result, summaries, pair) for pair in result.pairs]


def overall(found: Sequence[Finding]) -> str:
    """One sentence about all pairs together."""
    if len(found) == 1 and found[0].level is SAME_MODEL:
        return "Nothing was compared: before and after are the same model."
    if len(found) == 1:
        return f"{found[0].level.words} between two checkpoints."
    counts = Counter(finding.level for finding in found)
    parts = [f"{counts[level]} {_of_level(level)}" for level in sorted(counts, key=_place)]
    return f"{len(found)} pairs of checkpoints: {', '.join(parts)}."


def lowest(found: Sequence[Finding]) -> str:
    """Which of several pairs drifted most; empty where that is not known."""
    judged = [(one.index.value, one.pair.name) for one in found if one.index and one.index.value is not None]
    if len(judged) < 2:
        return ""
    value, name = min(judged)
    return f"The lowest stability index is {number(value, 2)}: {name}."


def _place(level: Level) -> tuple[bool, int]:
    """Pairs that are one model or one map first, then the most drifted, then what was not judged."""
    return level.key != "same", -level.order


def _of_level(level: Level) -> str:
    words = {SAME_MODEL: "of a model with itself", UNKNOWN: "not judged"}
    return words.get(level, f"with {level.words[:1].lower()}{level.words[1:]}")


def _finding(result: Evaluation, summaries: Summaries, pair: PairResult) -> Finding:
    same = _sameness(result, pair)
    if same:
        return Finding(pair, SAME_MODEL, None, f"Before and after are {same}: nothing was compared.", [])
    if _identical_maps(result, summaries, pair):
        sentence = (
            f"The maps before and after are identical in each of the {count(pair.selected, 'compared image')}, under "
            "every method and at every layer."
        )
        return Finding(pair, SAME_MAPS, None, sentence, [*_warned(result, pair), _accuracy(result, pair)])
    item = summaries.get(pair, result.layers[0], result.methods[0], HEADLINE)
    index = item.index if item else None
    facts = [
        *_warned(result, pair),
        _accuracy(result, pair),
        *_answers(pair),
        _worst_class(result, summaries, pair),
        _vanished(result, summaries, pair),
        *_methods(result, summaries, pair),
        *_undefined(result, summaries, pair),
    ]
    level = level_of(index, pair.floor)
    sentence = " ".join([_sentence(result, pair, item), *_what_is_shown(level, index, pair)])
    return Finding(pair, level, index, sentence, facts)


def _identical_maps(result: Evaluation, summaries: Summaries, pair: PairResult) -> bool:
    """True where every compared image has the same maps before and after, up to their scale."""
    items = [summaries.get(pair, layer, method, _IDENTITY) for layer in result.layers for method in result.methods]
    return all(item is not None and item.n > 0 and item.estimate.mean == 1 and not item.vanished for item in items)


def _what_is_shown(level: Level, index: IndexResult | None, pair: PairResult) -> Iterator[str]:
    """What has to stand beside the words: what could not have been shown, or which floor it is."""
    without = power_beside(level, index)
    if without:
        yield f"{without}."
    elif level is not UNKNOWN and pair.floor == "jitter":
        yield _MILDEST_FLOOR


def _sameness(result: Evaluation, pair: PairResult) -> str | None:
    """In what before and after are the same model; None where they are not."""
    return sameness(result.by_key[pair.before], result.by_key[pair.after])


def warning_lines(result: Evaluation) -> list[str]:
    """One warning per pair of a model with itself, as after a download that failed, and per caution."""
    found = [(pair.name, _sameness(result, pair)) for pair in result.pairs]
    same = [f"WARNING: {name}: before and after are {same}: nothing was compared" for name, same in found if same]
    return same + [f"WARNING: {text}" for text in cautions(result)]


def _warned(result: Evaluation, pair: PairResult) -> Iterator[Fact]:
    """That a checkpoint of the pair is not shown to classify at all, or was trained to keep its maps."""
    for key in (pair.before, pair.after):
        for text in at_chance(result.by_key[key], result.majority):
            yield Fact("Warning", "accuracy", f"{key}: {text}.")
        for text in trained_to_stay(result.by_key[key], result):
            yield Fact("Trained to", "preserved", f"{key}: {text}.")


def _sentence(result: Evaluation, pair: PairResult, item: MetricSummary | None) -> str:
    if not pair.selected:
        return "No image was compared: the selection is empty, so nothing is known about the evidence."
    if item is None or item.estimate.mean is None:
        return f"None of the {count(pair.selected, 'compared image')} has two maps to compare; see what is undefined."
    multilabel = result.checkpoints[0].metadata.score_kind == "multilabel"
    what, many = ("pair of image and label", "pairs of image and label") if multilabel else ("image", "images")
    lead = (
        f"On {count(item.n, what, many)} of {count(item.n_patients, 'patient')} the most important fifth of the "
        f"picture overlaps with where it was by an IoU of {with_span(item.estimate)}"
    )
    return f"{lead}{_references(pair, item)}. {_index(item.index)}"


def _references(pair: PairResult, item: MetricSummary) -> str:
    parts = []
    if item.floor is not None and item.floor.mean is not None and pair.floor:
        parts.append(f"{_FLOORS[pair.floor]} {number(item.floor.mean)}")
    if item.chance is not None and item.chance.mean is not None:
        parts.append(f"unrelated images of the same class give {number(item.chance.mean)}")
    return f"; {', '.join(parts)}" if parts else ""


def _index(index: IndexResult | None) -> str:
    if index is None:
        return "Without both floor and chance there is no index, and so no verdict."
    if index.value is None:
        return f"There is no index: {reason_sentence(index.reason or 'undefined')}."
    return f"Between chance (0) and floor (1) the overlap stands at {with_span(index, 2)}."


def _accuracy(result: Evaluation, pair: PairResult) -> Fact:
    change, agree = pair.change.get("accuracy"), pair.agreement
    if change is None:
        text = "The images have no labels, so accuracy is not known."
    else:
        after = result.by_key[pair.after].quality.get("accuracy")
        text = f"{_changed(change)}{f', to {number(after.mean)}' if after else ''}.{_equal(pair.equivalence)}"
    return Fact("Accuracy", "accuracy", f"{text} The predictions agree on {percent(agree.mean)} of the images.")


def _answers(pair: PairResult) -> Iterator[Fact]:
    """How many answers flipped, and in how many images the evidence moved behind the same answer."""
    flips = pair.flips
    if flips is None or not flips.n:
        return
    text = f"{count(flips.flipped, 'answer')} of {flips.n} flipped"
    if flips.negative_flip_rate is not None:
        text += f", {flips.negative} of them from right to wrong (rate {with_span(flips.negative_flip_rate)})"
    yield Fact("Answers", "flips", f"{text}. {_unseen(flips.tables[0]) if flips.tables else ''}".strip())


def _unseen(item: FlipTable) -> str:
    known = item.same_still + item.same_moved
    if item.threshold is None:
        return "Without noise to compare with it is not known in which images the evidence moved."
    if not known:
        return (
            f"Noise alone leaves no overlap in 5 % of the comparisons under {item.method}, so it is not known in which "
            "images the evidence moved."
        )
    return (
        f"Behind the same answer the evidence moved in {item.same_moved} of {known} images "
        f"({with_span(item.moved_unseen_rate)}) under {item.method}: more than in 95 % of the comparisons with noise."
    )


def _changed(change: Estimate) -> str:
    if change.mean is None:
        return "Not known"
    if change.low is None or change.high is None:
        why = reason_sentence(change.reason or "undefined")
        return f"{signed(100 * change.mean, 1)} points, without an interval ({why})"
    ends = f"({span(100 * change.low, 100 * change.high, 1)})"
    if change.low > 0:
        return f"Rose by {points(change.mean)} {ends}"
    if change.high < 0:
        return f"Fell by {points(change.mean)} {ends}"
    return f"No demonstrable change: {signed(100 * change.mean, 1)} points {ends}"


def _equal(tests: Sequence[Equivalence]) -> str:
    test = next((test for test in tests if test.of == "accuracy"), None)
    if test is None or not test.equivalent:
        return ""
    return f" Equal within {100 * test.margin:g} points."


@dataclass(frozen=True)
class _Judged:
    """A summary whose index has an interval."""

    name: str
    item: MetricSummary
    index: IndexResult
    value: float
    low: float
    high: float

    def below(self, other: _Judged) -> bool:
        """True where the whole interval lies below that of the other."""
        return self.high < other.low


def _judged(named: Iterable[tuple[str, MetricSummary | None]]) -> list[_Judged]:
    """Those that have an index with its interval, the lowest first."""
    found = [
        _Judged(name, item, item.index, item.index.value, item.index.low, item.index.high)
        for name, item in named
        if item is not None
        and item.index is not None
        and item.index.value is not None
        and item.index.low is not None
        and item.index.high is not None
    ]
    return sorted(found, key=lambda one: one.value)


def _by_method(result: Evaluation, summaries: Summaries, pair: PairResult) -> list[tuple[str, MetricSummary | None]]:
    """The headline at the first layer under each method."""
    return [(method, summaries.get(pair, result.layers[0], method, HEADLINE)) for method in result.methods]


def _worst_class(result: Evaluation, summaries: Summaries, pair: PairResult) -> Fact:
    """The class of the lowest index, and whether its interval lies apart from that of the highest."""
    headline = (pair, result.layers[0], result.methods[0], HEADLINE)
    known = _judged((name, summaries.get(*headline, scope=name)) for name in result.classes)
    if len(known) < 2:
        return Fact("For whom", "index", "Not known by class: fewer than two classes have an index with an interval.")
    worst, best = known[0], known[-1]
    verb = "less stable than" if worst.below(best) else "not demonstrably worse than"
    text = (
        f"Lowest for {worst.name}: index {with_span(worst.index, 2)} on {count(worst.item.n, 'image')}; "
        f"{verb} {best.name}, {with_span(best.index, 2)}."
    )
    unknown = len(result.classes) - len(known)
    return Fact("For whom", "index", text + (f" {count(unknown, 'class', 'classes')} not judged." if unknown else ""))


def _vanished(result: Evaluation, summaries: Summaries, pair: PairResult) -> Fact:
    """Under which methods evidence vanished, the worst first."""
    items = [
        (summaries.get(pair, layer, method, HEADLINE), f"{method} at {layer}" if len(result.layers) > 1 else method)
        for layer in result.layers
        for method in result.methods
    ]
    if not any(item and item.n for item, _ in items):
        return Fact("Vanished", "vanished", "Not known: no image has a map before and after.")
    there = [(item.vanished, name) for item, name in items if item and item.vanished]
    if not there:
        return Fact("Vanished", "vanished", "In no image did the evidence vanish altogether.")
    parts = [
        f"{percent(images / pair.selected)} of those compared under {name} ({images} of {pair.selected})"
        for images, name in sorted(there, reverse=True)
    ]
    return Fact("Vanished", "vanished", f"Evidence is there on one side only in {', '.join(parts)}.")


def _methods(result: Evaluation, summaries: Summaries, pair: PairResult) -> Iterator[Fact]:
    """Whether the CAM methods tell the same story at the first layer."""
    if len(result.methods) < 2:
        return
    known = _judged(_by_method(result, summaries, pair))
    if len(known) < 2:
        yield Fact("Methods", "index", "Fewer than two methods have an index, so they cannot be compared.")
        return
    text = f"{_disagreement(known)} {_each_says(known, pair.floor)}"
    yield Fact("Methods", "index", text)
    words = {one.name: level_of(one.index, pair.floor).words.lower() for one in known}
    agreed = agreement({name: words[name] for name in result.methods if name in words}, result.vocabulary)
    if agreed:
        yield Fact("Paradigms", "paradigm", agreed)


def _each_says(known: Sequence[_Judged], floor: str | None) -> str:
    """The words of all methods where they are the same, else of the lowest and of the highest index."""
    lowest, highest = known[0], known[-1]
    words = [level_of(one.index, floor).words.lower() for one in known]
    if len(set(words)) == 1:
        return (
            f"All say {words[0]}: the index runs from {number(lowest.value, 2)} ({lowest.name}) "
            f"to {number(highest.value, 2)} ({highest.name})."
        )
    return (
        f"{lowest.name}: {words[0]}, index {with_span(lowest.index, 2)}; "
        f"{highest.name}: {words[-1]}, index {with_span(highest.index, 2)}."
    )


def _disagreement(known: Sequence[_Judged]) -> str:
    """Pairs of methods whose intervals of the index lie apart."""
    apart = [f"{one.name} and {other.name}" for one, other in combinations(known, 2) if one.below(other)]
    if not apart:
        return "The methods do not demonstrably disagree."
    more = f" and {count(len(apart) - 2, 'more pair')}" if len(apart) > 2 else ""
    return f"The methods disagree: intervals lie apart for {'; '.join(apart[:2])}{more}."


def _undefined(result: Evaluation, summaries: Summaries, pair: PairResult) -> Iterator[Fact]:
    """Where more than one in a hundred of the compared images has no value of the headline metric."""
    parts = []
    for method in result.methods:
        item = summaries.get(pair, result.layers[0], method, HEADLINE)
        missing = sum(item.undefined.values()) if item else 0
        if missing > _UNDEFINED_SHARE * pair.selected:
            parts.append(f"{missing} of {pair.selected} under {method}")
    if parts:
        yield Fact("Undefined", "undefined", f"No value for {', '.join(parts)}; they are in no mean.")
    if 0 < pair.selected_patients < MIN_PATIENTS:
        yield Fact(
            "Few patients", "interval", f"Only {count(pair.selected_patients, 'patient')}: no interval, no verdict."
        )

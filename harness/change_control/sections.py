"""What the document says, section by section.

The order is that of a predetermined change control plan: description of modifications, modification protocol (data
management, re-training, performance evaluation, update procedures), impact assessment. Source: FDA, Marketing
Submission Recommendations for a Predetermined Change Control Plan for Artificial Intelligence-Enabled Device Software
Functions, final guidance, December 2024.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.change_control.commit import Commit
from harness.change_control.traced import (
    BASELINE,
    POLICY,
    RESULT,
    Row,
    Section,
    Table,
    pair_pointer,
    pointer_of,
)
from harness.common.formatting import DASH, count, number, percent, signed, span
from harness.gate.judge import title
from harness.gate.policy import Policy, Rule
from harness.gate.verdict import Case, Verdict
from harness.models.metadata import GraphMetadata
from harness.report import causal, nulls
from harness.report.findings import findings
from harness.report.glossary import definitions, method_key, reason_sentence
from harness.report.summaries import Summaries, with_span
from harness.results.pseudonyms import without_home
from harness.results.schema import ALL, CheckpointResult, Estimate, Evaluation, IndexResult, MetricSummary, PairResult
from harness.results.vocabulary import HEADLINE
from harness.statistics.power import smallest_shown_drop

MODES = {
    "surely-good": "the bad end of the 95 % interval keeps it",
    "point": "the value keeps it",
    "surely-bad": "the good end of the 95 % interval keeps it",
}
SELECTIONS = {
    "true-positive": "images that both checkpoints classify correctly",
    "agree": "images about which both checkpoints agree",
    "all": "all images",
}
_METRICS = (HEADLINE, "centroid_shift", "spearman", "gini_change", "area50_change")  # beside those of the policy
_WORDS = (
    "index", "chance", "floor", "interval", "vanished", "undefined", "auc", "ece", "agreement", "equivalence", "flips",
    "inside",
)  # fmt: skip
_ABOUT_MODEL = {
    "phase": "phase", "weights_digest": "digest of the weights", "data_digest": "digest of the training data",
    "image_rule": "image rule", "preprocessing": "preprocessing", "input_size": "input size",
    "score_kind": "score kind", "explained": "explained score", "thresholds": "decision thresholds",
    "classes": "classes", "tools": "tools", "seed": "seed", "git_commit": "commit of the training",
}  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """Everything that the document is made of."""

    result: Evaluation
    policy: Policy
    verdict: Verdict
    commit: Commit
    baseline: Evaluation | None


def sections(judged: Judged) -> list[Section]:
    """All sections but the list of files."""
    return [
        _modifications(judged.result),
        Section("2", "Modification protocol"),
        _data(judged.result),
        _training(judged.result),
        _criteria(judged),
        _update(judged.result),
        Section("3", "Impact assessment", _of_impact()),
        _verdict(judged),
        _evidence(judged),
        _predictions(judged.result),
        _answers(judged.result),
        *_more(judged.result),
        _not_shown(judged),
    ]


def _modifications(result: Evaluation) -> Section:
    pairs = [pair for pair in result.pairs if pair.kind == "drift"] or result.pairs
    sentences = [
        f"{pair.architecture}: the checkpoint {pair.after} in place of {pair.before}"
        + (f" (replicate {pair.replicate} of its phase)." if pair.replicate else ".")
        for pair in pairs
    ]
    tables = [_changed(result, pair) for pair in pairs]
    return Section("1", "Description of modifications", sentences, tables)


def _changed(result: Evaluation, pair: PairResult) -> Table:
    before, after = result.by_key[pair.before], result.by_key[pair.after]
    keys = list(result.by_key)
    source = f"{RESULT}/checkpoints/{keys.index(pair.before)}, {RESULT}/checkpoints/{keys.index(pair.after)}"
    rows = [
        Row((what, one, other), source, one != other)
        for what, one, other in zip(_properties(), _described(before), _described(after), strict=True)
    ]
    return Table(
        f"{pair.name}: what the exported graphs say; what differs is marked", ["property", "before", "after"], rows
    )


def _properties() -> list[str]:
    return ["file", "sha256 of the file", *_ABOUT_MODEL.values(), "CAM layers"]


def _described(item: CheckpointResult) -> list[str]:
    content = item.metadata.model_dump(mode="json")
    layers = ", ".join(f"{layer.label} = {layer.name}" for layer in item.metadata.layers)
    values = [content[name] if name != "image_rule" else _rule(item.metadata) for name in _ABOUT_MODEL]
    return [item.file, item.digest, *map(_text, values), layers]


def _rule(metadata: GraphMetadata) -> str:
    return f"{metadata.rule.label}: {metadata.pixels}"


def _text(value: object) -> str:
    if value in (None, "", [], {}):
        return "not recorded"
    return value if isinstance(value, str) else without_home(json.dumps(value, ensure_ascii=False))


def _data(result: Evaluation) -> Section:
    rows = [
        Row(("data set", result.data + (f", split {result.split}" if result.split else "")), f"{RESULT}/data"),
        Row(("digest of names, classes, patients and contents", result.data_digest), f"{RESULT}/data_digest"),
        Row(("images", f"{result.images}"), f"{RESULT}/images"),
        Row(("patients", f"{result.patients}"), f"{RESULT}/patients"),
        Row(("images that could not be read", f"{len(result.unreadable)}"), f"{RESULT}/unreadable"),
        Row(("classes", ", ".join(result.classes)), f"{RESULT}/classes"),
        Row(("compared", SELECTIONS.get(result.selection, result.selection)), f"{RESULT}/selection"),
        *(
            Row(
                (f"region {one.name}", f"{one.images} images, {one.source}, sha256 {one.digest}"),
                f"{RESULT}/regions/{n}",
            )
            for n, one in enumerate(result.regions)
        ),
    ]  # fmt: skip
    compared = [
        Row((pair.name, scope, str(item.n), str(item.n_patients)), f"{pair_pointer(result, pair.name)}/metrics/{place}")
        for pair in result.pairs
        for scope in (ALL, *result.classes)
        for place, item in [_first(pair, result, scope)]
        if item is not None
    ]
    tables = [
        Table("The images of the evaluation", ["what", "value"], rows),
        Table(f"Compared images with a value of {HEADLINE}", ["pair", "class", "images", "patients"], compared),
    ]
    sentences = [
        "Images and patients are counted, not named. Whether none of them was trained on follows from the digests only "
        "where the training's own record is at hand."
    ]
    return Section("2.1", "Data management: the images of the evaluation", sentences, tables, level=3)


def _first(pair: PairResult, result: Evaluation, scope: str) -> tuple[int, MetricSummary | None]:
    """The headline at the first layer under the first method, and its place."""
    wanted = (result.layers[0], result.methods[0], HEADLINE, scope)
    for place, item in enumerate(pair.metrics):
        if (item.layer, item.method, item.metric, item.scope) == wanted:
            return place, item
    return -1, None


def _training(result: Evaluation) -> Section:
    sentences = [
        "What the exported graphs record of the training stands in section 1: phase, digest of the training data, "
        "seed, tools, commit. The training's configuration, its validation and its history are not part of this "
        "document; they belong to the run directory that the digest of the weights leads to."
    ]
    replicates = {item.replicate for item in result.checkpoints}
    if len(replicates) > 1:
        sentences.append(f"{len(replicates)} trainings of the same kind (replicates) were evaluated.")
    return Section("2.2", "Re-training", sentences, level=3)


def _criteria(judged: Judged) -> Section:
    policy, commit = judged.policy, judged.commit
    began = str(judged.result.environment["began"])
    sentences = [
        f"The criteria were committed as {commit.digest} at {_iso(commit)}; the first picture of the evaluation was "
        f"explained at {began} or later. A criterion is met where {MODES['surely-good']}, unless it says otherwise.",
    ]
    if policy.derived_from:
        sentences.append(
            f"Their bounds were derived from another evaluation (sha256 {policy.derived_from})."
            + (" It is the baseline of this document." if _is_derived_from_baseline(judged) else "")
        )
    rules = [
        Row(
            (str(n), title(rule), rule.pair or "all pairs", rule.scope, _bounds(rule), MODES[rule.mode], rule.severity),
            f"{POLICY}/rule/{n - 1}",
        )
        for n, rule in enumerate(policy.rule, 1)
    ]
    headers = ["rule", "criterion", "pair", "class", "bound", "is met where", "if not met"]
    required = [
        Row((what, _required(value)), f"{POLICY}/requirements")
        for what, value in policy.requirements.model_dump().items()
    ]
    tables = [
        Table("Acceptance criteria", headers, rules),
        Table("What is required before any of them is judged", ["requirement", "value"], required),
    ]
    return Section("2.3", "Performance evaluation: acceptance criteria, fixed beforehand", sentences, tables, level=3)


def _is_derived_from_baseline(judged: Judged) -> bool:
    record = judged.verdict.record
    return bool(record and record.baseline and record.baseline.sha256 == judged.policy.derived_from)


def _required(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else f"{value:g}"


def _bounds(rule: Rule) -> str:
    parts = [
        f"at least {rule.min:g}" if rule.min is not None else "",
        f"at most {rule.max:g}" if rule.max is not None else "",
    ]
    if rule.max_worsening is not None:
        parts.append(f"at most {rule.max_worsening:g} worse than the baseline")
    if rule.max_relative_worsening is not None:
        parts.append(f"at most {percent(rule.max_relative_worsening)} worse than the baseline")
    return ", ".join(filter(None, parts))


def _iso(commit: Commit) -> str:
    return commit.time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _update(result: Evaluation) -> Section:
    after = [result.by_key[pair.after] for pair in result.pairs]
    known = ", ".join(dict.fromkeys(f"{item.file} (sha256 {item.digest})" for item in after))
    sentences = [
        f"What was evaluated, and nothing else, is to be installed: {known}. python -m harness pack and verify check "
        "on the target machine that this file shows the same evidence there; python -m harness monitor compares the "
        "pictures that come in with an accepted evaluation every night. Neither is part of this document."
    ]
    return Section("2.4", "Update procedures", sentences, level=3)


def _of_impact() -> list[str]:
    return [
        "What the modification did to answers and evidence, as measured. Which benefits and risks follow from it for "
        "patients is for the manufacturer to assess; this document supplies the numbers."
    ]


def _verdict(judged: Judged) -> Section:
    verdict = judged.verdict
    rows = [_case(judged, case) for case in verdict.cases]
    headers = ["rule", "criterion", "pair", "class", "outcome", "found (95 %)", "bound", "why"]
    table = Table("Every criterion at every pair and class", headers, rows)
    counts = ", ".join(f"{n} {outcome}" for outcome, n in verdict.counts.items())
    sentences = [f"Outcome: {verdict.outcome} ({counts})."]
    return Section("3.1", "Acceptance criteria: outcomes", sentences, [table], verdict.warnings, level=3)


def _case(judged: Judged, case: Case) -> Row:
    ends = span(case.low, case.high, 4)
    value = number(case.value, 4) + (f" ({ends})" if ends else "") + (f", {case.floor} floor" if case.floor else "")
    cells = (
        str(case.rule) if case.rule else DASH, case.title, case.pair or DASH, case.scope, case.outcome, value,
        case.bound or DASH, case.message,
    )  # fmt: skip
    if not case.rule:
        return Row(cells, RESULT, case.outcome != "pass")
    rule = judged.policy.rule[case.rule - 1]
    against = f", {BASELINE}" if rule.needs_baseline and judged.baseline is not None else ""
    source = f"{pointer_of(judged.result, rule, case)}, {POLICY}/rule/{case.rule - 1}{against}"
    return Row(cells, source, case.outcome != "pass")


def _evidence(judged: Judged) -> Section:
    result = judged.result
    found = findings(result, Summaries(result))
    sentences = [f"{one.pair.name}: {one.level.words}. {one.sentence}" for one in found]
    metrics = _shown_metrics(judged)
    rows = [
        _metric(pair, place, item, result)
        for pair in result.pairs
        for place, item in enumerate(pair.metrics)
        if item.metric in metrics and (item.scope == ALL or item.metric == HEADLINE)
    ]
    headers = ["pair", "layer, method", "metric", "class", "mean (95 %)", "chance", "floor", "index (95 %)",
               "drop shown with 80 % power", "images", "patients", "undefined"]  # fmt: skip
    caption = "How far the evidence moved (index 1: no more than noise or a change of seed; 0: as unrelated images)"
    return Section("3.2", "Evidence", sentences, [Table(caption, headers, rows)], level=3)


def _metric(pair: PairResult, place: int, item: MetricSummary, result: Evaluation) -> Row:
    index = item.index
    cells = (
        pair.name, f"{item.layer}, {item.method}", item.metric, item.scope, with_span(item.estimate),
        number(item.chance.mean if item.chance else None), number(item.floor.mean if item.floor else None),
        with_span(index, 2) if index else DASH, _drop(index),
        str(item.n), str(item.n_patients), str(sum(item.undefined.values())),
    )  # fmt: skip
    return Row(cells, f"{pair_pointer(result, pair.name)}/metrics/{place}")


def _drop(index: IndexResult | None) -> str:
    """The smallest drop that as many patients would have shown; none where not even that to unrelated images."""
    if index is None or index.low is None or index.high is None:
        return DASH
    drop = smallest_shown_drop(index.low, index.high)
    return number(drop, 2) if drop < 1 else "none"


def _interval(item: Estimate) -> str:
    return span(item.low, item.high) or (item.reason or DASH)


def _predictions(result: Evaluation) -> Section:
    keys = list(result.by_key)
    qualities = [
        Row((key, name, with_span(one)), f"{RESULT}/checkpoints/{keys.index(key)}/quality/{name}")
        for key, item in result.by_key.items()
        for name, one in item.quality.items()
    ]
    changes, tests = [], []
    for pair in result.pairs:
        where = pair_pointer(result, pair.name)
        changes.append(Row((pair.name, "agreement", with_span(pair.agreement)), f"{where}/agreement"))
        for name, one in pair.change.items():
            value = f"{signed(one.mean)} ({span(one.low, one.high) or one.reason or DASH})"
            changes.append(Row((pair.name, f"change of {name}", value), f"{where}/change/{name}"))
        tests += [_equivalence(pair, n, f"{where}/equivalence/{n}") for n in range(len(pair.equivalence))]
    tables = [
        Table("Quality of each checkpoint", ["checkpoint", "statistic", "value (95 %)"], qualities),
        Table("From before to after", ["pair", "statistic", "value (95 %)"], changes),
        Table(
            "Equivalence, by two one-sided tests at 5 %: shown where the 90 % interval lies within the margin",
            ["pair", "statistic", "difference (90 %)", "margin", "equivalence"],
            tests,
        ),
    ]
    return Section("3.3", "Predictions", [], [table for table in tables if table.rows], level=3)


def _equivalence(pair: PairResult, place: int, where: str) -> Row:
    test = pair.equivalence[place]
    ends = span(test.low90, test.high90) or test.reason or DASH
    shown = "shown" if test.equivalent else "not shown"
    return Row((pair.name, test.of, f"{signed(test.difference)} ({ends})", number(test.margin), shown), where)


def _answers(result: Evaluation) -> Section:
    rows, behind = [], []
    for pair in result.pairs:
        if pair.flips is None:
            continue
        where, flips = f"{pair_pointer(result, pair.name)}/flips", pair.flips
        rate = flips.negative_flip_rate
        rows.append(Row(
            (pair.name, str(flips.n), str(flips.flipped), _known(flips.negative), _known(flips.positive),
             number(rate.mean if rate else None), _interval(rate) if rate else DASH), where,
        ))  # fmt: skip
        behind += [
            Row((pair.name, f"{item.layer}, {item.method}", str(item.same_still), str(item.same_moved),
                 str(item.flipped_still), str(item.flipped_moved), str(item.unknown),
                 with_span(item.moved_unseen_rate)), f"{where}/tables/{n}")
            for n, item in enumerate(flips.tables)
        ]  # fmt: skip
    heads = ["pair", "images", "flipped", "right to wrong", "wrong to right", "rate of right to wrong", "95 %"]
    tables = [
        Table("Answers that changed", heads, rows),
        Table(
            "Answers against evidence: moved is more than 95 % of the comparisons with noise",
            ["pair", "layer, method", "same answer, still", "same, moved", "flipped, still", "flipped, moved",
             "not known", "moved behind the same answer (95 %)"],
            behind,
        ),
    ]  # fmt: skip
    return Section("3.4", "Flips", [], [table for table in tables if table.rows], level=3)


def _known(value: int | None) -> str:
    return DASH if value is None else str(value)


def _more(result: Evaluation) -> Iterator[Section]:
    """Regions, causes and nulls, where they were asked for."""
    number_of = 5
    regions = _regions(result)
    if regions.rows:
        yield Section(f"3.{number_of}", "Evidence inside of regions", [], [regions], level=3)
        number_of += 1
    scopes = [f"causal/{n}/scopes/{m}" for n, item in enumerate(result.causal) for m in range(len(item.scopes))]
    ladder = [f"nulls/{n}" for n in range(len(result.nulls))]
    for name, note, heads, found, places in (
        ("Is the evidence that moved used?", causal.NOTE, causal.HEADERS, causal.rows(result, classes=True), scopes),
        ("Beside networks that know nothing", nulls.NOTE, nulls.HEADERS, nulls.rows(result), ladder),
    ):
        if found:
            made = [Row(tuple(row), f"{RESULT}/{place}") for row, place in zip(found, places, strict=True)]
            table = Table(name, heads, made)
            yield Section(f"3.{number_of}", name, [f"{note}."], [table], level=3)
            number_of += 1


def _regions(result: Evaluation) -> Table:
    rows = [
        Row((pair.name, item.region, f"{item.layer}, {item.method}", number(item.before.mean), number(item.after.mean),
             signed(item.change.mean), _interval(item.change), number(item.area.mean), str(item.n),
             str(item.n_patients)),
            f"{pair_pointer(result, pair.name)}/regions/{n}")
        for pair in result.pairs
        for n, item in enumerate(pair.regions)
    ]  # fmt: skip
    heads = [
        "pair",
        "region",
        "layer, method",
        "inside before",
        "after",
        "change",
        "95 %",
        "area",
        "images",
        "patients",
    ]
    return Table("Shares of the map", heads, rows)


def _not_shown(judged: Judged) -> Section:
    return Section("4", "What was not shown", [], [], list(_gaps(judged)))


def words(judged: Judged) -> Section:
    """What the document's words mean, for whoever reads it alone."""
    result = judged.result
    known = definitions(result.methods, result.vocabulary)
    used = [
        *_WORDS,
        *(name.removesuffix("_change") for name in _shown_metrics(judged)),
        *map(method_key, result.methods),
    ]
    rows = [Row((known[key].title, known[key].text, known[key].source)) for key in dict.fromkeys(used) if key in known]
    return Section("6", "Definitions", [], [Table("Words, metrics and methods", ["word", "meaning", "source"], rows)])


def _shown_metrics(judged: Judged) -> list[str]:
    """Those of the policy, then the usual ones."""
    return list(dict.fromkeys([*(rule.metric for rule in judged.policy.rule), *_METRICS]))


def _gaps(judged: Judged) -> Iterator[str]:
    """One sentence each: what this result leaves open, then what no result of this kind shows."""
    result = judged.result
    yield from _unjudged(judged.verdict.cases)
    yield from _of_options(result)
    yield from _undefined(result)
    if judged.policy.derived_from and not _is_derived_from_baseline(judged):
        yield (
            "The policy was derived from an evaluation that was not given as baseline, so that it was not one of the "
            "same checkpoints was not checked."
        )
    yield (
        "Other evaluations of these checkpoints, whose results were not kept, cannot be excluded; nor a clock or a git "
        "history that was set back: times are those that the machines recorded."
    )
    yield (
        "Subgroups other than the classes (age, sex, site, scanner) were not compared, and labels were taken as they "
        "are."
    )
    yield (
        "An attribution map shows where a score is sensitive, not why an answer is right; where the evidence should "
        "lie is a reader's decision. Nothing here is clinical performance."
    )


def _unjudged(cases: Sequence[Case]) -> Iterator[str]:
    for case in cases:
        if case.outcome in ("error", "skipped"):
            yield f"Rule {case.rule} ({case.title}, {case.scope}) could not be judged: {case.message}."


def _of_options(result: Evaluation) -> Iterator[str]:
    if any(pair.floor == "jitter" for pair in result.pairs):
        yield (
            "The floor is noise on the picture, the mildest: how far trainings that differ by their seed alone move "
            "the evidence was not measured."
        )
    if any(pair.floor is None for pair in result.pairs):
        yield "Without a floor there is no index, so how much of the change is noise was not measured."
    if not result.regions:
        yield "No region was given: whether the evidence lies in the lungs, or on a marker, was not measured."
    if not result.causal:
        yield "Whether evidence that moved is used by the model was not tested (no causal check)."
    if not result.nulls:
        yield "Whether the methods would notice a network that knows nothing was not tested on this model (no nulls)."
    if result.unreadable:
        yield f"{count(len(result.unreadable), 'image')} could not be read and are in no number."


def _undefined(result: Evaluation) -> Iterator[str]:
    """Where the headline has no index or no interval, and for how many images it is undefined."""
    for pair in result.pairs:
        without: dict[tuple[str, str, str], list[str]] = {}
        for item in (one for one in pair.metrics if one.metric == HEADLINE):
            missing = sum(item.undefined.values())
            if item.index is not None and item.index.low is None:
                reason = item.index.reason or item.estimate.reason or "undefined"
                without.setdefault((item.layer, item.method, reason), []).append(item.scope)
            if missing and item.scope == ALL:
                reasons = ", ".join(f"{n}: {reason_sentence(reason)}" for reason, n in item.undefined.items())
                where = f"{pair.name}, {item.method} at {item.layer}"
                yield f"{where}: {HEADLINE} is undefined for {count(missing, 'image')} ({reasons})."
        for (layer, method, reason), scopes in without.items():
            where = f"{pair.name}, {method} at {layer}"
            yield f"{where}: no interval of the index for {', '.join(scopes)} ({reason_sentence(reason)})."

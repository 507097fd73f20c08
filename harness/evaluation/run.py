"""An evaluation as a recipe: read the images, open the folder, explain, score, summarise.

Only the parts that make a run resumable are written here; the caller writes and draws the result that is returned.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from harness.common.errors import CannotEvaluateError, InputError, warn
from harness.common.progress import Announce, Counter, Progress, quiet, silent
from harness.common.provenance import stamp, utc_now
from harness.common.storage import Location
from harness.evaluation.announce import Cost, costs_of_methods
from harness.evaluation.causal import CausalCheck
from harness.evaluation.compare_architectures import ArchitectureComparison
from harness.evaluation.estimate import Estimate, disk, head_of, measure, work_of
from harness.evaluation.executors import Executor, LocalExecutor
from harness.evaluation.explain import Batching, Block, Request, blocks, noise_blocks
from harness.evaluation.jobs import Explaining, Hashing, Scoring
from harness.evaluation.nulls import NullLadder, require_nulls
from harness.evaluation.occlusion import Occlusion
from harness.evaluation.regions import RegionReading
from harness.evaluation.score import Scorer
from harness.evaluation.summarise import Summary
from harness.images import notices
from harness.images.dataset import Records, Sample, data_digest, read_dataset
from harness.images.regions import RegionFiles, Regions
from harness.models.metadata import layer_labels, sameness
from harness.models.providers import gpu_model
from harness.results import folder as result_folder
from harness.results import part_files
from harness.results.file_names import PLAN
from harness.results.image_table import copy_image_table, write_image_table
from harness.results.options import Selection
from harness.results.part_files import Store
from harness.results.plan import Plan, StoredPlan, identity_of, read_stored, regions_details, restore
from harness.results.pseudonyms import portable_command, portable_path, without_home
from harness.results.reader import (
    Predictions,
    Reader,
    labels_of,
    noise_parts,
    read_collected,
    tasks,
    with_noise,
)
from harness.results.schema import CheckpointResult, Evaluation, PairResult, RegionSource
from harness.results.selection import sampled_records
from harness.statistics.bootstrap import RESAMPLES


@dataclass(frozen=True)
class Execution:
    """Where and with what an evaluation runs. But for the provider it changes no number.

    command: what the result names as the command that made it
    """

    out: Location
    batching: Batching = field(default_factory=Batching)
    provider: str = "cpu"
    resume: bool = False
    resamples: int = RESAMPLES
    executor: Executor = field(default_factory=LocalExecutor)
    progress: Progress = silent
    announce: Announce = quiet
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finished:
    """A finished evaluation: its numbers, and the reader of the maps and scores behind them."""

    result: Evaluation
    reader: Reader


class Clock:
    """Seconds spent in the parts of an evaluation."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._started = time.perf_counter()

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time that the block takes to `name`."""
        started = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - started)

    def add(self, name: str, seconds: float) -> None:
        """Add time that was measured elsewhere."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def read(self) -> dict[str, float]:
        """Seconds by part, and the total so far."""
        total = time.perf_counter() - self._started
        return {name: round(value, 3) for name, value in {**self._seconds, "total": total}.items()}


def evaluate(plan: Plan, execution: Execution) -> Finished:
    """Carry out the plan; predictions, maps and scores are in `execution.out`.

    :raises InputError: bad input; what is finished is kept.
    :raises CannotEvaluateError: the provider is not there, no image can be read, or none is selected.
    """
    clock = Clock()
    executor = execution.executor
    _warn_of_same_models(plan)
    require_nulls([plan.by_key[pair.after].graph for pair in plan.drifts], plan.nulls)
    data = plan.data
    samples = _samples(plan)
    select = selection_of(plan, samples)
    Regions(data.regions, samples)  # refuses what cannot be used before any work
    executor.require_visible([path for path in (data.source, data.root, data.labels) if path is not None])
    digest = data_digest(samples, _content_digests(samples, executor))
    stored = StoredPlan(plan, select, digest, len(samples), plan.options.seed, execution.provider, {}, utc_now())
    folder = Store(execution.out, labels_of(stored))
    _costs_announced(plan, samples, execution)
    first = _explaining(stored, 0, folder, execution)
    stored = replace(stored, provider_options=executor.begin(first))
    result_folder.begin(execution.out, identity_of(stored), stored.details(execution.out), execution.resume)
    stored = replace(stored, began=read_stored(execution.out).get("began", ""))  # of a resumed run the first time
    write_image_table(execution.out, samples)
    if execution.resume and data.regions:
        result_folder.keep_data(execution.out, regions_details(execution.out, data.regions))
    executor.require_visible([execution.out / PLAN])
    with result_folder.kept(execution.out):
        last = _explain(stored, samples, folder, execution, clock, first)
        del first  # its session may hold much memory
        reader = _reader(stored, samples, folder, execution)
        _explain_noise(stored, reader, execution, clock, last)
        return _score_and_summarise(stored, reader, execution, clock)


def _costs_announced(plan: Plan, samples: list[Sample], execution: Execution) -> list[Cost]:
    costs = costs_of_methods(plan, samples, execution.provider, execution.batching.threads)
    for cost in costs:
        execution.announce(str(cost))
    return costs


def _samples(plan: Plan) -> list[Sample]:
    data, multilabel = plan.data, plan.score_kind == "multilabel"
    return read_dataset(data.source, plan.classes, data.root, data.split, multilabel, data.columns, warn, data.labels)


def estimate(plan: Plan, execution: Execution) -> Estimate:
    """What `evaluate` would do with the plan, and about how long it would take; writes nothing in `execution.out`.

    :raises InputError, CannotEvaluateError: as `evaluate`, or what there is in `execution.out` cannot be resumed.
    """
    samples = _samples(plan)
    select = selection_of(plan, samples)
    stored = StoredPlan(plan, select, "", len(samples), plan.options.seed, execution.provider, {})
    measured = measure(
        plan,
        samples,
        execution.executor.batching(execution.batching),
        lambda number, into: _explaining(stored, number, into, execution),
    )
    work = work_of(plan, samples, measured, _costs_announced(plan, samples, execution))
    kept = _kept(stored, samples, execution) if execution.resume else None
    return Estimate(head_of(plan, samples, select), work, disk(plan, measured, work), kept)


def _kept(stored: StoredPlan, samples: list[Sample], execution: Execution) -> dict[str, tuple[int, int]]:
    """Kind of parts -> (those that a resumed run would keep, all); raises InputError where it would be refused."""
    stored = replace(stored, data_digest=data_digest(samples, _content_digests(samples, execution.executor)))
    result_folder.require_resumable(execution.out, identity_of(stored))
    labels, folder = labels_of(stored), Store(execution.out)
    numbers = {kind: labels.numbers(kind) for kind in part_files.SCHEMAS}
    return {kind: (len(every) - len(folder.missing(kind, every)), len(every)) for kind, every in numbers.items()}


def evaluate_again(
    source: Location, changes: Mapping[str, Any], execution: Execution, regions: RegionFiles | None = None
) -> Finished:
    """Everything after the maps once more, without a model, from the maps in the result folder `source`.

    :param changes: options that shall differ from those of `source`.
    :param regions: masks and boxes in place of those of `source`.
    :raises InputError: the folder holds no whole set of maps, or what is asked for is not among them.
    """
    clock = Clock()
    stored, samples = restore(read_stored(source), source)
    stored = _with_regions(_changed(stored, changes), regions)
    Regions(stored.plan.data.regions, samples)
    _warn_of_same_models(stored.plan)
    selection_of(stored.plan, samples)  # refuses true positives of images without labels
    labels = labels_of(stored)
    for kind in ("predictions", "maps"):  # before anything is begun, and where the parts lie
        Store(source, labels).require_own(kind, labels.numbers(kind))
    if execution.out.resolve() != source.resolve():
        result_folder.begin(execution.out, identity_of(stored), stored.details(execution.out), resume=False)
        part_files.copy_parts(source, execution.out)
        copy_image_table(source, execution.out)
    elif regions:
        result_folder.keep_data(source, regions_details(source, regions))
    folder = Store(execution.out, labels)
    execution.executor.require_visible([execution.out / PLAN])
    with result_folder.kept(execution.out):
        return _score_and_summarise(stored, _reader(stored, samples, folder, execution), execution, clock)


def _with_regions(stored: StoredPlan, regions: RegionFiles | None) -> StoredPlan:
    if not regions:
        return stored
    return replace(stored, plan=replace(stored.plan, data=replace(stored.plan.data, regions=regions)))


def selection_of(plan: Plan, samples: list[Sample]) -> Selection:
    """Which images are compared, by default those that both checkpoints classify correctly.

    :raises InputError: a selection or a plan that needs labels, without labels.
    """
    if all(sample.labels is not None for sample in samples):
        return plan.options.select or "true-positive"
    if plan.options.select in (None, "true-positive"):
        raise InputError(
            f"{plan.data.source}: has no classes (no column `class`, no class folders, no --labels), so nothing is a "
            "true positive; add them, or compare without: --select agree or --select all"
        )
    if plan.score_kind == "multilabel" or len({pair.architecture for pair in plan.pairs}) > 1:
        raise InputError(
            f"{plan.data.source}: has no classes; several architectures or a multi-label model need a manifest "
            "with the column `class`, since it says what is to be explained"
        )
    return plan.options.select


def _warn_of_same_models(plan: Plan) -> None:
    """Say which pairs compare a model with itself; a replicate that is one measures no floor."""
    for pair in plan.pairs:
        same = sameness(plan.by_key[pair.before].graph, plan.by_key[pair.after].graph)
        if same:
            warn(f"{pair.name}: both checkpoints are {same}: nothing is compared")


def _explaining(stored: StoredPlan, number: int, folder: Store, execution: Execution) -> Explaining:
    plan, select = stored.plan, stored.select
    request = Request(plan.layers, plan.options, select, plan.vocabulary)
    batching = execution.executor.batching(execution.batching)
    return Explaining(plan.checkpoints[number], folder, request, execution.provider, batching)


def _content_digests(samples: list[Sample], executor: Executor) -> list[bytes]:
    """Digests of the images' contents, in their order."""
    executor.begin(Hashing())
    items = [(start, samples[start : start + part_files.BLOCK]) for start in range(0, len(samples), part_files.BLOCK)]
    found = dict(executor.run(items, lambda _: None))
    return [digest for start, _ in items for digest in found[start]]


def _explain(
    stored: StoredPlan, samples: list[Sample], folder: Store, execution: Execution, clock: Clock, first: Explaining
) -> dict[int, Explaining]:
    """Write the parts of predictions and maps that are not there yet.

    Returns the last job that was begun, if any, by the number of its checkpoint.
    """
    last: dict[int, Explaining] = {}
    plan, executor = stored.plan, execution.executor
    records, unreadable = Records.of(samples), dict[str, str]()
    sampled = sampled_records(samples, plan)
    total = len(samples) * len(plan.checkpoints)
    done = Counter(execution.progress, "explain images", total)
    with clock.measure("collect"):
        for number in range(len(plan.checkpoints)):
            parts = dict(
                zip(
                    part_files.parts_of(number, len(samples)),
                    blocks(samples, records, sampled, unreadable),
                    strict=True,
                )
            )
            missing = {part for kind in ("predictions", "maps") for part in folder.missing(kind, parts)}
            todo = [(part, parts[part]) for part in sorted(missing)]
            done.add(len(samples) - sum(len(block.samples) for _, block in todo))
            if todo:
                last = {number: first if number == 0 else _explaining(stored, number, folder, execution)}
                _run(last[number], todo, executor, clock, done)
            if number == 0:  # the classes of images without labels are what the first checkpoint says
                collected = read_collected(folder, plan, samples, 1)
                records, unreadable = collected.records, collected.errors
    return last


def _run(job: Explaining, todo: list[tuple[int, Block]], executor: Executor, clock: Clock, done: Counter) -> None:
    executor.begin(job)
    for seconds in executor.run(todo, done.add):
        clock.add("onnxruntime", seconds)


def _explain_noise(
    stored: StoredPlan, reader: Reader, execution: Execution, clock: Clock, opened: dict[int, Explaining]
) -> None:
    """Write the parts with the maps of noisy copies that are not there yet.

    :param opened: jobs by their checkpoints that need not be prepared again.
    """
    samples, records, folder = reader.collected.samples, reader.collected.records, reader.store
    noise = {number: reader.noise(number) for number, _ in with_noise(stored.plan)}
    counts = [len(np.unique(records.images[found.records])) for found in noise.values()]
    done = Counter(execution.progress, "explain noisy copies", sum(counts))
    with clock.measure("collect"):
        for number in reversed(noise):  # the last checkpoint may still be open
            numbers = noise_parts(stored.plan, number, len(samples))
            parts = dict(zip(numbers, noise_blocks(samples, records, reader.sampled, noise[number]), strict=True))
            todo = [(part, parts[part]) for part in folder.missing("maps", parts)]
            done.add(sum(len(block.samples) for part, block in parts.items() if part not in dict(todo)))
            if todo:
                job = opened.get(number) or _explaining(stored, number, folder, execution)
                _run(job, todo, execution.executor, clock, done)
            opened = {}


def _reader(stored: StoredPlan, samples: list[Sample], folder: Store, execution: Execution) -> Reader:
    """The predictions, and what is compared.

    :raises CannotEvaluateError: no image could be read, or none is selected.
    """
    plan = stored.plan
    collected = read_collected(folder, plan, samples, len(plan.checkpoints))
    _require_images(collected, samples, execution.out)
    for sentence in notices.summary(collected.notices, int(collected.readable.sum())):
        warn(sentence)
    reader = Reader(plan, collected, stored.select, folder, stored.jitter_seed)
    _require_selected(reader, execution.out)
    return reader


def _score_and_summarise(stored: StoredPlan, reader: Reader, execution: Execution, clock: Clock) -> Finished:
    """Scores of the maps that are there, and the numbers made of them."""
    reader.store.keep_scores_of(stored.statistics())
    with clock.measure("compare"):
        _score(reader, execution)
    with clock.measure("summarise"):
        result = _summarise(stored, reader, execution)
    result.seconds = clock.read()
    return Finished(result, reader)


def _require_images(collected: Predictions, samples: list[Sample], out: Location) -> None:
    if not collected.readable.any():
        result_folder.discard(out)
        first = next(iter(collected.errors.values()))
        raise CannotEvaluateError(f"none of the {len(samples)} images could be read; first: {first}")


def _require_selected(reader: Reader, out: Location) -> None:
    """Refuse where no pair has an image to compare, and name the pairs that have none."""
    plan = reader.plan
    empty = [pair.name for pair in plan.drifts if not reader.selections[pair.name].any()]
    images = f"none of the {len(reader.collected.samples)} images"
    what = f"{images} is selected by {reader.select!r}"
    if len(empty) == len(plan.drifts):
        result_folder.end(out)
        if not len(reader.collected.records):
            raise CannotEvaluateError(
                f"{plan.data.source}: {images} has a positive class, so nothing is to be explained"
            )
        raise CannotEvaluateError(
            f"{empty[0]}: {what}; check that the models classify these images, or choose --select agree or all"
        )
    for name in empty:
        warn(f"{name}: {what}; it has no numbers")


def _score(reader: Reader, execution: Execution) -> None:
    """Write the parts of the scores that are not there yet."""
    executor, count = execution.executor, len(tasks(reader.plan))
    parts = [(number, block) for number in range(count) for block in range(len(reader.parts(0)))]
    missing = set(reader.store.missing("scores", range(len(parts))))
    todo = [item for part, item in enumerate(parts) if part in missing]
    done = Counter(execution.progress, "score parts", len(parts))
    done.add(len(parts) - len(todo))
    if todo:
        threads = executor.batching(execution.batching).threads
        executor.begin(Scoring(Scorer(reader, threads)))
        deque(executor.run(todo, done.add), maxlen=0)


def _summarise(stored: StoredPlan, reader: Reader, execution: Execution) -> Evaluation:
    plan, collected, threads = stored.plan, reader.collected, execution.batching.threads
    summary = Summary(reader, execution.resamples, threads)
    done = Counter(execution.progress, "summarise pairs", len(plan.drifts) + 1)
    pairs = []
    for pair in plan.drifts:
        pairs.append(summary.pair(pair))
        done.add()
    pairs, regions = _read_in_regions(reader, summary, pairs, threads)
    study = ArchitectureComparison(reader, summary).result()
    done.add()
    occlusion = Occlusion(reader, stored.provider, execution.batching, execution.announce)
    causal = CausalCheck(reader, summary.by_record, summary.scopes, occlusion).results(execution.progress)
    ladder = NullLadder(reader, summary.by_record, stored.provider, execution.batching)
    nulls = ladder.results(execution.progress)
    return Evaluation(
        **_asked(stored),
        command=portable_command(execution.command),
        images=len(collected.samples),
        patients=len({sample.group for sample in collected.samples}),
        unreadable={name: without_home(error) for name, error in collected.errors.items()},
        resamples=execution.resamples,
        majority=summary.classification.majority(),
        regions=regions,
        checkpoints=[_checkpoint(plan, number, summary) for number in range(len(plan.checkpoints))],
        pairs=pairs,
        causal=causal,
        nulls=nulls,
        study=study,
        environment={
            **stamp(),
            "began": stored.began or None,
            "provider": stored.provider,
            "provider_options": stored.provider_options,
            "gpu": gpu_model(),
            "maps": plan.options.maps,
        },
        seconds={},
    )


def _asked(stored: StoredPlan) -> dict[str, Any]:
    """What the plan says about a result."""
    plan, data, options = stored.plan, stored.plan.data, stored.plan.options
    return {
        "data": portable_path(str(data.source)),
        "root": portable_path(str(data.root)) if data.root else None,
        "split": data.split,
        "data_digest": stored.data_digest,
        "classes": plan.classes,
        "selection": stored.select,
        "methods": list(options.methods),
        "registered_metrics": plan.vocabulary.registered_metrics,
        "registered_methods": [item for item in plan.vocabulary.registered_methods if item.name in options.methods],
        "layers": list(plan.layers),
        "map_size": options.map_size,
        "seed": options.seed,
        "jitter_draws": options.jitter,
        "jitter_seed": stored.jitter_seed,
        "chance_draws": options.chance,
        "reference_budget": options.reference_budget if None in (options.jitter, options.chance) else None,
        "margin": options.margin,
        "sample": options.sample if plan.methods_of_several_passes else None,
    }


def _read_in_regions(
    reader: Reader, summary: Summary, pairs: list[PairResult], threads: int
) -> tuple[list[PairResult], list[RegionSource]]:
    """The pairs with how much of the evidence lies in each region, and where these come from."""
    regions = Regions(reader.plan.data.regions, reader.collected.samples)
    if not regions.names:
        return pairs, []
    found = RegionReading(reader, regions, threads).summaries(summary.by_record)
    pairs = [pair.model_copy(update={"regions": found[pair.name]}) for pair in pairs]
    return pairs, [_region_source(regions, name) for name in regions.names]


def _region_source(regions: Regions, name: str) -> RegionSource:
    source, images = portable_path(str(regions.source(name))), len(regions.images(name))
    return RegionSource(name=name, source=source, digest=regions.digest(name), images=images)


def _checkpoint(plan: Plan, number: int, summary: Summary) -> CheckpointResult:
    checkpoint = plan.checkpoints[number]
    return CheckpointResult(
        key=checkpoint.key,
        file=portable_path(str(checkpoint.graph.path)),
        digest=checkpoint.graph.digest,
        architecture=checkpoint.architecture,
        phase=checkpoint.phase,
        replicate=checkpoint.replicate,
        metadata=checkpoint.graph.metadata,
        quality=summary.classification.estimates(number),
        consistency=summary.consistency(number),
        conditioning=summary.conditioning(number),
        completeness=summary.completeness(number),
    )


def _changed(stored: StoredPlan, changes: Mapping[str, Any]) -> StoredPlan:
    """The same evaluation with other options; what would need other maps is refused."""
    plan = stored.plan
    names = layer_labels([checkpoint.graph for checkpoint in plan.checkpoints])
    changes = {**changes, "layers": list(dict.fromkeys(names.get(name, name) for name in changes.get("layers", ())))}
    for name, has in (("methods", plan.options.methods), ("layers", plan.layers)):
        strange = [item for item in changes.get(name, ()) if item not in has]
        if strange:
            raise InputError(f"the maps hold no {name[:-1]} {strange[0]!r}; they hold: {', '.join(has)}")
    select = changes.get("select") or stored.select
    _require_noise(stored, changes, select)
    _require_same_sample(plan, changes)
    if changes.get("causal"):
        raise InputError("the causal check runs the models, which --from does without; evaluate anew with --causal")
    layers = tuple(changes.get("layers") or plan.layers)
    options = plan.options.changed(**{**changes, "layers": plan.options.layers, "select": select})
    vocabulary = plan.vocabulary.extended()
    return replace(stored, plan=replace(plan, options=options, layers=layers, vocabulary=vocabulary), select=select)


def _require_noise(stored: StoredPlan, changes: Mapping[str, Any], select: Selection) -> None:
    """Refuse what needs noisy copies that the maps do not hold."""
    held, asked = stored.plan.options.jitter, changes.get("jitter", stored.plan.options.jitter)
    if asked == 0:
        return
    if held is not None and asked is not None and asked > held:
        raise InputError(f"the maps hold {held} draws of jitter; evaluate anew for more")
    if held is None and asked is not None:
        raise InputError(f"the maps hold jitter by budget; evaluate anew with --jitter {asked}")
    if held is not None and select != "true-positive" and stored.select == "true-positive":
        raise InputError(
            f"the maps hold jitter for true positives only; give --jitter 0, or evaluate anew with --select {select}"
        )
    if held is None and select != stored.select:
        raise InputError(
            f"the maps hold jitter by budget, for what {stored.select!r} selects; give --jitter 0, or evaluate anew "
            f"with --select {select}"
        )
    budget = stored.plan.options.reference_budget
    if held is None and changes.get("reference_budget", budget) != budget:
        raise InputError(f"the maps hold jitter for a budget of {budget} images; give --jitter 0, or evaluate anew")


def _require_same_sample(plan: Plan, changes: Mapping[str, Any]) -> None:
    """Refuse another sample of images than the one that methods of several passes were computed on."""
    kept = changes.get("methods") or plan.options.methods
    dear = [name for name in plan.methods_of_several_passes if name in kept]
    for name in ("sample", "seed"):
        drawn = getattr(plan.options, name)
        if dear and changes.get(name, drawn) != drawn:
            raise InputError(
                f"the maps of {dear[0]} are of a sample that was drawn with --{name} {drawn}; evaluate anew for "
                "another, or name the methods without it"
            )

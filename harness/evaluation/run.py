"""What `python -m harness evaluate` does: collect, compare, summarise, write."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from harness.common import storage
from harness.common.errors import CannotEvaluateError, InputError
from harness.common.provenance import stamp
from harness.common.storage import Place, write_bytes
from harness.evaluation.architectures import Across
from harness.evaluation.executors import Engine, Local
from harness.evaluation.explain import Running, Wanted, blocks
from harness.evaluation.jobs import Explaining, Hashing, Scoring
from harness.evaluation.score import Comparer
from harness.evaluation.summarise import Summary
from harness.images import notices
from harness.images.dataset import Records, Sample, data_digest, read_dataset
from harness.models.metadata import layer_labels
from harness.models.providers import gpu_model
from harness.report.contact_sheet import draw_sheet
from harness.report.html import write_report
from harness.report.text_tables import markdown
from harness.results import folder as result_folder
from harness.results import layout, part_files
from harness.results.layout import SHEET
from harness.results.part_files import Store
from harness.results.plan import Plan, Selection, Stored, identity_of, read_stored, restore
from harness.results.pseudonyms import names_of, without_home
from harness.results.reader import Collected, read_collected, tasks
from harness.results.schema import CheckpointResult, Evaluation
from harness.statistics.bootstrap import RESAMPLES


@dataclass(frozen=True)
class Execution:
    """Where and with what an evaluation runs. But for the provider it changes no number."""

    out: Place
    running: Running = field(default_factory=Running)
    provider: str = "cpu"
    resume: bool = False
    quiet: bool = False
    resamples: int = RESAMPLES
    show_names: bool = False  # of images and patients, in report and contact sheet
    engine: Engine = field(default_factory=Local)


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


def evaluate(plan: Plan, execution: Execution) -> Evaluation:
    """Run the plan and write its result into `execution.out`.

    :raises InputError: bad input; what is finished is kept.
    :raises CannotEvaluateError: the provider is not there, no image can be read, or none is selected.
    """
    clock = Clock()
    multilabel = plan.score_kind == "multilabel"
    data = plan.data
    samples = read_dataset(data.source, plan.classes, data.root, data.split, multilabel, data.columns, _warn)
    select, engine = selection_of(plan, samples), execution.engine
    engine.require_visible([place for place in (plan.data.source, plan.data.root) if place is not None])
    first = _explaining(plan, 0, select, execution)
    providers = engine.begin(first)
    digest = data_digest(samples, _content_digests(samples, engine))
    stored = Stored(plan, select, digest, len(samples), plan.options.seed, execution.provider, providers)
    folder = result_folder.begin(execution.out, identity_of(stored), stored.details(), execution.resume)
    engine.require_visible([execution.out / layout.PLAN])
    with result_folder.kept(execution.out):
        _collect(stored, samples, folder, execution, clock, first)
        del first
        return _finish(stored, samples, folder, execution, clock)


def evaluate_again(source: Place, changes: Mapping[str, Any], execution: Execution) -> Evaluation:
    """Everything after the maps once more, without a model, from the maps in the result folder `source`.

    :param changes: options that shall differ from those of `source`.
    :raises InputError: the folder holds no whole set of maps, or what is asked for is not among them.
    """
    clock = Clock()
    stored, samples = restore(read_stored(source), source)
    stored = _changed(stored, changes)
    selection_of(stored.plan, samples)  # refuses true positives of images without labels
    folder = Store(execution.out)
    if execution.out.resolve() != source.resolve():
        folder = result_folder.begin(execution.out, identity_of(stored), stored.details(), resume=False)
        part_files.copy_parts(source, execution.out)
    execution.engine.require_visible([execution.out / layout.PLAN])
    with result_folder.kept(execution.out):
        return _finish(stored, samples, folder, execution, clock)


def selection_of(plan: Plan, samples: list[Sample]) -> Selection:
    """Which images are compared, by default those that both checkpoints classify correctly.

    :raises InputError: a selection or a plan that needs labels, without labels.
    """
    if all(sample.labels is not None for sample in samples):
        return plan.options.select or "true-positive"
    if plan.options.select in (None, "true-positive"):
        raise InputError(
            f"{plan.data.source}: has no classes (no column `class`, no class folders), so nothing is a true positive; "
            "add them, or compare without: --select agree or --select all"
        )
    if plan.score_kind == "multilabel" or len({pair.architecture for pair in plan.pairs}) > 1:
        raise InputError(
            f"{plan.data.source}: has no classes; several architectures or a multi-label model need a manifest "
            "with the column `class`, since it says what is to be explained"
        )
    return plan.options.select


def _explaining(plan: Plan, number: int, select: Selection, execution: Execution) -> Explaining:
    wanted, running = Wanted(plan.layers, plan.options, select), execution.engine.running(execution.running)
    return Explaining(plan.checkpoints[number], Store(execution.out), wanted, execution.provider, running)


def _content_digests(samples: list[Sample], engine: Engine) -> list[bytes]:
    """Digests of the images' contents, in their order."""
    engine.begin(Hashing())
    items = [(start, samples[start : start + part_files.BLOCK]) for start in range(0, len(samples), part_files.BLOCK)]
    found = dict(engine.run(items, lambda _: None))
    return [digest for start, _ in items for digest in found[start]]


def _collect(
    stored: Stored, samples: list[Sample], folder: Store, execution: Execution, clock: Clock, first: Explaining
) -> None:
    """Write the parts of predictions and maps that are not there yet."""
    plan, engine = stored.plan, execution.engine
    records, unreadable = Records.of(samples), dict[str, str]()
    total = len(samples) * len(plan.checkpoints)
    with clock.measure("collect"), _bar(total, "image", "explain", execution.quiet) as bar:
        for number in range(len(plan.checkpoints)):
            parts = dict(
                zip(part_files.parts_of(number, len(samples)), blocks(samples, records, unreadable), strict=True)
            )
            todo = [(part, parts[part]) for part in folder.missing("predictions", parts)]
            bar.update(len(samples) - sum(len(block.samples) for _, block in todo))
            if todo:
                engine.begin(first if number == 0 else _explaining(plan, number, stored.select, execution))
                for seconds in engine.run(todo, bar.update):
                    clock.add("onnxruntime", seconds)
            if number == 0:  # the classes of images without labels are what the first checkpoint says
                collected = read_collected(folder, plan, samples, 1)
                records, unreadable = collected.records, collected.errors


def _finish(stored: Stored, samples: list[Sample], folder: Store, execution: Execution, clock: Clock) -> Evaluation:
    """Scores, numbers, files."""
    plan, threads = stored.plan, execution.running.threads
    collected = read_collected(folder, plan, samples, len(plan.checkpoints))
    _require_images(collected, samples, execution.out)
    for sentence in notices.summary(collected.notices, int(collected.readable.sum())):
        _warn(sentence)
    comparer = Comparer(plan, collected, stored.select, folder, threads)
    _require_selected(plan, comparer, stored.select, samples, execution.out)
    folder.keep_scores_of(stored.statistics())
    with clock.measure("compare"):
        _compare(plan, comparer, folder, execution)
    with clock.measure("summarise"):
        result = _summarise(stored, collected, comparer, execution)
    with clock.measure("draw"):
        _draw(comparer, execution)
    result.seconds = clock.read()
    storage.write_whole(execution.out / "report.md", markdown(result))
    result.write(execution.out)
    write_report(execution.out, execution.show_names)
    folder.sweep()
    return result


def _require_images(collected: Collected, samples: list[Sample], out: Place) -> None:
    if not collected.readable.any():
        result_folder.discard(out)
        first = next(iter(collected.errors.values()))
        raise CannotEvaluateError(f"none of the {len(samples)} images could be read; first: {first}")


def _require_selected(plan: Plan, comparer: Comparer, select: Selection, samples: list[Sample], out: Place) -> None:
    """Refuse where no pair has an image to compare, and name the pairs that have none."""
    empty = [pair.name for pair in plan.drifts if not comparer.selections[pair.name].any()]
    what = f"none of the {len(samples)} images is selected by {select!r}"
    if len(empty) == len(plan.drifts):
        result_folder.end(out)
        if not len(comparer.collected.records):
            unlabelled = f"none of the {len(samples)} images has a positive class, so nothing is to be explained"
            raise CannotEvaluateError(f"{plan.data.source}: {unlabelled}")
        raise CannotEvaluateError(
            f"{empty[0]}: {what}; check that the models classify these images, or choose --select agree or all"
        )
    for name in empty:
        _warn(f"{name}: {what}; it has no numbers")


def _warn(sentence: str) -> None:
    print(f"warning: {sentence}", file=sys.stderr)


def _compare(plan: Plan, comparer: Comparer, folder: Store, execution: Execution) -> None:
    """Write the parts of the scores that are not there yet."""
    engine, places = execution.engine, range(comparer.blocks)
    parts = [(number, block) for number in range(len(tasks(plan))) for block in places]
    missing = set(folder.missing("scores", range(len(parts))))
    todo = [item for part, item in enumerate(parts) if part in missing]
    threads = engine.running(execution.running).threads
    with _bar(len(parts), "part", "compare", execution.quiet) as bar:
        bar.update(len(parts) - len(todo))
        if todo:
            engine.begin(Scoring(Comparer(plan, comparer.collected, comparer.select, folder, threads)))
            deque(engine.run(todo, bar.update), maxlen=0)


def _summarise(stored: Stored, collected: Collected, comparer: Comparer, execution: Execution) -> Evaluation:
    plan, threads = stored.plan, execution.running.threads
    summary = Summary(plan, collected, comparer, execution.resamples)
    with _bar(len(plan.drifts) + 1, "pair", "summarise", execution.quiet) as bar:
        pairs = []
        for pair in plan.drifts:
            pairs.append(summary.pair(pair, threads))
            bar.update()
        study = Across(plan, comparer, summary).result(threads)
        bar.update()
    return Evaluation(
        **_asked(stored),
        images=len(collected.samples),
        patients=len({sample.group for sample in collected.samples}),
        unreadable={name: without_home(error) for name, error in collected.errors.items()},
        resamples=execution.resamples,
        checkpoints=[_checkpoint(plan, number, summary, threads) for number in range(len(plan.checkpoints))],
        pairs=pairs,
        study=study,
        environment={
            **stamp(),
            "provider": stored.provider,
            "provider_options": stored.provider_options,
            "gpu": gpu_model(),
            "maps": plan.options.maps,
        },
        seconds={},
    )


def _asked(stored: Stored) -> dict[str, Any]:
    """What the plan says about a result."""
    plan, data, options = stored.plan, stored.plan.data, stored.plan.options
    return {
        "command": ["python", "-m", "harness", *(without_home(word) for word in sys.argv[1:] if word != "--resume")],
        "data": without_home(str(data.source)),
        "root": without_home(str(data.root)) if data.root else None,
        "split": data.split,
        "data_digest": stored.data_digest,
        "classes": plan.classes,
        "selection": stored.select,
        "methods": list(options.methods),
        "layers": list(plan.layers),
        "map_size": options.map_size,
        "seed": options.seed,
        "jitter_draws": options.jitter,
        "jitter_seed": stored.jitter_seed,
        "chance_draws": options.chance,
        "margin": options.margin,
    }


def _checkpoint(plan: Plan, number: int, summary: Summary, threads: int) -> CheckpointResult:
    checkpoint = plan.checkpoints[number]
    return CheckpointResult(
        key=checkpoint.key,
        file=without_home(str(checkpoint.graph.path)),
        digest=checkpoint.graph.digest,
        architecture=checkpoint.architecture,
        phase=checkpoint.phase,
        replicate=checkpoint.replicate,
        metadata=checkpoint.graph.metadata,
        quality=summary.classification.estimates(number),
        consistency=summary.consistency(number, threads),
    )


def _changed(stored: Stored, changes: Mapping[str, Any]) -> Stored:
    """The same evaluation with other options; what would need other maps is refused."""
    plan = stored.plan
    names = layer_labels([checkpoint.graph for checkpoint in plan.checkpoints])
    changes = {**changes, "layers": list(dict.fromkeys(names.get(name, name) for name in changes.get("layers", ())))}
    for name, has in (("methods", plan.options.methods), ("layers", plan.layers)):
        strange = [item for item in changes.get(name, ()) if item not in has]
        if strange:
            raise InputError(f"the maps hold no {name[:-1]} {strange[0]!r}; they hold: {', '.join(has)}")
    if changes.get("jitter", 0) > plan.options.jitter:
        raise InputError(f"the maps hold {plan.options.jitter} draws of jitter; evaluate anew for more")
    select = changes.get("select") or stored.select
    if select != "true-positive" and stored.select == "true-positive" and changes.get("jitter", plan.options.jitter):
        raise InputError(
            f"the maps hold jitter for true positives only; give --jitter 0, or evaluate anew with --select {select}"
        )
    layers = tuple(changes.get("layers") or plan.layers)
    options = replace(plan.options, **{**changes, "layers": plan.options.layers, "select": select})
    return replace(stored, plan=replace(plan, options=options, layers=layers), select=select)


def _draw(comparer: Comparer, execution: Execution) -> None:
    """The contact sheet, or the sentence why there is none."""
    with TemporaryDirectory() as here:
        drawn = Path(here) / SHEET
        try:
            draw_sheet(comparer, drawn, names_of(execution.out, execution.show_names))
        except InputError as error:
            if not execution.quiet:
                print(f"no contact sheet: {error}", file=sys.stderr)
        if drawn.is_file():
            write_bytes(execution.out / SHEET, drawn.read_bytes())
        else:
            (execution.out / SHEET).unlink(missing_ok=True)


def _bar(total: int, unit: str, what: str, quiet: bool) -> tqdm:
    """Progress with rate and time left on stderr; into a log file a line every ten seconds at most."""
    interval = 0.1 if sys.stderr.isatty() else 10
    return tqdm(total=total, unit=unit, desc=what, disable=quiet, file=sys.stderr, mininterval=interval)

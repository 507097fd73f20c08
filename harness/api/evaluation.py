"""Evaluating drift: from two graphs, a study file or stored maps to a result folder and its `Result`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, TypeVar

from harness.api.data import as_manifest
from harness.api.executor import open_executor
from harness.api.progress import announcer, shown
from harness.api.result import Result
from harness.api.write import write
from harness.common.cpus import available_cpus
from harness.common.errors import InputError
from harness.common.progress import Progress
from harness.common.storage import Location, as_location
from harness.evaluation import demonstration, run
from harness.evaluation.estimate import Estimate
from harness.evaluation.executors import WorkerPool
from harness.evaluation.explain import Batching
from harness.evaluation.study_file import ArchitectureConfig, make_plan, read_study
from harness.images.containers import MAX_PIXELS
from harness.images.regions import RegionFiles
from harness.results import folder as result_folder
from harness.results.options import Options
from harness.results.plan import Data, Plan
from harness.statistics.bootstrap import RESAMPLES

Found = TypeVar("Found")
_IN_MEMORY = "data"  # sub-folder of a temporary result folder, or beside a given one


@dataclass(frozen=True)
class Settings:
    """Where and with what an evaluation runs. But for the provider it changes no number.

    out: result folder; None: a temporary one, which lasts as long as the `Result`
    provider: execution providers of ONNX Runtime, such as `cpu`, `cuda`, `tensorrt,cuda`
    batch: images per call; None: 4 on the CPU, on an accelerator what is fastest
    threads: None for as many as the machine has CPUs
    strict: stop at the first unreadable image
    max_pixels: larger pictures are not read
    resume: go on with an interrupted evaluation in `out`
    resamples: draws of the bootstrap
    report: write and draw `report.html`, `report.md` and the contact sheet
    show_names: name images and patients in them, instead of hashes
    progress: callback (step, done, total); None for bars on stderr, False for none
    workers: a pool of Ray workers; None for this process
    command: what the result names as the command that made it
    """

    out: str | os.PathLike[str] | Location | None = None
    provider: str = "cpu"
    batch: int | None = None
    threads: int | None = None
    strict: bool = False
    max_pixels: float = MAX_PIXELS
    resume: bool = False
    resamples: int = RESAMPLES
    report: bool = True
    show_names: bool = False
    progress: Progress | bool | None = None
    workers: WorkerPool | None = None
    command: tuple[str, ...] = ()


def evaluate(
    before: Any = None,
    after: Any = None,
    data: Any = None,
    *,
    checkpoints: Sequence[Any] | None = None,
    root: Any = None,
    split: str | None = None,
    labels: Any = None,
    nulls: Sequence[Any] = (),
    masks: Mapping[str, Any] | None = None,
    boxes: Any = None,
    out: str | os.PathLike[str] | Location | None = None,
    progress: Progress | bool | None = None,
    report: bool = True,
    settings: Settings | None = None,
    **options: Any,
) -> Result:
    """Compare two exported graphs, or several along a training, on images; without arguments the demonstration.

    :param before, after: exported graphs; several `after` are replicates of one phase.
    :param data: a manifest or folder; a table or list in memory (`harness.api.data.as_manifest`).
    :param checkpoints: graphs in the order of a training, instead of `before` and `after`.
    :param labels: a table that names the classes of a folder's images.
    :param nulls: graphs that know nothing, such as `python -m export randomise` makes.
    :param root, split: folder of the manifest's files, and which rows of it.
    :param masks: name of a region -> folder of its masks, which are called like the images.
    :param boxes: table of boxes: the columns file, x, y, w, h, and perhaps region, width, height.
    :param settings: all of `Settings`; `out`, `progress` and `report` are its most used fields.
    :param options: fields of `Options`: methods, layers, select, map_size, seed, jitter, chance,
        reference_budget, margin, maps.
    :raises InputError: what was given cannot be used.
    :raises CannotEvaluateError: the provider is not there, no image can be read, or none is selected.
    """
    settings = settings or Settings(out, progress=progress, report=report)
    made = Options.of(**options)
    given = [value is not None for value in (before, after, checkpoints, data)]
    if not any(given):
        return evaluate_plan(demonstration.plan(made), settings)
    if data is None or (checkpoints is None) == (before is None or after is None):
        raise InputError("give before, after and data, or checkpoints and data, or none of them for the demonstration")
    item = ArchitectureConfig.model_validate(
        {"before": before, "after": _listed(after), "checkpoints": _listed(checkpoints)}
    )
    folder = _Folder(settings)
    source = as_manifest(data, folder.beside)
    regions = region_files(masks, boxes)
    place, table = (None if path is None else as_location(path) for path in (root, labels))
    where = Data(source, place, split, regions=regions, labels=table)
    plan = replace(make_plan([item], where, made), nulls=tuple(as_location(path) for path in nulls))
    return _finish(folder, settings, partial(run.evaluate, plan))


def evaluate_study(study: str | os.PathLike[str] | Location, settings: Settings | None = None) -> Result:
    """Evaluate a study TOML: many architectures, replicates, layers. Raises as `evaluate`."""
    return evaluate_plan(read_study(as_location(study)), settings or Settings())


def region_files(masks: Mapping[str, Any] | None, boxes: Any) -> RegionFiles:
    """Masks and boxes by their paths."""
    folders = {name: as_location(folder) for name, folder in (masks or {}).items()}
    return RegionFiles(folders, None if boxes is None else as_location(boxes))


def evaluate_again(
    source: str | os.PathLike[str] | Location,
    settings: Settings | None = None,
    regions: RegionFiles | None = None,
    **changes: Any,
) -> Result:
    """Everything after the maps once more, from the maps in a result folder and without a model.

    :param regions: masks and boxes in place of those of `source`.
    :param changes: fields of `Options` that shall differ from those of `source`.
    :raises InputError: the folder holds no whole set of maps, or what is asked for is not among them.
    """
    folder = as_location(source)
    settings = settings or Settings(folder)
    return _finish(_Folder(settings, folder), settings, partial(run.evaluate_again, folder, changes, regions=regions))


def estimate_plan(plan: Plan, settings: Settings) -> Estimate:
    """What `evaluate_plan` would do, about how long it would take, and what it would write. Raises as `evaluate`."""
    return _executed(as_location(settings.out or "drift"), settings, partial(run.estimate, plan))


def evaluate_plan(plan: Plan, settings: Settings) -> Result:
    """Carry out a plan that has been made. Raises as `evaluate`."""
    return _finish(_Folder(settings), settings, partial(run.evaluate, plan))


class _Folder:
    """The result folder of an evaluation, and where data from memory go."""

    def __init__(self, settings: Settings, default: Location | None = None) -> None:
        self.temporary: Path | None = None
        if settings.out is None and default is None:
            self.temporary = Path(mkdtemp(prefix="evidence-drift-"))
            self.path: Location = self.temporary / "drift"
        else:
            self.path = as_location(settings.out) if settings.out is not None else default  # type: ignore[assignment]

    @property
    def beside(self) -> Path:
        """A folder for data, next to the result folder."""
        if not isinstance(self.path, Path):
            raise InputError(f"{self.path}: data in memory need a local `out`; write a manifest instead")
        return self.path.with_name(f"{self.path.name}-{_IN_MEMORY}")


def _finish(folder: _Folder, settings: Settings, work: Callable[[run.Execution], run.Finished]) -> Result:
    """Run the work, then write and draw what was asked for; a temporary folder does not outlive a failure."""
    try:
        finished = _executed(folder.path, settings, work)
        with result_folder.kept(folder.path):
            write(finished, folder.path, settings.report, settings.show_names)
    except BaseException:
        if folder.temporary is not None:
            shutil.rmtree(folder.temporary, ignore_errors=True)
        raise
    return Result(finished.result, folder.path, folder.temporary)


def _executed(out: Location, settings: Settings, work: Callable[[run.Execution], Found]) -> Found:
    """Run the work as the settings say."""
    threads = settings.threads or available_cpus()
    batching = Batching(settings.batch, threads, strict=settings.strict, max_pixels=settings.max_pixels)
    with open_executor(settings.workers) as executor, shown(settings.progress) as progress:
        return work(
            run.Execution(
                out=out,
                batching=batching,
                provider=settings.provider,
                resume=settings.resume,
                resamples=settings.resamples,
                executor=executor,
                progress=progress,
                announce=announcer(settings.progress),
                command=settings.command,
            )
        )


def _listed(value: Any) -> Any:
    """Paths as the study file takes them: one, or a list."""
    return list(value) if isinstance(value, (list, tuple)) else value

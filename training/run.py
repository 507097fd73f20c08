"""A run directory: from a configuration to one checkpoint per phase, and on from wherever it was interrupted.

run.json      what was done: the file that the export reads
split.csv     file, class, group, split (split-PHASE.csv for a phase with data of its own)
history.csv   one line per epoch
PHASE.keras   a checkpoint per phase; PHASE.seedN.keras for replicates
report.txt, curves.png, tensorboard/   rendered from the above
state.npz     the unfinished phase; gone when the run is complete
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.common.errors import InputError
from training.config import Config, Data, read_config
from training.dataset_checks import require_sound
from training.events import OF_PRESERVE, write_events
from training.files import write_json, write_text
from training.phase import STATE, PhaseRun, Start
from training.report import table, write_curves
from training.resume_checks import Change, config_changes, data_changes, edited_config, keep_parts, version_changes
from training.run_record import accept, image_rule, new_record, read_record, reconfigure, recorded_config, software
from training.shortcut import shortcuts
from training.state import Progress, unfinished
from training.task import Dataset, Task, prepare, read_dataset

COLUMNS = (
    "phase", "checkpoint", "seed", "epoch", "learning_rate", "train_loss", "train_accuracy",
    "val_loss", "val_accuracy", "val_auc", "seconds_per_1000", "seconds",
)  # fmt: skip
# Without their run.json these would be taken for the new run's.
LEFTOVERS = (STATE, "history.csv", "phantoms-split*")


def fit(config_path: Path, folder: Path, quiet: bool = False) -> Path:
    """Train what the TOML file describes into a new run directory and return it."""
    config = read_config(config_path)
    if (folder / "run.json").exists():
        raise InputError(f"{folder}: holds a run; go on with `python -m training resume {folder}`, or choose --out")
    left = [path.name for pattern in LEFTOVERS for path in folder.glob(pattern)]
    if left:
        raise InputError(f"{folder}: holds {left[0]} of another run; empty it, or choose --out")
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder, config, new_record(config, config_path, folder), quiet)
    run.save()
    return run.train()


def resume(folder: Path, accept_changes: bool = False, quiet: bool = False) -> Path:
    """Go on with an interrupted run; a complete one is left as it is.

    Raises InputError where configuration, versions or images are not what they were, unless `accept_changes`: then
    what is there now is used, run.json records it, and every known patient stays in the part of before.
    """
    record = read_record(folder)
    recorded = recorded_config(record, folder)
    edited = edited_config(record, folder, recorded)
    begun = begun_phases(recorded, record, folder)
    run = Run(folder, edited, record, quiet, begun)
    if not begun:
        record.update(software(run.rule))
    found = config_changes(recorded, edited, begun)
    if not any(change.final for change in found):
        found += run.changes(recorded)
    if found:
        _require_accepted(folder, found, accept_changes)
        if edited is not recorded:
            reconfigure(record, edited, folder)
        run.accept(found)
    return run.train()


def begun_phases(config: Config, record: dict[str, Any], folder: Path) -> list[str]:
    """The phases of which a checkpoint or an unfinished state is there."""
    stems = {*record["phases"], unfinished(folder / STATE)}
    return [name for name in config.phases if any(stem in stems for stem, _ in config.replicates(name))]


def _require_accepted(folder: Path, found: list[Change], accepted: bool) -> None:
    """Refuse what cannot be accepted, or has not been."""
    final = [change.what for change in found if change.final]
    if final:
        raise InputError(
            f"{folder}: what has been trained cannot change under it: {'; '.join(final)}; restore it, "
            "or fit into another folder"
        )
    if not accepted:
        raise InputError(
            f"{folder}: changed since it was begun: {'; '.join(change.what for change in found)}; restore it, or go "
            f"on with `python -m training resume {folder} --accept-changes`, which run.json will say"
        )


class Run:
    """A configuration being carried out in a folder."""

    def __init__(
        self, folder: Path, config: Config, record: dict[str, Any], quiet: bool = False, begun: Sequence[str] = ()
    ) -> None:
        self.base = (folder / record["config_folder"]).resolve()
        self.folder, self.config, self.record, self.quiet = folder, config.located(self.base), record, quiet
        self.rule = image_rule(config, self.base)
        self._begun = {self._key(name) for name in begun if name in config.phases}  # data that was trained on
        self._changed: dict[str, str] = {}  # key -> a phase on it
        self._datasets: dict[str, Dataset] = {}
        self._tasks: dict[str, Task] = {}
        self._rows = [row for row in _read_history(folder) if row["checkpoint"] in record["phases"]]

    def save(self) -> None:
        write_json(self.folder / "run.json", self.record)

    def train(self) -> Path:
        """Run every phase and replicate that the record lacks."""
        for name, stem, seed, previous in self._missing():
            self._train_one(name, stem, seed, previous)
        self._complete()
        return self.folder

    def changes(self, recorded: Config) -> list[Change]:
        """What changed of the versions, and of the images that were trained on and will be again."""
        missing = {self._key(name): name for name, _, _, _ in self._missing()}
        found = version_changes(self.record, self.rule) if missing and self._begun else []
        for key, name in missing.items():
            if key in self._begun:
                was = recorded.data if key == "split" else recorded.phases[name].data or recorded.data
                changes = data_changes(self._split(key), self._dataset(name), self._digest(key), was)
                self._changed |= {key: name} if changes else {}
                found += changes
        return found

    def accept(self, found: list[Change]) -> None:
        """Record changes and go on with what is there now, every known patient in the part of before."""
        if any(change.head for change in found):
            (self.folder / STATE).unlink(missing_ok=True)
        for key, name in self._changed.items():
            self._datasets[key] = keep_parts(self._datasets[key], self._split(key))
            require_sound(self._datasets[key], self._data(name))
            self._datasets[key].write_split(self._split(key))
        accept(self.record, [change.what for change in found], self.rule)
        self.save()

    def _missing(self) -> list[tuple[str, str, int, str | None]]:
        """(phase, stem, seed, phase before it) of every checkpoint that is still to be trained."""
        names = list(self.config.phases)
        return [
            (name, stem, seed, previous)
            for name, previous in zip(names, [None, *names], strict=False)
            for stem, seed in self.config.replicates(name)
            if stem not in self.record["phases"]
        ]

    def _train_one(self, name: str, stem: str, seed: int, previous: str | None) -> None:
        task = self._task(name)
        start = Start(None)
        if previous is not None:
            entry = self.record["phases"][previous]
            same_head = entry["classes"] == list(task.classes) and not self._own(name, previous)
            start = Start(self.folder / entry["checkpoint"], entry["weights_digest"], same_head)
        reference = self._reference(name, task)
        phase = PhaseRun(self.config, name, stem, seed, task, self.folder, self.quiet, self.rule, reference)
        entry = phase.train(start, self._write_history)
        before = [] if previous is None else self.record["phases"][previous].get("preserved", [])
        self.record["phases"][stem] = entry | {"preserved": [*before, *entry["preserved"]]}  # what its weights came by
        self._rows = _read_history(self.folder)
        self.save()

    def _reference(self, name: str, task: Task) -> Start | None:
        """The reference checkpoint of a phase's [preserve]; None where it has none, or masks."""
        preserve = self.config.phases[name].preserve
        if preserve is None or preserve.reference is None:
            return None
        if preserve.is_file:
            return Start(Path(preserve.reference), None)
        entry = self.record["phases"][preserve.reference]
        if entry["classes"] != list(task.classes):
            raise InputError(
                f"phases.{name}.preserve.from: {preserve.reference} has the classes {', '.join(entry['classes'])}, and "
                f"this phase {', '.join(task.classes)}; name a checkpoint that was trained on the same classes"
            )
        return Start(self.folder / entry["checkpoint"], entry["weights_digest"])

    def _own(self, name: str, previous: str) -> bool:
        """Whether the two phases learn from different data: then the head starts anew."""
        return self.config.phases[name].data != self.config.phases[previous].data

    def _data(self, name: str) -> Data:
        return self.config.phases[name].data or self.config.data

    def _key(self, name: str) -> str:
        """What the files of a phase's data are called by: phases on the run's data share theirs."""
        return "split" if self.config.phases[name].data is None else f"split-{name}"

    def _split(self, key: str) -> Path:
        return self.folder / f"{key}.csv"

    def _dataset(self, name: str) -> Dataset:
        """The images of a phase, read once."""
        key = self._key(name)
        if key not in self._datasets:
            dataset = read_dataset(self._data(name), self.base, self.folder, key, self.config.seed)
            accepted = "changes" in self.record
            self._datasets[key] = keep_parts(dataset, self._split(key)) if accepted else dataset
        return self._datasets[key]

    def _task(self, name: str) -> Task:
        """The data of a phase with its pixels; one task at a time is kept."""
        key = self._key(name)
        if key not in self._tasks:
            dataset, size = self._dataset(name), self.config.model.input_size
            if key not in self._begun:
                require_sound(dataset, self._data(name))
            dataset.write_split(self._split(key))
            self._tasks = {key: prepare(dataset, size, self._data(name).cache_gb, self.quiet, self.rule)}
            if key == "split":
                self._describe(dataset)
        return self._tasks[key]

    def _digest(self, key: str) -> str | None:
        """The recorded identity of a data set; None where no phase on it has been finished."""
        finished = [entry for entry in self.record["phases"].values() if self._key(entry["phase"]) == key]
        return finished[-1]["data_digest"] if finished else self.record["data"].get("digest")

    def _describe(self, task: Dataset) -> None:
        self.record["classes"] = list(task.classes)
        self.record["shortcuts"] = shortcuts(task)
        self.record["score"] = "multilabel" if task.multi else "softmax"
        self.record["data"] = task.facts()
        self.save()

    def _write_history(self, progress: Progress) -> None:
        with write_text(self.folder / "history.csv") as stream:
            writer = csv.DictWriter(stream, (*COLUMNS, *OF_PRESERVE))
            writer.writeheader()
            writer.writerows([*self._rows, *progress.rows])

    def _complete(self) -> None:
        rows = _read_history(self.folder)
        with write_text(self.folder / "report.txt") as stream:
            stream.write(table(self.record))
        write_curves(self.folder / "curves.png", rows)
        write_events(self.folder / "tensorboard", rows)
        (self.folder / STATE).unlink(missing_ok=True)
        self.record["status"] = "complete"
        self.save()


def _read_history(folder: Path) -> list[dict[str, Any]]:
    path = folder / "history.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as stream:
        rows = list(csv.DictReader(stream))
    if any(row.get(column) is None for row in rows for column in COLUMNS):
        raise InputError(f"{path}: not as it was written; restore it, or delete it and lose the curves so far")
    return rows

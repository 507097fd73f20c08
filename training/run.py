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
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.images import RULE
from training import backbones
from training.config import Config, read_config
from training.events import write_events
from training.files import write_json, write_text
from training.framework import versions
from training.model import build_classifier, preprocessing, set_trainable
from training.phase import STATE, PhaseRun, Start
from training.report import table, write_curves
from training.shortcut import shortcuts
from training.state import Progress
from training.task import Task, prepare, read_dataset

FORMAT = 1
COLUMNS = (
    "phase", "checkpoint", "seed", "epoch", "learning_rate", "train_loss", "train_accuracy",
    "val_loss", "val_accuracy", "val_auc", "seconds_per_1000", "seconds",
)  # fmt: skip


def fit(config_path: Path, folder: Path) -> Path:
    """Train what the TOML file describes into a new run directory and return it."""
    config = read_config(config_path)
    if (folder / "run.json").exists():
        raise InputError(f"{folder}: holds a run; go on with `python -m training resume {folder}`, or choose --out")
    folder.mkdir(parents=True, exist_ok=True)
    base = config_path.resolve().parent
    run = Run(folder, config, base, _new_record(config, base, folder))
    run.save()
    return run.train()


def resume(folder: Path) -> Path:
    """Go on with an interrupted run; a complete one is left as it is."""
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder}: no run.json; start with `python -m training fit CONFIG.toml`") from None
    except ValueError as error:
        raise InputError(f"{folder / 'run.json'}: not JSON ({error})") from error
    if record.get("format") != FORMAT:
        raise InputError(f"{folder / 'run.json'}: format {record.get('format')!r}; this version reads {FORMAT}")
    base = (folder / record["config_folder"]).resolve()
    return Run(folder, Config.model_validate(record["config"]), base, record).train()


class Run:
    """A configuration being carried out in a folder."""

    def __init__(self, folder: Path, config: Config, base: Path, record: dict[str, Any]) -> None:
        located = config.model_copy(update={"model": config.model.located(base)})
        self.folder, self.config, self.base, self.record = folder, located, base, record
        self._tasks: dict[str, Task] = {}
        self._rows = [row for row in _read_history(folder) if row["checkpoint"] in record["phases"]]

    def save(self) -> None:
        write_json(self.folder / "run.json", self.record)

    def train(self) -> Path:
        """Run every phase and replicate that the record lacks."""
        previous: str | None = None
        for name, phase in self.config.phases.items():
            for number, seed in enumerate(phase.seeds or [self.config.seed]):
                stem = name if number == 0 else f"{name}.seed{seed}"
                if stem not in self.record["phases"]:
                    self._train_one(name, stem, seed, previous)
            previous = name
        self._complete()
        return self.folder

    def _train_one(self, name: str, stem: str, seed: int, previous: str | None) -> None:
        task = self._task(name)
        start = Start(None)
        if previous is not None:
            classes = self.record["phases"][previous]["classes"]
            start = Start(
                self.folder / f"{previous}.keras", classes == list(task.classes) and not self._own(name, previous)
            )
        trained = PhaseRun(self.config, name, stem, seed, task, self.folder).train(start, self._write_history)
        self._rows = _read_history(self.folder)
        self.record["phases"][stem] = trained
        self.save()

    def _own(self, name: str, previous: str) -> bool:
        """Whether the two phases learn from different data: then the head starts anew."""
        return self.config.phases[name].data != self.config.phases[previous].data

    def _task(self, name: str) -> Task:
        """The data of a phase, prepared once: its own, or the run's."""
        own = self.config.phases[name].data
        key = "split" if own is None else f"split-{name}"
        if key not in self._tasks:
            data = own or self.config.data
            dataset = read_dataset(data, self.base, self.folder, key, self.config.seed)
            path = self.folder / f"{key}.csv"
            self._tasks = {key: prepare(dataset, path, self.config.model.input_size, data.cache_gb)}
            if own is None:
                self._describe(self._tasks[key])
        return self._tasks[key]

    def _describe(self, task: Task) -> None:
        self.record["classes"] = list(task.classes)
        self.record["shortcuts"] = shortcuts(task)
        self.record["score"] = "multilabel" if task.multi else "softmax"
        self.record["data"] = task.facts()
        self.save()

    def _write_history(self, progress: Progress) -> None:
        with write_text(self.folder / "history.csv") as stream:
            writer = csv.DictWriter(stream, COLUMNS)
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


def _new_record(config: Config, base: Path, folder: Path) -> dict[str, Any]:
    """All that is known before any training. Building the model once also checks every layer's name."""
    backbone = backbones.find(config.model)
    classifier = build_classifier(config.model.located(base), 2, config.seed)
    for phase in config.phases.values():
        set_trainable(classifier, phase)
    width = f"-{config.model.alpha:g}" if config.model.alpha else ""
    return {
        "format": FORMAT,
        "status": "running",
        "architecture": backbone.name + width,
        "input_size": list(config.model.input_size),
        "classes": [],
        "score": "",
        "preprocessing": preprocessing(classifier),
        "image_rule": RULE,
        "cam_layers": {"last": backbone.last, "penultimate": backbone.penultimate},
        "seed": config.seed,
        "phases": {},
        "data": {},
        "versions": versions(),
        "git_commit": _git_commit(),
        "config_folder": os.path.relpath(base, folder.resolve()),
        "config": config.model_dump(mode="json"),
    }


def _git_commit() -> str | None:
    """The commit of this source tree; None where it is not under git."""
    here = Path(__file__).parent
    try:
        subprocess.run(
            ["git", "ls-files", "--error-unmatch", Path(__file__).name], cwd=here, check=True, capture_output=True
        )
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _read_history(folder: Path) -> list[dict[str, Any]]:
    path = folder / "history.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))

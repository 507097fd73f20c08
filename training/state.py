"""The state of an unfinished phase: all that an epoch's end leaves behind, in one file, replaced as a whole.

Weights, optimiser and early stopping are in it; random numbers are not, because every epoch computes its own from
(seed, phase, epoch).
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.common.errors import InputError
from training.files import replacing
from training.framework import keras

# What numpy, zipfile and json raise about a file that is no state, a cut one, or one with other variables.
DAMAGED = (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile)


@dataclass
class Progress:
    """What has happened in a phase so far. `best_auc` and `best` serve early stopping."""

    stem: str
    epoch: int = 0  # finished epochs
    seconds: float = 0.0
    best_auc: float = -1.0
    best_epoch: int = 0
    reference: str = ""  # identity of what [preserve] holds the evidence to
    rows: list[dict[str, Any]] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)  # checkpoints along the way
    best: list[np.ndarray] | None = None  # the classifier's weights at best_epoch

    def add(self, row: dict[str, Any]) -> None:
        """Count a finished epoch by its line of history.csv."""
        self.epoch = row["epoch"]
        self.seconds += row["seconds"]
        self.rows.append(row)

    def keep_if_best(self, classifier: Any) -> None:
        """Remember the weights where the last epoch's validation macro-AUC is the highest so far."""
        auc = self.rows[-1]["val_auc"]
        if auc > self.best_auc:
            self.best_auc, self.best_epoch, self.best = auc, self.epoch, classifier.get_weights()

    def require_reference(self, digest: str, path: Path) -> None:
        """Raise InputError where the phase was begun with another reference of its evidence than that of `digest`."""
        if self.epoch and self.reference != digest:
            raise InputError(
                f"{path}: {self.stem} was begun with another reference in preserve (its checkpoint, or its masks, "
                "changed); restore it, or delete this file to start the phase again"
            )
        self.reference = digest

    def stopped(self, patience: int | None) -> bool:
        """Whether validation has not improved for `patience` epochs."""
        return patience is not None and self.epoch - self.best_epoch >= patience


def save_state(path: Path, classifier: Any, optimizer: Any, progress: Progress) -> None:
    """Write weights, optimiser variables and progress."""
    facts = {key: value for key, value in asdict(progress).items() if key != "best"}
    arrays: dict[str, Any] = {"facts": np.array(json.dumps(facts))}
    arrays |= _named("weight", map(_numpy, classifier.weights)) | _named("optimizer", map(_numpy, optimizer.variables))
    arrays |= _named("best", progress.best or [])
    with replacing(path) as partial, partial.open("wb") as stream:
        np.savez(stream, **arrays)


def load_state(path: Path, classifier: Any, optimizer: Any, stem: str) -> Progress:
    """Put a saved state back; a fresh Progress where there is none of this phase."""
    if not path.exists():
        return Progress(stem)
    try:
        with path.open("rb") as stream, np.load(stream) as saved:
            progress = Progress(**json.loads(str(saved["facts"])))
            if progress.stem != stem:
                return Progress(stem)
            _assign(classifier.weights, _listed(saved, "weight"))
            _assign(optimizer.variables, _listed(saved, "optimizer"))
            progress.best = _listed(saved, "best") or None
    except DAMAGED as error:
        raise InputError(f"{path}: damaged ({error}); delete it to start the phase {stem} again") from error
    return progress


def unfinished(path: Path) -> str | None:
    """The stem of the phase whose state a file holds; None where there is no such file."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as stream, np.load(stream) as saved:
            return str(json.loads(str(saved["facts"]))["stem"])
    except DAMAGED as error:
        raise InputError(f"{path}: damaged ({error}); delete it to start its phase again") from error


def _numpy(variable: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable)


def _named(prefix: str, arrays: Any) -> dict[str, np.ndarray]:
    return {f"{prefix}{number:05d}": array for number, array in enumerate(arrays)}


def _listed(saved: Any, prefix: str) -> list[np.ndarray]:
    return [saved[name] for name in sorted(saved.files) if name.startswith(prefix)]


def _assign(variables: list[Any], arrays: list[np.ndarray]) -> None:
    if len(variables) != len(arrays):
        raise ValueError(f"{len(arrays)} arrays for {len(variables)} variables")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)

"""The progress bar of a phase, on stderr, and the watch over the loss."""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

from harness.common.errors import CannotEvaluateError
from training.framework import keras


class Bar:
    """Counts the steps of all epochs of a phase, so that the time left is that of the phase."""

    def __init__(self, phase: str, epochs: int, steps: int, done: int, quiet: bool = False) -> None:
        self._phase, self._epochs, self._epoch = phase, epochs, done
        every = 0.2 if sys.stderr.isatty() else 30.0  # seconds between lines; a log file needs fewer
        self._bar = tqdm(
            total=epochs * steps, initial=done * steps, unit="step", desc=phase, mininterval=every, disable=quiet
        )

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()

    def callback(self) -> Steps:
        """For one epoch's fit()."""
        self._epoch += 1
        self._bar.set_description(f"{self._phase} {self._epoch}/{self._epochs}")
        return Steps(self._bar, f"{self._phase}, epoch {self._epoch}")

    def show(self, row: dict[str, Any]) -> None:
        self._bar.set_postfix_str(f"loss {row['train_loss']:.3f}, val AUC {row['val_auc']:.3f}")


class Steps(keras.callbacks.Callback):
    """Moves the bar, stops at a loss that is not finite, and times the steps after the first, which compiles."""

    def __init__(self, bar: Any, place: str) -> None:
        super().__init__()
        self._bar, self._place = bar, place
        self._ends: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._bar.update()
        self._ends.append(time.monotonic())
        if logs and not math.isfinite(float(logs["loss"])):
            raise CannotEvaluateError(
                f"{self._place}, step {batch + 1}: the loss is not finite; lower learning_rate and fit again "
                "(the checkpoints of finished phases are kept)"
            )

    def seconds_per_step(self) -> float:
        """NaN where there was one step only."""
        steps = len(self._ends) - 1
        return (self._ends[-1] - self._ends[0]) / steps if steps else math.nan

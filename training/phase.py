"""One phase of training with one seed: from a start checkpoint to the phase's checkpoint and its metrics."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.common.errors import InputError
from harness.images.rule import GREY, ImageRule
from training import metrics
from training.backbones import load_model
from training.batches import ImageBatches, epoch_key
from training.config import Config, Phase
from training.cost import sentence, step_seconds
from training.feed import EVALUATION_BATCH, Feed, caches, feed_for, predict
from training.files import replacing
from training.framework import keras, several_devices, tf
from training.model import build_classifier, copy_weights, load_backbone_weights, set_trainable, weights_digest
from training.objective import compile_view
from training.preserve import Preservation, preservation_of
from training.preserving_view import PreservingView
from training.progress import Bar
from training.state import Progress, load_state, save_state
from training.task import Task

STATE = "state.npz"


@dataclass(frozen=True)
class Start:
    """Where a phase's weights come from: a checkpoint, or with None the configuration's `model.weights`.

    `digest` is the recorded identity of the checkpoint's weights; None for a file that no run of ours recorded.
    """

    checkpoint: Path | None
    digest: str | None = ""
    same_head: bool = True

    def load(self) -> Any:
        """The checkpoint's model. Raises InputError where its weights are not those that were recorded."""
        assert self.checkpoint is not None
        model = load_model(self.checkpoint)
        if self.digest is not None and weights_digest(model) != self.digest:
            raise InputError(
                f"{self.checkpoint}: its weights are not those that run.json records; restore it, or fit again"
            )
        return model


@dataclass(frozen=True)
class PhaseRun:
    """Everything one phase with one seed needs, gathered once."""

    config: Config
    name: str
    stem: str  # of the checkpoint: the phase's name, with ".seedN" for a replicate
    seed: int
    task: Task
    folder: Path
    quiet: bool = False  # no progress bar
    rule: ImageRule = GREY
    reference: Start | None = None  # of [preserve]

    @property
    def phase(self) -> Phase:
        return self.config.phases[self.name]

    def train(self, start: Start, on_epoch: Callable[[Progress], None]) -> dict[str, Any]:
        """Run the phase, or the rest of it, and return its record for `run.json`."""
        try:
            return self._train(start, on_epoch)
        except tf.errors.OpError as error:
            if self.task.pixels.complaint:  # an exception in a batch reaches us as an operator's failure
                raise InputError(f"{self.stem}: {self.task.pixels.complaint}") from error
            raise

    def _train(self, start: Start, on_epoch: Callable[[Progress], None]) -> dict[str, Any]:
        classifier = self._classifier(start)
        with several_devices():
            preservation = self._preservation(classifier)
            feed = feed_for(classifier, self.phase, self.task, preservation)
            compile_view(feed.view, self.phase, self._steps(), self.task.multi)
        progress = load_state(self.folder / STATE, classifier, feed.view.optimizer, self.stem)
        preserved = [] if preservation is None else self._begin_preserving(feed, preservation, progress)
        self._epochs(classifier, feed, progress, on_epoch)
        if progress.best is not None:
            classifier.set_weights(progress.best)
        return self._finish(classifier, progress) | {"preserved": preserved}

    def _preservation(self, classifier: Any) -> Preservation | None:
        """What [preserve] of the phase holds the evidence to."""
        reference = None if self.reference is None else self.reference.load()
        return preservation_of(classifier, self.phase, self.config.model, self.task, self.rule, reference)

    def _begin_preserving(self, feed: Feed, preservation: Preservation, progress: Progress) -> list[dict[str, Any]]:
        """The facts for `run.json`; nothing where the weight is 0. Tells what a step costs."""
        progress.require_reference(preservation.references.digest, self.folder / STATE)
        if not isinstance(feed.view, PreservingView):
            return []
        order = self.task.indices("train")[: self.phase.batch_size]
        cost = step_seconds(feed.view, feed.epoch(order, epoch_key(self.seed, self.name, 0))[0])
        if cost and not self.quiet:
            print(sentence(self.stem, cost, self._steps()), file=sys.stderr)
        return [{"checkpoint": self.stem, **preservation.facts(), "step_seconds": cost}]

    def _classifier(self, start: Start) -> Any:
        classifier = self._fresh(self.config.precision)
        if self.quiet:
            keras.config.disable_interactive_logging()  # the bar of a download, on stdout
        if start.checkpoint is None:
            load_backbone_weights(classifier, self.config.model)
        else:
            copy_weights(start.load(), classifier, () if start.same_head else ("logits",))
        set_trainable(classifier, self.phase)
        return classifier

    def _fresh(self, precision: str) -> Any:
        return build_classifier(self.config.model, len(self.task.classes), self.seed, precision)

    def _steps(self) -> int:
        return -(-len(self.task.indices("train")) // self.phase.batch_size)

    def _epochs(self, classifier: Any, feed: Feed, progress: Progress, on_epoch: Callable[[Progress], None]) -> None:
        phase = self.phase
        with Bar(self.stem, phase.epochs, self._steps(), progress.epoch, self.quiet) as bar:
            while progress.epoch < phase.epochs and not progress.stopped(phase.early_stopping):
                progress.add(self._one_epoch(feed, progress.epoch, bar))
                if phase.early_stopping is not None:
                    progress.keep_if_best(classifier)
                self._keep_along(classifier, progress)
                save_state(self.folder / STATE, classifier, feed.view.optimizer, progress)
                on_epoch(progress)

    def _one_epoch(self, feed: Feed, done: int, bar: Bar) -> dict[str, Any]:
        """Train one epoch after `done` finished ones; its line of history.csv."""
        started = time.monotonic()
        key = epoch_key(self.seed, self.name, done)
        order = np.random.default_rng(key).permutation(self.task.indices("train"))
        reseed(feed.view, key)
        steps = bar.callback()
        logs = feed.view.fit(feed.epoch(order, key), verbose=0, shuffle=False, callbacks=[steps]).history
        row: dict[str, Any] = {"phase": self.name, "checkpoint": self.stem, "seed": self.seed, "epoch": done + 1}
        row["learning_rate"] = float(keras.ops.convert_to_numpy(feed.view.optimizer.learning_rate))
        row["train_loss"] = logs.get("cross_entropy", logs["loss"])[-1]
        row["train_accuracy"] = logs["accuracy"][-1]
        row |= self._validation(feed)
        row |= {"train_preserve": logs["preserve"][-1]} if "preserve" in logs else {}
        row |= {} if feed.measure is None else {"val_preserve": feed.measure.mean()}
        row["seconds_per_1000"] = 1000 / self.phase.batch_size * steps.seconds_per_step()
        row["seconds"] = time.monotonic() - started
        bar.show(row)
        return row

    def _validation(self, feed: Feed) -> dict[str, float]:
        indices, multi = self.task.indices("validation"), self.task.multi
        logits, targets = predict(feed.view, feed.plain(indices)), self.task.targets[indices]
        return {
            "val_loss": metrics.loss(logits, targets, multi),
            "val_accuracy": float(metrics.correct(logits, targets, multi).mean()),
            "val_auc": float(metrics.macro_auc(metrics.probabilities(logits, multi), targets)[0]),
        }

    def _keep_along(self, classifier: Any, progress: Progress) -> None:
        every = self.phase.checkpoint_every
        if every and progress.epoch % every == 0:
            file = f"{self.stem}.epoch{progress.epoch:03d}.keras"
            digest = self._save(classifier, self.folder / file)
            progress.kept.append({"epoch": progress.epoch, "checkpoint": file, "weights_digest": digest})

    def _finish(self, classifier: Any, progress: Progress) -> dict[str, Any]:
        file = f"{self.stem}.keras"
        digest = self._save(classifier, self.folder / file)
        return {
            "phase": self.name,
            "checkpoint": file,
            "weights_digest": digest,
            "seed": self.seed,
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch or progress.epoch,
            "classes": list(self.task.classes),
            "data_digest": self.task.digest,
            "cached_features": caches(self.phase),
            "seconds": progress.seconds,
            "along": progress.kept,
            "metrics": {split: self._summary(classifier, split) for split in ("validation", "test")},
        }

    def _summary(self, classifier: Any, split: str) -> dict[str, Any]:
        indices, task = self.task.indices(split), self.task
        logits = predict(classifier, ImageBatches(task.pixels, indices, EVALUATION_BATCH))
        return metrics.summary(logits, task.targets[indices], task.groups[indices], task.classes, task.multi)

    def _save(self, classifier: Any, path: Path) -> str:
        """Save in float32, whatever the precision of training, and return the weights digest."""
        if self.config.precision != "float32":
            weights = classifier.get_weights()
            classifier = self._fresh("float32")
            classifier.set_weights(weights)
        with replacing(path) as partial:
            classifier.save(partial)
        return weights_digest(classifier)


def reseed(view: Any, key: list[int]) -> None:
    """Set the state of every dropout in the model from an epoch's key."""
    drawn = np.random.default_rng([*key, 1])
    states = (variable for variable in view.variables if "seed_generator_state" in variable.path)
    for variable in sorted(states, key=lambda variable: variable.path):
        variable.assign(drawn.integers(0, 2**31, size=variable.shape, dtype=np.uint32))

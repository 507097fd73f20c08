"""One phase of training with one seed: from a start checkpoint to the phase's checkpoint and its metrics."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training import metrics
from training.backbones import load_model
from training.batches import FeatureBatches, ImageBatches, epoch_key
from training.config import Config, Phase
from training.files import replacing
from training.framework import keras, several_devices
from training.model import (
    build_classifier,
    copy_weights,
    head_view,
    load_backbone_weights,
    pooling_view,
    set_trainable,
    training_view,
    weights_digest,
)
from training.progress import Bar
from training.state import Progress, load_state, save_state
from training.task import Task

STATE = "state.npz"
EVALUATION_BATCH = 32


@dataclass(frozen=True)
class Start:
    """Where a phase's weights come from: a checkpoint, or with None the configuration's `model.weights`."""

    checkpoint: Path | None
    same_head: bool = True
    base: Path = Path()


@dataclass(frozen=True)
class Feed:
    """What is trained (`view`) and what it is fed: batches of an epoch, and plain batches for prediction."""

    view: Any
    epoch: Callable[[np.ndarray, list[int]], Any]
    plain: Callable[[np.ndarray], Any]


@dataclass
class PhaseRun:
    """Everything one phase with one seed needs, gathered once."""

    config: Config
    name: str
    stem: str  # of the checkpoint: the phase's name, with ".seedN" for a replicate
    seed: int
    task: Task
    folder: Path

    @property
    def phase(self) -> Phase:
        return self.config.phases[self.name]

    def train(self, start: Start, on_epoch: Callable[[Progress], None]) -> dict[str, Any]:
        """Run the phase, or the rest of it, and return its record for `run.json`."""
        with several_devices():
            classifier = self._classifier(start)
            feed = self._feed(classifier)
            self._compile(feed.view)
        progress = load_state(self.folder / STATE, classifier, feed.view.optimizer, self.stem)
        self._epochs(classifier, feed, progress, on_epoch)
        if progress.best is not None:
            classifier.set_weights(progress.best)
        return self._finish(classifier, progress)

    def _classifier(self, start: Start) -> Any:
        classifier = self._fresh()
        if start.checkpoint is None:
            load_backbone_weights(classifier, self.config.model, start.base)
        else:
            copy_weights(load_model(start.checkpoint), classifier, () if start.same_head else ("logits",))
        set_trainable(classifier, self.phase)
        return classifier

    def _fresh(self, precision: str | None = None) -> Any:
        return build_classifier(
            self.config.model, len(self.task.classes), self.seed, precision or self.config.precision
        )

    def _feed(self, classifier: Any) -> Feed:
        labels = (self.task.targets, self._weights())
        size = self.phase.batch_size
        if self._caches():
            features = self._features(classifier)
            return Feed(
                head_view(classifier),
                lambda order, _: FeatureBatches(features, order, size, labels),
                lambda indices: FeatureBatches(features, indices, EVALUATION_BATCH),
            )
        pixels, how = self.task.pixels, self.phase.augment
        return Feed(
            training_view(classifier, self.phase),
            lambda order, key: ImageBatches(pixels, order, size, labels, how if how.active() else None, key),
            lambda indices: ImageBatches(pixels, indices, EVALUATION_BATCH),
        )

    def _caches(self) -> bool:
        return self.phase.cache_features and self.phase.trainable == "head" and not self.phase.augment.active()

    def _features(self, classifier: Any) -> np.ndarray:
        """Pooled features (N, C) of the training and validation images; other rows are never read."""
        wanted = np.flatnonzero(self.task.chosen < 2)
        found = predict(pooling_view(classifier), ImageBatches(self.task.pixels, wanted, EVALUATION_BATCH))
        features = np.zeros((len(self.task.samples), found.shape[1]), np.float32)
        features[wanted] = found
        return features

    def _weights(self) -> np.ndarray:
        if self.phase.class_weights:
            return self.task.class_weights()
        return np.ones(len(self.task.samples), np.float32)

    def _compile(self, view: Any) -> None:
        view.compile(self._optimizer(), self._loss(), metrics=[self._hit_rate()], jit_compile=False)
        view.optimizer.build(view.trainable_variables)

    def _optimizer(self) -> Any:
        phase, steps = self.phase, self._steps()
        rate: Any = phase.learning_rate
        if phase.schedule == "cosine":
            warm = round(phase.warmup_epochs * steps)
            rest = max(phase.epochs * steps - warm, 1)
            schedule = keras.optimizers.schedules.CosineDecay
            rate = schedule(0.0, rest, warmup_target=rate, warmup_steps=warm) if warm else schedule(rate, rest)
        if phase.weight_decay:
            return keras.optimizers.AdamW(rate, weight_decay=phase.weight_decay)
        return keras.optimizers.Adam(rate)

    def _loss(self) -> Any:
        kind = keras.losses.BinaryCrossentropy if self.task.multi else keras.losses.CategoricalCrossentropy
        return kind(from_logits=True, label_smoothing=self.phase.label_smoothing)

    def _hit_rate(self) -> Any:
        if self.task.multi:
            return keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)  # of logits
        return keras.metrics.CategoricalAccuracy(name="accuracy")

    def _steps(self) -> int:
        return -(-len(self.task.indices("train")) // self.phase.batch_size)

    def _epochs(self, classifier: Any, feed: Feed, progress: Progress, on_epoch: Callable[[Progress], None]) -> None:
        phase = self.phase
        with Bar(self.stem, phase.epochs, self._steps(), progress.epoch) as bar:
            while progress.epoch < phase.epochs and not progress.stopped(phase.early_stopping):
                self._one_epoch(feed, progress, bar)
                self._keep_best(classifier, progress)
                self._keep_along(classifier, progress)
                save_state(self.folder / STATE, classifier, feed.view.optimizer, progress)
                on_epoch(progress)

    def _one_epoch(self, feed: Feed, progress: Progress, bar: Bar) -> None:
        started = time.monotonic()
        key = epoch_key(self.seed, self.name, progress.epoch)
        order = np.random.default_rng(key).permutation(self.task.indices("train"))
        reseed(feed.view, key)
        logs = feed.view.fit(feed.epoch(order, key), verbose=0, shuffle=False, callbacks=[bar.callback()]).history
        rate = float(keras.ops.convert_to_numpy(feed.view.optimizer.learning_rate))
        progress.epoch += 1
        row: dict[str, Any] = {"phase": self.name, "checkpoint": self.stem, "seed": self.seed, "epoch": progress.epoch}
        row |= {"learning_rate": rate, "train_loss": logs["loss"][-1], "train_accuracy": logs["accuracy"][-1]}
        row |= self._validation(feed)
        row["seconds"] = time.monotonic() - started
        progress.seconds += row["seconds"]
        progress.rows.append(row)
        bar.show(row)

    def _validation(self, feed: Feed) -> dict[str, Any]:
        indices = self.task.indices("validation")
        logits, targets = predict(feed.view, feed.plain(indices)), self.task.targets[indices]
        multi = self.task.multi
        return {
            "val_loss": metrics.loss(logits, targets, multi),
            "val_accuracy": float(metrics.correct(logits, targets, multi).mean()),
            "val_auc": float(metrics.macro_auc(metrics.probabilities(logits, multi), targets)[0]),
        }

    def _keep_best(self, classifier: Any, progress: Progress) -> None:
        auc = progress.rows[-1]["val_auc"]
        if self.phase.early_stopping is not None and auc > progress.best_auc:
            progress.best_auc, progress.best_epoch = auc, progress.epoch
            progress.best = classifier.get_weights()

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
            "cached_features": self._caches(),
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
            trained, classifier = classifier, self._fresh("float32")
            classifier.set_weights(trained.get_weights())
        with replacing(path) as partial:
            classifier.save(partial)
        return weights_digest(classifier)


def predict(view: Any, batches: Any) -> np.ndarray:
    """Outputs of a model for all batches, float32."""
    return np.asarray(view.predict(batches, verbose=0), np.float32)


def reseed(view: Any, key: list[int]) -> None:
    """Set the state of every dropout in the model from an epoch's key."""
    drawn = np.random.default_rng([*key, 1])
    for variable in sorted((v for v in view.variables if "seed_generator_state" in v.path), key=lambda v: v.path):
        variable.assign(drawn.integers(0, 2**31, size=variable.shape, dtype=np.uint32))

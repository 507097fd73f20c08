"""Cached features train the same head as whole images do, only sooner."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from harness.common.errors import EvaluationWarning
from harness.images.loading import load_grey
from harness.images.rule import ImageRule
from training.augment import augment
from training.batches import ImageBatches, divided, epoch_key
from training.config import Augment, Data, Model, Phantoms, Phase
from training.feed import caches, feed_for, predict
from training.model import build_classifier, set_trainable
from training.objective import compile_view
from training.phase import reseed
from training.pixels import Pixels
from training.samples import Sample, one_hot
from training.task import Task, prepare, read_dataset

HEAD = Phase(epochs=1, learning_rate=0.01, trainable="head")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    data = Data(phantoms=Phantoms(images=60, patients=60, size=40))
    folder = tmp_path_factory.mktemp("task")
    return prepare(read_dataset(data, folder, folder, "split", 0), (32, 32), cache_gb=1)


def head_after_two_epochs(task: Task, phase: Phase) -> list[np.ndarray]:
    classifier = build_classifier(Model(backbone="PhantomNet", input_size=(32, 32), dropout=0.5), 5, seed=0)
    set_trainable(classifier, phase)
    feed = feed_for(classifier, phase, task)
    compile_view(feed.view, phase, 3, multi=False)
    for epoch in range(2):
        key = epoch_key(0, "transfer", epoch)
        order = np.random.default_rng(key).permutation(task.indices("train"))
        reseed(feed.view, key)
        feed.view.fit(feed.epoch(order, key), verbose=0, shuffle=False)
    return classifier.get_layer("logits").get_weights()


@pytest.mark.slow
def test_cached_and_direct_give_one_head(task: Task) -> None:
    cached = head_after_two_epochs(task, HEAD)
    direct = head_after_two_epochs(task, HEAD.model_copy(update={"cache_features": False}))
    for a, b in zip(cached, direct, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)


def test_cached_epochs_read_no_image_and_run_no_backbone(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = build_classifier(Model(backbone="PhantomNet", input_size=(32, 32)), 5, seed=0)
    feed = feed_for(classifier, HEAD, task)
    monkeypatch.setattr(Pixels, "views", lambda *_: pytest.fail("an image was read"))
    batches = [feed.epoch(task.indices("train"), []), feed.plain(task.indices("validation"))]
    assert {batch.shape[1:] for some in batches for batch, *_ in (some[k] for k in range(len(some)))} == {(64,)}
    assert [layer.name for layer in feed.view.layers] == ["features", "head_dropout", "logits"]


def processor_seconds(phase: Phase, task: Task) -> float:
    """Of the cheapest of two epochs with validation, after one that compiles."""
    classifier = build_classifier(Model(backbone="PhantomNet", input_size=task.pixels.size), 2, seed=0)
    set_trainable(classifier, phase)
    feed, used = feed_for(classifier, phase, task), []
    compile_view(feed.view, phase, 3, multi=False)
    for epoch in range(3):
        started = time.process_time()
        feed.view.fit(feed.epoch(task.indices("train"), [epoch]), verbose=0, shuffle=False)
        predict(feed.view, feed.plain(task.indices("validation")))
        used.append(time.process_time() - started)
    return min(used[1:])


@pytest.mark.slow
def test_cached_features_make_an_epoch_eight_times_cheaper(tmp_path: Path) -> None:
    """In processor time, which other work on the machine disturbs the least; noise in place of radiographs."""
    samples = [Sample(f"{k}.png", tmp_path / f"{k}.png", ("ab"[k % 2],), str(k)) for k in range(480)]
    for sample in samples:
        cv2.imwrite(str(sample.path), np.random.default_rng(0).integers(0, 256, (224, 224), np.uint8))
    parts = np.repeat([0, 1], [400, 80])
    noise = Task(samples, ("a", "b"), False, one_hot(samples, ("a", "b")), parts, [], Pixels(samples, (224, 224), 1.0))
    direct = processor_seconds(HEAD.model_copy(update={"cache_features": False}), noise)
    cached = processor_seconds(HEAD, noise)
    print(f"cached {cached:.3f} s, direct {direct:.3f} s, {direct / cached:.1f} x")
    assert direct >= 8 * cached


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"cache_features": False}, False),
        ({"trainable": "all"}, False),
        ({"augment": Augment(shift=0.1)}, False),
    ],
)
def test_features_are_cached_only_where_nothing_changes_them(change: dict[str, Any], expected: bool) -> None:
    assert caches(HEAD.model_copy(update=change)) is expected


def test_batches_are_a_function_of_seed_phase_and_epoch(task: Task) -> None:
    """And of nothing else: reading a batch twice, or alone, gives the same pixels."""
    how, order, labels = Augment(shift=0.1, contrast=0.2), task.indices("train"), (task.targets, np.ones(60))
    first = ImageBatches(task.pixels, order, 8, labels, how, epoch_key(0, "finetune", 3))
    again = ImageBatches(task.pixels, order, 8, labels, how, epoch_key(0, "finetune", 3))
    assert np.array_equal(first[1][0], again[1][0])
    assert np.array_equal(first[1][0], first[1][0])
    alone = ImageBatches(task.pixels, order[8:9], 1, labels, how, epoch_key(0, "finetune", 3))
    assert np.array_equal(first[1][0][:1], alone[0][0])
    for key in (epoch_key(1, "finetune", 3), epoch_key(0, "pretrain", 3), epoch_key(0, "finetune", 4)):
        assert not np.array_equal(first[0][0], ImageBatches(task.pixels, order, 8, labels, how, key)[0][0])


def test_only_training_images_are_augmented(task: Task) -> None:
    """Predictions for validation and test see the images as they are, in the same phase."""
    phase = HEAD.model_copy(update={"augment": Augment(shift=0.1, contrast=0.2)})
    feed = feed_for(build_classifier(Model(backbone="PhantomNet", input_size=(32, 32)), 5, seed=0), phase, task)
    indices = task.indices("validation")
    plain, shaken = feed.plain(indices), feed.epoch(indices, epoch_key(0, "transfer", 0))
    images = np.concatenate([plain[k][0] for k in range(len(plain))])
    assert np.array_equal(images[..., 0], task.pixels.views(indices))
    assert not np.array_equal(shaken[0][0], images[: len(shaken[0][0])])


def test_pixels_are_the_same_from_memory_and_from_files(task: Task) -> None:
    """Room for 20 planes of 32 x 32 float32; the others are read each time."""
    some = Pixels(task.samples, (32, 32), cache_gb=20 * 4 * 32 * 32 / 2**30)
    assert len(some._kept) == 20
    order = np.random.default_rng(0).permutation(60)
    expected = np.stack([load_grey(task.samples[k].path, (32, 32)) for k in order])
    for pixels in (some, task.pixels):
        assert np.array_equal(pixels.views(order), expected)
        assert np.array_equal(pixels.views(order), expected)


def test_colour_is_told_once_for_all_pictures_and_epochs(tmp_path: Path) -> None:
    for name, blue in (("a", 9), ("b", 200), ("c", 9)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((40, 40, 3), (blue, 9, 9), np.uint8))
    samples = [Sample(f"{name}.png", tmp_path / f"{name}.png", ("x",), name) for name in "abc"]
    samples[1:2] = [Sample(f"{name}.png", tmp_path / "b.png", ("x",), name) for name in "bd"]
    with pytest.warns(EvaluationWarning) as told:
        pixels = Pixels(samples, (32, 32), cache_gb=0)
    pixels.views(np.arange(4))  # would raise, since warnings are errors here
    assert [str(warning.message) for warning in told] == [
        "2 of 4 pictures have colour; they were turned to grey (b.png for example)"
    ]


def test_pixels_keep_the_colours_of_their_rule(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), picture[..., ::-1])
    rule = ImageRule(name="x", fit="crop", shorter=40, size=(32, 32))
    for room in (1, 0):
        pixels = Pixels([Sample("a.png", tmp_path / "a.png", ("x",), "a")], (32, 32), room, rule=rule)
        assert np.array_equal(pixels.views(np.array([0]))[0], picture[4:36, 14:46])
    (images,) = ImageBatches(pixels, np.array([0]), 4)[0]
    assert np.array_equal(images[0], picture[4:36, 14:46])
    shaken = augment(picture.astype(np.float32), Augment(flip=True, shift=0.1, rotate=5), np.random.default_rng(0))
    assert shaken.shape == picture.shape


def test_no_batch_is_a_small_rest() -> None:
    for images in range(1, 70):
        batches = divided(np.arange(images), 16)
        sizes = [len(batch) for batch in batches]
        assert np.array_equal(np.concatenate(batches), np.arange(images))
        assert len(sizes) == -(-images // 16)
        assert set(sizes[:-2]) <= {16}
        assert min(sizes) >= min(images, 8)


def test_batches_cover_every_image_once_with_its_label(task: Task) -> None:
    order, labels = task.indices("train")[::-1], (task.targets, np.arange(60.0))
    batches = ImageBatches(task.pixels, order, 7, labels)
    assert len(batches) == -(-len(order) // 7)
    images, targets, weights = (
        np.concatenate(column) for column in zip(*(batches[k] for k in range(len(batches))), strict=True)
    )
    assert np.array_equal(weights, order)
    assert np.array_equal(targets, task.targets[order])
    assert images.shape == (len(order), 32, 32, 3)
    assert np.array_equal(images[..., 0], task.pixels.views(order))
    assert np.array_equal(images[..., 0], images[..., 2])

"""Training that preserves evidence: its maps and gradients, what it is held to, and that a weight of 0 is no weight."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from harness.common.errors import InputError
from harness.images.rule import GREY
from harness.models.metadata import Graph
from kernels.cam import cam
from tests.training_runs import ROOT, copied, digests, record, write_backbone
from training import run
from training.augment import augment, moved_along
from training.batches import ImageBatches, PreservedBatches, epoch_key
from training.config import Augment, Config, Data, Model, Phantoms, Phase, Preserve, read_config
from training.cost import sentence, step_seconds
from training.evidence import SIMILARITIES, evidence_maps
from training.feed import caches, feed_for
from training.framework import keras, tf
from training.model import build_classifier, set_trainable, weights_digest
from training.objective import compile_view
from training.phase import reseed
from training.preserve import Measure, Preservation, preservation_of
from training.preserving_view import Evidence, PreservingView, evidence_of
from training.task import Task, prepare, read_dataset

METHODS = ("gradcam", "layercam", "hirescam")


def preserve(**changed: Any) -> Preserve:
    return Preserve.model_validate({"weight": 2.0, "from": "transfer", "on": "all", **changed})


# Maps and similarities


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_those_of_the_kernels(method: str) -> None:
    a, g = np.random.default_rng(0).standard_normal((2, 5, 4, 3, 6)).astype(np.float32)  # (N, h, w, C)
    expected, _ = cam(method, np.moveaxis(a, -1, 1), np.moveaxis(g, -1, 1))
    assert evidence_maps(method, a, g).numpy() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def literal(name: str, a: np.ndarray, b: np.ndarray) -> float:
    if name == "inside":
        return float((a * b).sum() / a.sum())
    if name == "cosine":
        return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
    x, y = a / a.max(), b / b.max()
    return float(np.minimum(x, y).sum() / np.maximum(x, y).sum())


@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarities_equal_their_literal_definitions(name: str) -> None:
    a, b = np.random.default_rng(1).uniform(size=(2, 6, 4, 5)) * [[[[3.0]]], [[[1.0]]]]
    a[:, 0], a[4] = 0, a[4] * 1e-9
    expected = [literal(name, x, y) for x, y in zip(a, b, strict=True)]
    assert SIMILARITIES[name](tf.constant(a), tf.constant(b)).numpy() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_an_empty_map_is_similar_to_nothing_and_has_a_finite_slope(name: str) -> None:
    empty, full = tf.Variable(np.zeros((1, 3, 3))), tf.constant(np.ones((1, 3, 3)))
    with tf.GradientTape() as tape:
        found = SIMILARITIES[name](empty, full)
    assert found.numpy() == [0]
    assert np.isfinite(tape.gradient(found, empty)).all()
    assert SIMILARITIES[name](full, tf.zeros_like(full)).numpy() == [0]


# Gradients


def toy() -> tuple[Any, np.ndarray, np.ndarray]:
    """A network in float64 with (logits, A, logits) as outputs, four images and their targets."""
    keras.utils.set_random_seed(3)
    layers, double = keras.layers, {"dtype": "float64"}
    image = keras.Input((6, 6, 2), **double)
    a = layers.Conv2D(3, 3, activation="tanh", **double)(image)
    x = layers.BatchNormalization(**double)(layers.Conv2D(4, 2, activation="softplus", **double)(a))
    logits = layers.Dense(3, **double)(layers.GlobalAveragePooling2D(**double)(layers.Activation("elu", **double)(x)))
    rng = np.random.default_rng(5)
    return keras.Model(image, [logits, a, logits]), rng.standard_normal((4, 6, 6, 2)), np.eye(3)[[0, 1, 2, 0]]


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("method", METHODS)
def test_gradient_of_the_loss_equals_differences_in_float64(method: str, similarity: str) -> None:
    """By every weight, at a point without kinks; also by those that A depends on, and those that only G depends on."""
    network, images, targets = toy()
    evidence = Evidence(network, method, similarity)
    references = np.random.default_rng(7).uniform(size=(4, 4, 4))
    given = [tf.constant(value) for value in (images, targets, references)]
    loss = tf.function(lambda: tf.reduce_sum(evidence.losses(*given)[1]))
    with tf.GradientTape() as tape:
        found = loss()
    variables = network.trainable_variables
    gradients = [part.numpy() for part in slopes(tape, found, variables)]
    for variable, gradient in zip(variables, gradients, strict=True):
        differences = central_differences(loss, variable)
        assert np.abs(gradient - differences).max() <= 1e-4 * max(np.abs(differences).max(), 1e-3), variable.path
    assert max(np.abs(part).max() for part in gradients) > 1e-2


def slopes(tape: Any, loss: Any, variables: list[Any]) -> list[Any]:
    """Zero by a variable that plays no part: the bias of the logits, for one."""
    found = tape.gradient(loss, variables)
    return [tf.zeros_like(one) if part is None else part for one, part in zip(variables, found, strict=True)]


def central_differences(loss: Any, variable: Any, step: float = 1e-6) -> np.ndarray:
    value = variable.numpy()
    result = np.empty(value.size)
    for place in range(value.size):
        ends = []
        for sign in (1, -1):
            moved = value.copy()
            moved.reshape(-1)[place] += sign * step
            variable.assign(moved)
            ends.append(float(loss()))
        result[place] = (ends[0] - ends[1]) / (2 * step)
    variable.assign(value)
    return result.reshape(value.shape)


# A phase on a small task


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    data = Data(phantoms=Phantoms(images=60, patients=60, size=40))
    folder = tmp_path_factory.mktemp("task")
    return prepare(read_dataset(data, folder, folder, "split", 0), (32, 32), cache_gb=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("model")
    write_backbone(folder)
    path = str(folder / "small.keras")
    size, scale = (32, 32), [0.01] * 3
    return Model(
        backbone="custom",
        path=path,
        input_size=size,
        scale=scale,
        last="third_out",
        penultimate="second_out",
        dropout=0.5,
    )


def phase(**changed: Any) -> Phase:
    return Phase.model_validate({"epochs": 1, "learning_rate": 0.01, "preserve": preserve(), **changed})


def built(model: Model, seed: int = 0) -> Any:
    classifier = build_classifier(model, 5, seed)
    classifier.get_layer("second_bn").set_weights([np.linspace(low, high, 8) for low, high in BATCHNORM])
    return classifier


BATCHNORM = ((0.5, 1.5), (-0.1, 0.1), (-0.2, 0.2), (0.5, 2.0))  # gamma, beta, mean, variance: not those of a fresh one


def reference_of(model: Model) -> Any:
    reference = built(model)
    reference.get_layer("logits").set_weights([np.random.default_rng(2).standard_normal((8, 5)), np.zeros(5)])
    return reference


def preserving(model: Model, task: Task, phase: Phase) -> tuple[Any, Preservation]:
    classifier, reference = built(model), reference_of(model)
    set_trainable(classifier, phase)
    found = preservation_of(classifier, phase, model, task, GREY, reference)
    assert found is not None
    return classifier, found


@pytest.mark.parametrize("batchnorm", ["inference", "train"])
def test_maps_in_training_are_those_of_inference(model: Model, task: Task, batchnorm: str) -> None:
    """Neither dropout in the head nor BatchNorm's statistics of a batch are part of them; the logits keep both."""
    classifier, found = preserving(model, task, phase(batchnorm=batchnorm))
    images, targets = ImageBatches(task.pixels, np.arange(6), 6)[0][0], task.targets[:6]
    view = found.view(classifier, phase(batchnorm=batchnorm))
    logits, maps = view.evidence.maps(tf.constant(images), tf.constant(targets), training=True)
    expected = evidence_of(classifier, "second_out", preserve()).maps(tf.constant(images), tf.constant(targets))[1]
    assert maps.numpy() == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-7)
    assert maps.numpy().max() > 0
    still = classifier(images, training=False)
    assert np.abs(logits - still).max() > 1e-3


def batch_of(found: Preservation, task: Task, *augmented: Any) -> Any:
    """The first eight training images."""
    labels = (task.targets, np.ones(60, np.float32))
    return tf.nest.map_structure(tf.constant, found.epoch(task.indices("train")[:8], 8, labels, *augmented)[0])


def test_frozen_backbone_leaves_the_head_a_gradient(model: Model, task: Task) -> None:
    only_head = phase(trainable="head")
    classifier, found = preserving(model, task, only_head)
    view = found.view(classifier, only_head)
    compile_view(view, only_head, 1, multi=False)
    gradients, _ = view.gradients(batch_of(found, task))
    assert [part.shape for part in gradients] == [(8, 5), (5,)]
    assert not caches(only_head)
    assert caches(phase(trainable="head", preserve=preserve(weight=0)))


def test_loss_is_cross_entropy_plus_weight_times_the_mean_over_those_that_take_part(model: Model, task: Task) -> None:
    """The gradient is linear in both parts, so that of a weight of 2 is plain + 2 (that of weight 1 - plain)."""
    still = model.model_copy(update={"dropout": 0.0})
    gradients = []
    for weight in (1.0, 2.0):
        chosen = phase(preserve=preserve(weight=weight))
        classifier, found = preserving(still, task, chosen)
        found.references.kept[task.indices("train")[:3]] = 0
        view = found.view(classifier, chosen)
        compile_view(view, chosen, 1, multi=False)
        batch = batch_of(found, task)
        gradients.append([part.numpy() for part in view.gradients(batch)[0]])
        plain = [part.numpy() for part in view.plain_gradients(batch)[0]]
    with tf.GradientTape() as tape:
        images, (targets, references, kept), _ = batch
        losses = evidence_of(classifier, "second_out", preserve()).losses(images, targets, references)[1]
        lost = tf.reduce_sum(losses * kept) / 8
    own = slopes(tape, lost, view.trainable_variables)
    assert kept.numpy().tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    for one, two, without, alone in zip(*gradients, plain, own, strict=True):
        assert two - without == pytest.approx(2 * (one - without), rel=1e-3, abs=1e-5)
        assert one - without == pytest.approx(alone.numpy(), rel=1e-3, abs=1e-5)


def weights_after(
    model: Model, task: Task, chosen: Phase, epochs: int = 2, timed: bool = False
) -> tuple[str, list[dict[str, Any]]]:
    """The digest of the weights after some epochs; `timed`: with all that a phase measures on the way."""
    classifier = built(model)
    set_trainable(classifier, chosen)
    found = preservation_of(classifier, chosen, model, task, GREY, built(model, seed=1) if chosen.preserve else None)
    feed = feed_for(classifier, chosen, task, found)
    compile_view(feed.view, chosen, 3, multi=False)
    logs = []
    for epoch in range(epochs):
        key = epoch_key(0, "finetune", epoch)
        order = np.random.default_rng(key).permutation(task.indices("train"))
        if timed and found is not None and epoch == 1:
            Measure(classifier, found, task.indices("validation")).mean()
            if isinstance(feed.view, PreservingView):
                seconds = step_seconds(feed.view, feed.epoch(order[:4], key)[0])
                assert seconds is not None
                assert seconds["plain"] > 0
        reseed(feed.view, key)
        logs.append(feed.view.fit(feed.epoch(order, key), verbose=0, shuffle=False).history)
    return weights_digest(classifier), logs


@pytest.mark.parametrize("trainable", ["all", pytest.param("head", marks=pytest.mark.slow)])
def test_weight_of_zero_is_a_plain_phase_to_the_last_bit(model: Model, task: Task, trainable: str) -> None:
    shaken = {"augment": {"shift": 0.1, "rotate": 5}, "trainable": trainable}
    plain, _ = weights_after(model, task, phase(preserve=None, **shaken))
    measured, logs = weights_after(model, task, phase(preserve=preserve(weight=0), **shaken), timed=True)
    assert measured == plain
    assert "preserve" not in logs[0]


@pytest.mark.slow
def test_a_weight_above_zero_repeats_and_brings_the_evidence_nearer(model: Model, task: Task) -> None:
    """What is timed before the first epoch, and measured between epochs, changes no bit."""
    chosen = phase(preserve=preserve(weight=20), batchnorm="train", augment={"shift": 0.1, "rotate": 5})
    first, logs = weights_after(model, task, chosen, epochs=3)
    assert weights_after(model, task, chosen, epochs=3, timed=True)[0] == first
    (loss,), (cross_entropy,), (lost,) = (logs[-1][name] for name in ("loss", "cross_entropy", "preserve"))
    assert loss == pytest.approx(cross_entropy + 20 * lost, rel=1e-4)  # every image takes part
    assert lost < logs[0]["preserve"][0]


# What the evidence is held to


def test_cached_maps_are_those_of_the_reference_for_training_and_validation_images(model: Model, task: Task) -> None:
    _, found = preserving(model, task, phase(preserve=preserve(on="correct")))
    reference = reference_of(model)
    used = np.sort(np.concatenate([task.indices("train"), task.indices("validation")]))
    images = ImageBatches(task.pixels, used, len(used))[0][0]
    maps = evidence_of(reference, "second_out", preserve()).maps(tf.constant(images), tf.constant(task.targets[used]))[
        1
    ]
    assert found.references.maps[used] == pytest.approx(maps.numpy(), rel=1e-4, abs=1e-6)
    right = reference.predict(images, verbose=0).argmax(axis=1) == task.targets[used].argmax(axis=1)
    expected = np.zeros(60)
    expected[used] = right & (maps.numpy().max(axis=(1, 2)) > 0)
    assert 0 < expected.sum() < len(used)
    assert found.references.kept.tolist() == expected.tolist()
    assert found.references.digest == weights_digest(reference)
    facts = found.facts()
    assert facts["images"] == int(expected[task.indices("train")].sum())
    assert facts["of"] == len(task.indices("train"))


def test_with_augmentation_the_reference_sees_the_augmented_picture(model: Model, task: Task) -> None:
    how = Augment(shift=0.2, rotate=20)
    chosen = phase(augment=how)
    classifier, found = preserving(model, task, chosen)
    batch = batch_of(found, task, how, epoch_key(0, "finetune", 0))
    images, (targets, empty, _), _ = batch
    live = found.references.live
    assert live is not None
    expected = live.maps(images, targets)[1].numpy()
    assert empty.shape == (8, 0, 0)
    references, kept = found.view(classifier, chosen).references(batch)
    assert references.numpy() == pytest.approx(expected)
    assert kept.numpy().tolist() == (expected.max(axis=(1, 2)) > 0).astype(float).tolist()


@pytest.mark.parametrize("augmented", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_measure_is_the_mean_over_the_validation_images_that_take_part(
    model: Model, task: Task, augmented: bool
) -> None:
    classifier, found = preserving(model, task, phase(augment={"shift": 0.2} if augmented else {}))
    validation = task.indices("validation")
    found.references.kept[validation[:2]] = 0
    images, targets = ImageBatches(task.pixels, validation[2:], 99)[0][0], task.targets[validation[2:]]
    ours, theirs = (
        evidence_of(one, "second_out", preserve()).maps(tf.constant(images), tf.constant(targets))[1].numpy()
        for one in (classifier, reference_of(model))
    )
    expected = np.mean([1 - literal("soft-iou", a, b) for a, b in zip(ours, theirs, strict=True)])
    assert Measure(classifier, found, validation).mean() == pytest.approx(expected, rel=1e-4)


def test_planes_move_along_with_their_picture(task: Task) -> None:
    how = Augment(shift=0.2, rotate=20, flip=True)
    for number in range(4):
        view = task.pixels.views(np.array([number]))[0]
        rngs = [np.random.default_rng(number) for _ in range(2)]
        assert moved_along(view, how, rngs[0]) == pytest.approx(augment(view, how, rngs[1]), abs=1e-3)
        assert rngs[0].uniform() == rngs[1].uniform()
    maps, kept = np.zeros((60, 32, 32), np.float32), np.ones(60, np.float32)
    maps[:] = task.pixels.views(np.arange(60))
    batches = PreservedBatches((maps, kept), task.pixels, np.arange(60), 20, (maps, kept), how, [3])
    images, (_, moved, _), _ = batches[1]
    assert moved == pytest.approx(images[..., 0], abs=1e-3)


def masks(task: Task, folder: Path, count: int = 50) -> Path:
    for sample in task.samples[:count]:
        mask = np.zeros((40, 40), np.uint8)
        mask[:, 20:] = 255
        cv2.imwrite(str(folder / f"{Path(sample.file).stem}.png"), mask)
    return folder


def test_masks_cover_shares_of_the_map(model: Model, task: Task, tmp_path: Path) -> None:
    given = Preserve(weight=1, masks=str(masks(task, tmp_path)))
    chosen = phase(preserve=given)
    found = preservation_of(built(model), chosen, model, task, GREY, None)
    assert found is not None
    expected = (np.arange(60) < 50) & (task.chosen < 2)
    assert found.references.kept.tolist() == expected.astype(float).tolist()
    assert found.references.maps[expected] == pytest.approx(np.tile([0.0, 0, 1, 1], (expected.sum(), 4, 1)))
    assert found.facts()["similarity"] == "inside"


def test_references_that_cannot_be_used_are_refused(model: Model, task: Task, tmp_path: Path) -> None:
    chosen = phase()
    for reference, message in (
        (build_classifier(model, 3, 0), "preserve.from transfer: has another classes ((3,)) than this phase ((5,))"),
        (
            build_classifier(Model(backbone="PhantomNet", input_size=(32, 32)), 5, 0),
            "preserve.from transfer: has no layer 'second_out'",
        ),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            preservation_of(built(model), chosen, model, task, GREY, reference)
    lost = phase(preserve=preserve(layer="sceond_out"))
    with pytest.raises(
        InputError, match=r"preserve\.layer 'sceond_out' is no feature map .* did you mean 'second_out'"
    ):
        preservation_of(built(model), lost, model, task, GREY, built(model))
    dead = built(model)
    dead.get_layer("logits").set_weights([np.zeros((8, 5)), np.zeros(5)])
    with pytest.raises(InputError, match="none of the 37 training images has a map that the reference classifies corr"):
        preservation_of(built(model), chosen, model, task, GREY, dead)
    test_only = replace(task, chosen=np.array([*[2] * 50, *[0] * 10]))
    with pytest.raises(InputError, match="none of the 10 training images has a mask"):
        preservation_of(
            built(model),
            phase(preserve=Preserve(weight=1, masks=str(masks(task, tmp_path)))),
            model,
            test_only,
            GREY,
            None,
        )


# Configuration

GOOD = """
[data]
manifest = "m.csv"
[model]
backbone = "DenseNet201"
[phases.transfer]
epochs = 1
[phases.finetune]
epochs = 1
[phases.finetune.preserve]
weight = 1
from = "transfer"
"""


def test_a_short_table_is_enough_and_survives_the_record(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(GOOD, encoding="utf-8")
    config = read_config(tmp_path / "c.toml")
    found = config.phases["finetune"].preserve
    assert found is not None
    assert (found.layer, found.method, found.reference, found.on) == ("penultimate", "layercam", "transfer", "correct")
    assert Config.model_validate(config.model_dump(mode="json")) == config
    assert config.model_dump(mode="json")["phases"]["finetune"]["preserve"]["from"] == "transfer"
    file = GOOD.replace('"transfer"\n', '"old/a.keras"\n')
    (tmp_path / "c.toml").write_text(file, encoding="utf-8")
    located = read_config(tmp_path / "c.toml").located(Path("/base")).phases["finetune"].preserve
    assert located is not None
    assert located.reference == "/base/old/a.keras"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("weight = 1", "", "phases.finetune.preserve.weight: Field required"),
        ("weight = 1", "weight = -1", "phases.finetune.preserve.weight: Input should be greater than or equal to 0"),
        ("weight = 1", "weight = nan", "phases.finetune.preserve.weight: Input should be a finite number"),
        (
            "weight = 1",
            'weight = 1\nmethod = "gradcam++"',
            "phases.finetune.preserve.method: Input should be 'layercam'",
        ),
        ("weight = 1", "weihgt = 1", "phases.finetune.preserve: unknown key 'weihgt'; did you mean 'weight'?"),
        ('from = "transfer"', 'fron = "transfer"', "unknown key 'fron'; did you mean 'from'?"),
        ('from = "transfer"', 'reference = "transfer"', "unknown key 'reference'"),
        ('from = "transfer"', "", "give exactly one of from (a checkpoint) and masks (a folder)"),
        ('from = "transfer"', 'from = "transfer"\nmasks = "m"', "give exactly one of from (a checkpoint) and masks"),
        (
            'from = "transfer"',
            'masks = "m"\nsimilarity = "cosine"',
            "similarity belongs to from, a reference checkpoint",
        ),
        (
            'from = "transfer"',
            'masks = "m"\non = "all"',
            "on belongs to from, a reference checkpoint; with masks leave",
        ),
        (
            'from = "transfer"',
            'from = "finetune"',
            "phases.finetune.preserve.from: 'finetune' is no checkpoint of an ear",
        ),
        ('from = "transfer"', 'from = "tranfser"', "did you mean 'transfer'?, or give a path to a .keras file"),
        ("[data]", 'precision = "mixed_float16"\n[data]', 'vanish in 16 bits; leave precision = "mixed_float16" out'),
        ("[data]", '[data]\nlabels = "multi"', "phases.finetune.preserve: takes the map of the one true class"),
    ],
)
def test_what_cannot_be_preserved_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    (tmp_path / "c.toml").write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(message)):
        read_config(tmp_path / "c.toml")


# Whole runs

KEPT = """
[phases.kept]
learning_rate = 1e-3
epochs = 2
seeds = [0, 7]
augment = { shift = 0.05, rotate = 5 }
preserve = { from = "transfer", weight = 3, on = "all" }
"""


@pytest.fixture(scope="module")
def kept(finished_training: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run with a phase `kept` behind those of `finished_training`, of two replicates."""
    return run.resume(with_phase(finished_training, tmp_path_factory.mktemp("kept")), accept_changes=True)


def with_phase(finished: Path, folder: Path, text: str = KEPT) -> Path:
    """A copy of the complete run whose configuration has one more phase."""
    found = copied(finished, folder, "run")
    with (folder / "tiny.toml").open("a", encoding="utf-8") as stream:
        stream.write(text)
    return found


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_record_history_and_plots_have_both_parts_of_the_loss(kept: Path) -> None:
    phases = record(kept)["phases"]
    (item,) = phases["kept.seed7"]["preserved"]
    assert phases["finetune"]["preserved"] == []
    assert (item["checkpoint"], item["method"], item["layer"], item["weight"], item["reference"]) == (
        "kept.seed7", "layercam", "penultimate", 3.0, "transfer",
    )  # fmt: skip
    assert item["reference_digest"] == phases["transfer"]["weights_digest"]
    assert item["step_seconds"]["preserving"] > 0
    for row in rows(kept):
        filled = [0 <= float(row[name]) <= 1 for name in ("train_preserve", "val_preserve") if row[name]]
        assert filled == ([True, True] if row["phase"] == "kept" else [])
    assert "kept.seed7: trained to preserve evidence in kept.seed7: layercam at penultimate (soft-iou, weight 3)" in (
        kept / "report.txt"
    ).read_text(encoding="utf-8")
    file = kept / "tensorboard" / "kept" / "events.out.tfevents.0"
    events = [tf.compat.v1.Event.FromString(raw.numpy()) for raw in tf.data.TFRecordDataset(str(file))]
    found = {(e.step, value.tag): value.simple_value for e in events for value in e.summary.value}
    last = [row for row in rows(kept) if row["checkpoint"] == "kept"][-1]
    assert found[(2, "val_preserve")] == pytest.approx(float(last["val_preserve"]))
    plain = cv2.imread(str(kept / "curves.png")).shape[1]
    assert plain == 4 * 4 * 120  # a panel more than without


@pytest.mark.slow
def test_interrupted_it_ends_with_the_same_bits(
    kept: Path,
    finished_training: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In the middle of both replicates; --quiet says nothing."""
    write_history = run.Run._write_history

    def interrupt(self: Any, progress: Any) -> None:
        write_history(self, progress)
        if progress.epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(run.Run, "_write_history", interrupt)
    folder = with_phase(finished_training, tmp_path / "again")
    for accepted in (True, False):
        with pytest.raises(KeyboardInterrupt):
            run.resume(folder, accept_changes=accepted, quiet=True)
    run.resume(folder, quiet=True)
    assert digests(folder) == digests(kept)
    assert [(r["epoch"], r["train_preserve"], r["val_preserve"]) for r in rows(folder)] == [
        (r["epoch"], r["train_preserve"], r["val_preserve"]) for r in rows(kept)
    ]
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.slow
def test_what_a_checkpoint_was_held_to_cannot_change_under_it(
    finished_training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reference file is another one when the phase goes on; phases behind it, and exports, say what they come by."""
    folder = tmp_path / "run"
    text = KEPT.replace('"transfer"', '"old.keras"') + KEPT.replace("kept", "after").split("preserve")[0]
    folder = with_phase(finished_training, folder, text)
    shutil.copy(finished_training / "finetune.keras", folder.parent / "old.keras")
    write_history = run.Run._write_history

    def interrupt(self: Any, progress: Any) -> None:
        write_history(self, progress)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "_write_history", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.resume(folder, accept_changes=True)
    shutil.copy(finished_training / "pretrain.keras", folder.parent / "old.keras")
    with pytest.raises(InputError, match=r"state\.npz: kept was begun with another reference in preserve"):
        run.resume(folder)
    shutil.copy(finished_training / "finetune.keras", folder.parent / "old.keras")
    run.resume(folder)
    assert [item["checkpoint"] for item in record(folder)["phases"]["after"]["preserved"]] == ["kept"]
    out = tmp_path / "after.onnx"
    done = subprocess.run(
        [sys.executable, "-m", "export", "keras", folder / "after.keras", "--layer", "penultimate", "--out", out],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (item,) = Graph.read(out).metadata.preserved
    assert str(item) == "layercam maps at penultimate were held to those of old.keras, weight 3"


@pytest.mark.slow
def test_a_history_of_an_earlier_version_goes_on(finished_training: Path, tmp_path: Path) -> None:
    """Its rows have no columns of [preserve]."""
    cut = copied(finished_training, tmp_path / "old")
    with (cut / "history.csv").open(encoding="utf-8") as stream:
        old = [row[:-2] for row in csv.reader(stream)]
    with (cut / "history.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(old)
    run.resume(cut)
    assert digests(cut) == digests(finished_training)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(("augmented", "bound"), [(False, 2.0), (True, 3.0)])
def test_a_step_costs_at_most_so_many_plain_ones(task: Task, augmented: bool, bound: float) -> None:
    """MobileNetV2 at 224 pixels in batches of 16: cached maps, and a reference that sees every augmented picture."""
    mobile = Model(backbone="MobileNetV2", alpha=0.35)
    chosen = phase(augment={"shift": 0.04} if augmented else {})
    noise = replace(task, pixels=Noise())
    classifier, reference = (build_classifier(mobile, 5, seed) for seed in (0, 1))
    set_trainable(classifier, chosen)
    found = preservation_of(classifier, chosen, mobile, noise, GREY, reference)
    assert found is not None
    view = found.view(classifier, chosen)
    compile_view(view, chosen, 3, multi=False)
    how = (chosen.augment, [0]) if augmented else ()
    seconds = step_seconds(view, found.epoch(task.indices("train")[:16], 16, (task.targets, np.ones(60)), *how)[0])
    assert seconds is not None
    print(sentence("finetune", seconds, 64))
    assert seconds["preserving"] <= bound * seconds["plain"]


class Noise:
    """Pixels of 60 images that are noise."""

    size = (224, 224)

    def views(self, indices: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(0)
        return rng.uniform(0, 255, (60, *self.size)).astype(np.float32)[indices]

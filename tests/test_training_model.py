"""The classifier: flat, seeded, with its preprocessing inside, and views that train what they should."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.common.errors import InputError
from training import backbones
from training.config import Model, Phase
from training.framework import keras
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
from training.objective import compile_view
from training.phase import reseed

SMALL = Model(backbone="PhantomNet", weights="none", input_size=(32, 32), dropout=0.5)


def images(n: int = 4, size: int = 32) -> np.ndarray:
    grey = np.random.default_rng(0).uniform(0, 255, (n, size, size, 1)).astype(np.float32)
    return np.repeat(grey, 3, axis=-1)


def snapshot(model: Any) -> dict[str, np.ndarray]:
    return {weight.path: np.copy(keras.ops.convert_to_numpy(weight)) for weight in model.weights}


def trained(phase: Phase, steps: int = 3) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Weights before and after a few steps of a phase."""
    classifier = build_classifier(SMALL, 3, seed=0)
    set_trainable(classifier, phase)
    before, view = snapshot(classifier), training_view(classifier, phase)
    compile_view(view, phase, steps, multi=False)
    view.fit(images(), np.eye(3, dtype=np.float32)[[0, 1, 2, 0]], epochs=steps, verbose=0)
    return before, snapshot(classifier)


def changed(before: dict[str, np.ndarray], after: dict[str, np.ndarray], ending: str = "") -> list[str]:
    return [path for path in before if path.endswith(ending) and not np.array_equal(before[path], after[path])]


def test_classifier_is_flat_and_named() -> None:
    classifier = build_classifier(SMALL, 3, seed=0)
    assert not any(isinstance(layer, keras.Model) for layer in classifier.layers)
    assert [layer.name for layer in classifier.layers[:2]] == ["image", "preprocess"]
    assert [layer.name for layer in classifier.layers[-3:]] == ["gap", "head_dropout", "logits"]
    assert classifier.get_layer("logits").activation is keras.activations.linear
    assert 100_000 < build_classifier(Model(backbone="PhantomNet"), 5, 0).count_params() < 200_000


def test_digest_is_a_function_of_the_seed_and_survives_saving(tmp_path: Path) -> None:
    first, again, other = (weights_digest(build_classifier(SMALL, 3, seed)) for seed in (0, 0, 1))
    assert first == again != other
    classifier = build_classifier(SMALL, 3, seed=0)
    classifier.save(tmp_path / "a.keras")
    assert weights_digest(backbones.load_model(tmp_path / "a.keras")) == first
    weight = classifier.get_layer("logits").bias
    weight.assign(weight + 1e-7)
    assert weights_digest(classifier) != first


def test_frozen_backbone_keeps_every_bit_of_weights_and_statistics() -> None:
    phase = Phase(epochs=1, learning_rate=0.1, trainable="head", batchnorm="inference")
    before, after = trained(phase)
    assert sorted(changed(before, after)) == ["logits/bias", "logits/kernel"]


def test_frozen_backbone_is_frozen_with_batchnorm_in_training_mode_too() -> None:
    before, after = trained(Phase(epochs=1, learning_rate=0.1, trainable="head", batchnorm="train"))
    assert sorted(changed(before, after)) == ["logits/bias", "logits/kernel"]


@pytest.mark.slow
def test_batchnorm_in_inference_mode_learns_but_keeps_its_statistics() -> None:
    before, after = trained(Phase(epochs=1, learning_rate=0.01, trainable="all", batchnorm="inference"))
    assert not changed(before, after, "moving_mean")
    assert not changed(before, after, "moving_variance")
    assert len(changed(before, after, "gamma")) == sum(path.endswith("gamma") for path in before)
    assert len(changed(before, after, "kernel")) == sum(path.endswith("kernel") for path in before)


@pytest.mark.slow
def test_batchnorm_in_training_mode_follows_the_batches_at_the_given_momentum() -> None:
    """One step from zero: moving_mean = (1 - momentum) * batch mean, here of the stem's convolution."""
    phase = Phase(epochs=1, learning_rate=1e-12, batchnorm="train", batchnorm_momentum=0.75)
    _, after = trained(phase, steps=1)
    classifier = build_classifier(SMALL, 3, seed=0)
    stem = keras.Model(classifier.input, classifier.get_layer("stem_conv").output)
    mean = np.asarray(stem.predict(images(), verbose=0)).mean(axis=(0, 1, 2))
    assert after["stem_bn/moving_mean"] == pytest.approx(0.25 * mean, rel=1e-4, abs=1e-6)


def test_layers_thaw_from_the_named_one_on() -> None:
    before, after = trained(Phase(epochs=1, learning_rate=0.01, trainable="block5_1_conv"))
    assert {path.split("_")[0].split("/")[0] for path in changed(before, after)} == {"block5", "logits"}


def test_unknown_layer_is_answered_with_the_nearest() -> None:
    classifier = build_classifier(SMALL, 3, seed=0)
    with pytest.raises(InputError, match="did you mean 'block5_1_conv'"):
        set_trainable(classifier, Phase(epochs=1, learning_rate=1, trainable="block5_1_convv"))


def test_head_on_pooled_features_is_the_classifier() -> None:
    classifier = build_classifier(SMALL, 3, seed=0)
    features = pooling_view(classifier).predict(images(), verbose=0)
    assert features.shape == (4, 64)
    found = head_view(classifier).predict(features, verbose=0)
    assert found == pytest.approx(classifier.predict(images(), verbose=0), rel=1e-5, abs=1e-6)


def test_dropout_is_a_function_of_the_key() -> None:
    classifier = build_classifier(SMALL, 3, seed=0)
    view, outputs = head_view(classifier), []
    for key in ([0, 1, 2], [0, 1, 2], [0, 1, 3]):
        reseed(view, key)
        outputs.append(np.asarray(view(np.ones((2, 64), np.float32), training=True)))
    assert np.array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])


# EfficientNetB0 scales inside of its published model, and its `preprocess_input` does nothing.
PUBLISHED = [name for name, record in backbones.BACKBONES.items() if record.imagenet and name != "EfficientNetB0"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_preprocessing_is_that_of_keras(name: str) -> None:
    scaling = backbones.BACKBONES[name].scaling
    ours = images() * np.array(scaling.scale) + np.array(scaling.offset)
    published = sys.modules[getattr(keras.applications, name).__module__]
    assert ours == pytest.approx(published.preprocess_input(images().copy()), abs=2e-6)


@pytest.mark.slow
def test_published_weights_give_the_published_features(shared: Path) -> None:
    """Against Keras' own model and preprocessing."""
    file = shared / "weights" / "mobilenet_v2_0.35_224_no_top.weights.h5"
    model = Model(backbone="MobileNetV2", alpha=0.35, weights=str(file))
    classifier = build_classifier(model, 5, seed=0)
    load_backbone_weights(classifier, model)
    own = keras.applications.MobileNetV2((224, 224, 3), 0.35, include_top=False, weights=None, pooling="avg")
    own.load_weights(file)
    x = images(2, 224)
    expected = own.predict(keras.applications.mobilenet_v2.preprocess_input(x.copy()), verbose=0)
    assert pooling_view(classifier).predict(x, verbose=0) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def custom(folder: Path) -> Model:
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="one")(image)
    y = keras.layers.Conv2D(4, 3, padding="same", name="two")(x)
    keras.Model(image, keras.layers.Add(name="sum")([x, y])).save(folder / "own.keras")
    path = str(folder / "own.keras")
    return Model(backbone="custom", path=path, input_size=(32, 32), last="sum", penultimate="two", scale=[0.5, 1, 2])


def test_custom_backbone_keeps_its_weights_behind_our_preprocessing(tmp_path: Path) -> None:
    model = custom(tmp_path)
    classifier = build_classifier(model, 3, seed=0)
    assert [layer.name for layer in classifier.layers[:3]] == ["image", "preprocess", "one"]
    alone = backbones.load_model(tmp_path / "own.keras")
    expected = np.asarray(alone(images() * np.array([0.5, 1, 2], np.float32))).mean(axis=(1, 2))
    assert pooling_view(classifier).predict(images(), verbose=0) == pytest.approx(expected, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "DenseNet20"}, "'DenseNet20' is unknown; did you mean 'DenseNet201'"),
        ({"backbone": "DenseNet121", "alpha": 0.5}, "model.alpha means nothing for the backbone DenseNet121"),
        ({"backbone": "PhantomNet", "last": "x"}, "model.last means nothing for the backbone PhantomNet"),
        ({"backbone": "custom"}, "needs model.path"),
        ({"backbone": "InceptionV3", "input_size": (64, 64)}, "cannot be built for images of 64 x 64 .*at least 75x75"),
        ({"backbone": "custom", "path": "x.keras", "last": "a", "penultimate": "b"}, "x.keras: no such file"),
    ],
)
def test_impossible_models_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_classifier(Model(**change), 3, seed=0)


def test_damaged_models_are_refused(tmp_path: Path) -> None:
    model, path = custom(tmp_path), tmp_path / "own.keras"
    content = path.read_bytes()
    for damaged in (content[:-500], b"no model"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"own\.keras: not a Keras 3 model \(.*\)$"):
            build_classifier(model, 3, seed=0)


def test_layer_that_is_no_feature_map_is_refused(tmp_path: Path) -> None:
    model = custom(tmp_path).model_copy(update={"penultimate": "tow"})
    with pytest.raises(InputError, match="'tow' is no feature map of custom; did you mean 'two'"):
        build_classifier(model, 3, seed=0)


def test_weights_that_cannot_be_had_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = build_classifier(SMALL, 3, seed=0)
    for weights, message in (
        ("imagenet", "PhantomNet has no ImageNet weights"),
        ("none.weights.h5", "no such weights file"),
        ("none.keras", "no such file"),
    ):
        with pytest.raises(InputError, match=message):
            load_backbone_weights(classifier, SMALL.model_copy(update={"weights": weights}))
    (tmp_path / "bad.weights.h5").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"bad\.weights\.h5: not the weights of PhantomNet"):
        load_backbone_weights(classifier, SMALL.model_copy(update={"weights": str(tmp_path / "bad.weights.h5")}))

    def offline(**_: Any) -> None:
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.applications, "MobileNetV2", offline)
    with pytest.raises(InputError, match=r"cannot be downloaded .*give its path as model\.weights"):
        load_backbone_weights(classifier, Model(backbone="MobileNetV2"))


def test_weights_of_another_run_fit_by_layer_name(tmp_path: Path) -> None:
    giver, taker = build_classifier(SMALL, 3, seed=1), build_classifier(SMALL, 5, seed=0)
    giver.save(tmp_path / "giver.keras")
    load_backbone_weights(taker, SMALL.model_copy(update={"weights": str(tmp_path / "giver.keras")}))
    assert np.array_equal(taker.get_layer("stem_conv").get_weights()[0], giver.get_layer("stem_conv").get_weights()[0])
    with pytest.raises(InputError, match="the weights of layer logits have another shape"):
        copy_weights(giver, taker)


def test_second_registration_is_an_error() -> None:
    with pytest.raises(ValueError, match="DenseNet201 is registered twice"):
        backbones.register(backbones.BACKBONES["DenseNet201"])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(backbones.BACKBONES))
def test_cam_layers_are_full_maps_and_the_last_one_is_pooled(name: str) -> None:
    classifier = build_classifier(Model(backbone=name), 5, seed=0)
    backbone = backbones.BACKBONES[name]
    last, before = classifier.get_layer(backbone.last), classifier.get_layer(backbone.penultimate)
    assert last.output.shape[1:3] == before.output.shape[1:3]
    assert classifier.get_layer("gap").input is last.output
    names = [layer.name for layer in classifier.layers]
    assert names.index(backbone.penultimate) < names.index(backbone.last)
    again = build_classifier(Model(backbone=name), 5, seed=0)
    assert weights_digest(classifier) == weights_digest(again)

"""Keras models as others write them: whatever their form, the graph says what `model.predict` says, or is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="the Keras front end needs the extra `train`")

import keras

from export.proof.parity import Difference
from export.sources.keras import export_checkpoint, find_checkpoints
from export.sources.onnx import Preprocessing
from export.write import Request
from harness.common.errors import CannotEvaluateError, EvaluationWarning, InputError
from harness.images.loading import channels_first, channels_last
from harness.models.session import Model
from tests.keras_models import base, body, classifier, nested, normalized_inside, scores, sequential

layers = keras.layers
SAME = 1e-5  # absolute, of probabilities; float32 through a few layers


@dataclass(frozen=True)
class Exported:
    """A graph beside the Keras model that it came from."""

    model: Any
    graph: Model
    differences: Sequence[Difference]

    @property
    def pictures(self) -> np.ndarray:
        """(4, H, W) grey levels."""
        return np.random.default_rng(1).uniform(0, 255, (4, *self.graph.metadata.input_size)).astype(np.float32)

    @property
    def logits(self) -> np.ndarray:
        label = self.graph.metadata.layers[0].label
        return self.graph.explain(channels_first(self.pictures), np.full(4, -1), [label]).logits

    @property
    def probabilities(self) -> np.ndarray:
        """Of class 1 where the model is binary."""
        found = self.graph.metadata.probabilities(self.logits)
        return found[:, 1:] if self.graph.metadata.score_kind == "binary" else found

    def predicted(self, output: Callable[[Any], Any] = lambda outputs: outputs) -> np.ndarray:
        """What Keras itself predicts."""
        taken = channels_last(self.pictures)[..., : self.model.inputs[0].shape[-1]]
        return np.asarray(output(self.model.predict(taken, verbose=0, batch_size=2)))


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., Exported]:
    def exporting(model: Any, *layers: str, suffix: str = ".keras", probability: bool = False, **how: Any) -> Exported:
        source, out = tmp_path / f"model{suffix}", tmp_path / "model.onnx"
        model.save(source)
        request = Request(layers or ["auto"], out, probability=probability)
        differences = export_checkpoint(find_checkpoints(source)[0], request, **how)
        return Exported(model, Model.open(out), differences)

    return exporting


@pytest.fixture(autouse=True)
def seeded() -> None:
    keras.utils.clear_session()
    keras.utils.set_random_seed(3)


# Forms


@pytest.mark.parametrize("suffix", [".keras", pytest.param(".h5", marks=pytest.mark.filterwarnings("ignore"))])
def test_sequential(export: Callable[..., Exported], suffix: str) -> None:
    found = export(sequential(), "auto", suffix=suffix)
    assert [layer.name for layer in found.graph.metadata.layers] == ["last_conv"]
    np.testing.assert_allclose(found.probabilities, found.predicted(), atol=SAME)


def test_nested_base_augmentation_and_head(export: Callable[..., Exported]) -> None:
    found = export(nested(), "auto")
    (layer,) = found.graph.metadata.layers
    assert (layer.name, layer.role) == ("base", "last")
    assert found.graph.metadata.score_kind == "softmax"
    np.testing.assert_allclose(found.probabilities, found.predicted(), atol=SAME)  # nothing is flipped or dropped
    assert np.abs(found.logits.sum(axis=1) - 1).min() > 1e-3


@pytest.mark.parametrize("name", ["base/inner_last", "inner_last", "base"])
def test_a_layer_inside_a_nested_model_is_named_by_its_path_or_its_end(
    export: Callable[..., Exported], name: str
) -> None:
    found = export(nested(), name)
    kernel = found.model.get_layer("head").get_layer("out").kernel.numpy()  # (16, 3)
    given = found.graph.explain(channels_first(found.pictures), np.array([0, 1, 2, 0]), [name])
    expected = kernel[:, [0, 1, 2, 0]].T[:, :, None, None] / 256  # a map of 16x16
    np.testing.assert_allclose(given.layers[name][1], np.broadcast_to(expected, (4, 16, 16, 16)), rtol=1e-5)


def test_an_early_layer_of_a_nested_model(export: Callable[..., Exported]) -> None:
    found = export(nested(), "base/conv2d", "base/inner_last")
    assert {item.output for item in found.differences} >= {"gradients:base/conv2d", "gradients:base/inner_last"}
    assert max(item.relative_l2 for item in found.differences) < 1e-4


@pytest.mark.parametrize("model", [sequential, nested, normalized_inside])
def test_the_picture_itself_is_a_layer(export: Callable[..., Exported], model: Callable[[], Any]) -> None:
    found = export(model(), "image", "auto")
    assert {item.output for item in found.differences} >= {"activations:image", "gradients:image"}
    assert max(item.relative_l2 for item in found.differences) < 1e-4
    maps = found.graph.explain(channels_first(found.pictures), np.full(4, -1), ["image"]).layers["image"]
    np.testing.assert_array_equal(maps[0], channels_first(found.pictures))
    assert np.abs(maps[1]).max() > 0


def test_two_nested_models_with_equal_layer_names(export: Callable[..., Exported]) -> None:
    image = keras.Input((32, 32, 3))
    x = layers.Add()([base("a")(image), base("b")(image)])
    model = keras.Model(image, scores(3)(layers.GlobalAveragePooling2D()(x)))
    found = export(model, "a/inner_last", "b/inner_last")
    np.testing.assert_allclose(found.logits, found.predicted(), rtol=1e-4)
    with pytest.raises(InputError, match=r"no spatial layer 'inner_last'; nearest .* a/inner_last .*, b/inner_last"):
        export(model, "inner_last")
    with pytest.raises(InputError, match="layers 'a' and 'a/inner_last' have one map; name it once"):
        export(model, "a", "a/inner_last")


def test_models_within_models_within_a_chain(export: Callable[..., Exported]) -> None:
    image = keras.Input((32, 32, 3))
    middle = keras.Model(image, base()(image), name="middle")
    head = keras.Sequential([layers.GlobalAveragePooling2D(), scores(3, "softmax")], name="head")
    found = export(keras.Sequential([middle, head]), "middle/base/inner_last")
    assert found.graph.metadata.layers[0].role == "last"
    np.testing.assert_allclose(found.probabilities, found.predicted(), atol=SAME)


def test_statistics_inside_a_nested_model_are_constants(export: Callable[..., Exported]) -> None:
    found = export(normalized_inside(), "in/conv")
    np.testing.assert_allclose(found.logits, found.predicted(), rtol=1e-4)


def test_a_layer_called_twice_has_two_maps(export: Callable[..., Exported]) -> None:
    image = keras.Input((32, 32, 3))
    conv = layers.Conv2D(3, 3, padding="same", activation="relu", name="conv")
    twice = conv(conv(layers.Rescaling(1 / 255.0)(image)))
    model = keras.Model(image, scores(3)(layers.GlobalAveragePooling2D()(twice)))
    found = export(model, "conv@1", "conv@2")
    maps = found.graph.explain(channels_first(found.pictures), np.full(4, 0), ["conv@1", "last"]).layers
    assert not np.allclose(maps["conv@1"][0], maps["last"][0])
    np.testing.assert_allclose(found.logits, found.predicted(), rtol=1e-4)
    with pytest.raises(InputError, match=r"no spatial layer 'conv'; nearest .*conv@2 .*conv@1"):
        export(model, "conv")


def test_frozen_layers_are_differentiated(export: Callable[..., Exported]) -> None:
    model = nested()
    model.trainable = False
    found = export(model, "base/conv2d")
    assert all(item.passes for item in found.differences)


@pytest.mark.parametrize("training", [True, False])
def test_augmentation_and_dropout_are_off_whatever_the_model_was_built_with(
    export: Callable[..., Exported], training: bool
) -> None:
    image = keras.Input((32, 32, 3))
    x = layers.RandomFlip()(image, training=training)
    x = layers.Pipeline([layers.RandomContrast(0.5), layers.RandomBrightness(0.5)])(x)
    x = layers.GaussianNoise(1.0)(x, training=training)
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(base()(x, training=training)), training=training)
    found = export(keras.Model(image, scores(3)(x)))
    np.testing.assert_allclose(found.logits, found.predicted(), rtol=1e-4)


# Precision


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "float64"])
def test_another_precision_is_exported_in_float32(export: Callable[..., Exported], policy: str) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        head = keras.Sequential(
            [layers.GlobalAveragePooling2D(), scores(3), layers.Activation("softmax", dtype="float32")], name="head"
        )
        statistics = layers.Normalization(mean=100.0, variance=50.0**2)
        image = keras.Input((32, 32, 3))
        conv = layers.Conv2D(8, 3, activation="relu", name="conv")(statistics(image))
        model = nested(keras.Model(image, layers.BatchNormalization()(conv), name="base"), head)
    finally:
        keras.config.set_dtype_policy("float32")
    found = export(model, "base/conv")
    assert max(item.relative_l2 for item in found.differences) < 1e-5  # float32, not rounded to half
    rounding = 0.05 if policy == "mixed_bfloat16" else 0.01
    np.testing.assert_allclose(found.probabilities, found.predicted(), atol=rounding)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_quantized_weights_are_refused(export: Callable[..., Exported]) -> None:
    model = classifier(lambda x: scores(3)(layers.Dense(16)(x)))
    model.quantize("int8")
    with pytest.raises(InputError, match="holds quantized weights; export the model as it was before"):
        export(model)


# Inputs and outputs


def test_a_list_of_one_output(export: Callable[..., Exported]) -> None:
    image = keras.Input((32, 32, 3))
    found = export(keras.Model(image, [scores(3)(layers.GlobalAveragePooling2D()(body(image)))]))
    np.testing.assert_allclose(found.logits, found.predicted(), rtol=1e-4)


@pytest.mark.parametrize(
    "image",
    [{"shape": (32, 32, 1)}, {"shape": (32, 32, 3), "dtype": "uint8"}, {"batch_shape": (2, 32, 32, 3)}],
    ids=["one channel", "whole numbers", "fixed batch"],
)
def test_what_an_input_may_be(export: Callable[..., Exported], image: dict[str, Any]) -> None:
    found = export(classifier(scores(3), **image))
    np.testing.assert_allclose(found.logits, found.predicted(), rtol=1e-4)


def test_free_height_and_width_need_a_size(export: Callable[..., Exported]) -> None:
    model = classifier(scores(3, "softmax"), shape=(None, None, 3))
    with pytest.raises(InputError, match=r"takes \(None, None, None, 3\); set the free height .* --input-size"):
        export(model)
    found = export(model, input_size=(40, 48))
    assert found.graph.metadata.input_size == (40, 48)
    np.testing.assert_allclose(found.probabilities, found.predicted(), atol=SAME)


def test_a_size_that_the_model_cannot_have_is_refused(export: Callable[..., Exported]) -> None:
    with pytest.raises(InputError, match=r"takes \(None, 32, 32, 3\), not the --input-size 40x40; leave the option"):
        export(classifier(scores(3)), input_size=(40, 40))
    image = keras.Input((None, None, 3))
    x = layers.Rescaling(1 / 255.0)(image)
    for _ in range(3):
        x = layers.Conv2D(4, 3, strides=2)(x)
    model = keras.Model(image, scores(3)(layers.GlobalAveragePooling2D()(x)))
    with pytest.raises(InputError, match="does not run on images of 2x2 pixels"):
        export(model, input_size=(2, 2))


def test_an_input_by_name(export: Callable[..., Exported]) -> None:
    image = keras.Input((32, 32, 3), name="image")
    model = keras.Model({"image": image}, scores(3)(layers.GlobalAveragePooling2D()(body(image))))
    found = export(model)
    predicted = model.predict({"image": channels_last(found.pictures)}, verbose=0)
    np.testing.assert_allclose(found.logits, predicted, rtol=1e-4)


@pytest.mark.parametrize("form", [list, dict])
def test_one_of_several_outputs_is_named(export: Callable[..., Exported], form: type) -> None:
    image = keras.Input((32, 32, 3))
    features = layers.GlobalAveragePooling2D()(body(image))
    made = {"class": scores(3, "softmax", name="class")(features), "age": layers.Dense(1, name="age")(features)}
    model = keras.Model(image, made if form is dict else list(made.values()))
    with pytest.raises(InputError, match=r"has the outputs .*class \(3,\).*; choose that with .* by --output"):
        export(model)
    with pytest.raises(InputError, match=r"no single output 'clas'; it has: .*class \(3,\)"):
        export(model, output="clas")
    found = export(model, output="class")
    predicted = found.predicted(lambda outputs: outputs["class" if form is dict else 0])
    np.testing.assert_allclose(found.probabilities, predicted, atol=SAME)


def test_a_layer_beside_the_way_to_the_score_is_refused(export: Callable[..., Exported]) -> None:
    image = keras.Input((32, 32, 3))
    x = body(image)
    mask = layers.Conv2D(1, 1, name="mask")(x)
    model = keras.Model(image, {"class": scores(3)(layers.GlobalAveragePooling2D()(x)), "mask": mask})
    with pytest.raises(InputError, match="layer 'mask' holds no map on the way to the score"):
        export(model, "mask", output="class")
    with pytest.raises(InputError, match=r"the output has shape \(None, 16, 16, 1\); expected one row of class scores"):
        export(model, output="mask")


def test_several_inputs_are_refused(export: Callable[..., Exported]) -> None:
    image, age = keras.Input((32, 32, 3)), keras.Input((1,))
    x = layers.Concatenate()([layers.GlobalAveragePooling2D()(body(image)), age])
    with pytest.raises(InputError, match=r"takes 2 inputs .*; expected one image"):
        export(keras.Model([image, age], scores(3)(x)))


def test_channels_first_is_refused(export: Callable[..., Exported]) -> None:
    image = keras.Input((3, 32, 32))
    x = layers.GlobalAveragePooling2D()(layers.Permute((2, 3, 1))(image))
    with pytest.raises(InputError, match=r"takes \(None, 3, 32, 32\); expected one image .* channels last"):
        export(keras.Model(image, scores(2)(x)))
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, data_format="channels_first", name="first")(layers.Permute((3, 1, 2))(image))
    with pytest.raises(InputError, match="layer 'first' has its channels first; expected channels last"):
        export(keras.Model(image, scores(2)(layers.Flatten()(x))))


# Pixels


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_what_was_done_to_pixels_before_the_model_is_put_into_the_graph(export: Callable[..., Exported]) -> None:
    image = keras.Input((32, 32, 3))
    model = keras.Model(image, scores(3)(layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3)(image))))
    with pytest.warns(EvaluationWarning, match=r"is given grey levels 0\.\.255; if it was trained on other values"):
        export(model)
    found = export(model, pixels=Preprocessing(1 / 255, (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)))
    prepared = (channels_last(found.pictures) / 255 - [0.4, 0.5, 0.6]) / [0.1, 0.2, 0.3]
    np.testing.assert_allclose(found.logits, model.predict(prepared.astype(np.float32), verbose=0), rtol=1e-4)
    assert found.graph.metadata.preprocessing.startswith("(image * 0.00392157 - [0.4, 0.5, 0.6]) / [0.1, 0.2, 0.3]")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pixels_that_are_scaled_twice_are_pointed_out(export: Callable[..., Exported]) -> None:
    model = classifier(scores(3))
    with pytest.warns(
        EvaluationWarning, match="scales pixels itself, and --scale, --mean and --std are applied before"
    ):
        found = export(model, pixels=Preprocessing(scale=0.5))
    halved = model.predict(channels_last(found.pictures) / 2, verbose=0)
    np.testing.assert_allclose(found.logits, halved, rtol=1e-4)


def test_preprocessing_by_operations_is_kept(export: Callable[..., Exported]) -> None:
    """Channels in the order of VGG, whose means are constants of the model."""
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3)(keras.applications.vgg16.preprocess_input(image))
    found = export(keras.Model(image, scores(3)(layers.GlobalAveragePooling2D()(x))))
    np.testing.assert_allclose(found.logits, found.predicted(), rtol=1e-4)


# Heads

HEADS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "ops.softmax": (lambda x: keras.ops.softmax(scores(3)(x)), "softmax"),
    "ops.sigmoid, binary": (lambda x: keras.ops.sigmoid(scores(1)(x)), "binary"),
    "ops.sigmoid": (lambda x: keras.ops.sigmoid(scores(3)(x)), "multilabel"),
    "Softmax": (lambda x: layers.Softmax()(scores(3)(x)), "softmax"),
    "Activation": (lambda x: layers.Activation("sigmoid")(scores(3)(x)), "multilabel"),
    "dropout behind": (lambda x: layers.Dropout(0.3)(scores(3, "softmax")(x)), "softmax"),
    "linear and cast behind": (
        lambda x: keras.ops.cast(layers.Activation("linear")(scores(3, "softmax")(x)), "float32"),
        "softmax",
    ),
    "convolution": (
        lambda x: layers.Flatten()(layers.Conv2D(3, 1, activation="softmax")(layers.Reshape((1, 1, 16))(x))),
        "softmax",
    ),
}


@pytest.mark.parametrize("end", HEADS)
def test_a_final_activation_is_found_and_cut(export: Callable[..., Exported], end: str) -> None:
    made, kind = HEADS[end]
    found = export(classifier(made))
    assert found.graph.metadata.score_kind == kind
    np.testing.assert_allclose(found.probabilities, found.predicted(), atol=SAME)
    assert np.abs(found.logits.sum(axis=1) - 1).min() > 1e-3  # no probabilities
    assert max(item.relative_l2 for item in found.differences) < 1e-4


def test_a_final_logarithm_is_cut(export: Callable[..., Exported]) -> None:
    found = export(classifier(scores(3, "log_softmax")))
    assert np.abs(np.exp(found.logits).sum(axis=1) - 1).min() > 1e-3
    np.testing.assert_allclose(np.log(found.probabilities), found.predicted(), atol=1e-4)


@pytest.mark.parametrize("probability", [False, True])
@pytest.mark.parametrize(("classes", "activation"), [(3, "softmax"), (3, "sigmoid"), (1, "sigmoid")])
def test_probabilities_are_explained_on_request(
    export: Callable[..., Exported], classes: int, activation: str, probability: bool
) -> None:
    found = export(classifier(scores(classes, activation)), probability=probability)
    assert found.graph.metadata.explained == ("probability" if probability else "logit")
    np.testing.assert_allclose(found.probabilities, found.predicted(), atol=SAME)


def _mean(head: Any, x: Any) -> Any:
    return layers.Average()([head(0.2 * x), head(0.06 * x)])


MEANS = {
    "mean of softmax": (3, "softmax", "softmax", "sum to 1"),
    "mean of sigmoid": (3, "sigmoid", "multilabel", r"lie in 0\.\.1"),
}


@pytest.mark.parametrize("end", MEANS)
def test_probabilities_that_no_step_ends_in_are_refused_or_explained(export: Callable[..., Exported], end: str) -> None:
    classes, activation, kind, sentence = MEANS[end]
    model = classifier(lambda x: _mean(scores(classes, activation), x))
    with pytest.raises(InputError, match=f"its outputs .*{sentence}.* on every image, so they are probabilities"):
        export(model)
    found = export(model, probability=True)
    assert found.graph.metadata.score_kind == kind
    np.testing.assert_allclose(found.probabilities, found.predicted(), atol=SAME)


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        (lambda x: scores(3, "tanh")(x), "ends in 'tanh'; expected logits, a softmax or a sigmoid"),
        (lambda x: keras.ops.relu(scores(3)(x)), "ends in 'relu'; expected logits"),
        (lambda x: scores(1, "softmax")(x), "a softmax over one score, which is 1 on every image"),
    ],
)
@pytest.mark.filterwarnings("ignore:You are using a softmax over axis -1")
def test_an_end_without_class_scores_is_refused(export: Callable[..., Exported], end: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        export(classifier(end))


def test_a_softmax_over_the_batch_is_not_taken_for_one_over_classes(export: Callable[..., Exported]) -> None:
    with pytest.raises(CannotEvaluateError, match="was taken for the softmax of its logits, but they differ by"):
        export(classifier(lambda x: keras.ops.softmax(scores(3)(x), axis=0)))


@pytest.mark.parametrize("suffix", [".keras", pytest.param(".h5", marks=pytest.mark.filterwarnings("ignore"))])
@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        (keras.losses.BinaryCrossentropy(from_logits=True), "multilabel"),
        (keras.losses.CategoricalCrossentropy(from_logits=True), "softmax"),
    ],
)
def test_what_bare_logits_mean_is_read_from_the_loss(
    export: Callable[..., Exported], loss: Any, kind: str, suffix: str
) -> None:
    model = classifier(scores(3))
    model.compile(loss=loss)
    assert export(model, suffix=suffix).graph.metadata.score_kind == kind


# Maps


def test_auto_takes_the_last_map_of_the_image_s_proportions(export: Callable[..., Exported]) -> None:
    """Attention between tokens is four-dimensional, too: (N, heads, tokens, tokens)."""
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(16, 4, strides=4, name="patches")(layers.Rescaling(1 / 255.0)(image))  # (N, 8, 8, 16)
    tokens = layers.Reshape((64, 16))(x)
    heads = layers.Permute((2, 1, 3))(layers.Reshape((64, 2, 8))(tokens))
    attention = layers.Softmax(name="attention")(keras.ops.matmul(heads, keras.ops.transpose(heads, (0, 1, 3, 2))))
    mixed = layers.Reshape((64, 16))(layers.Permute((2, 1, 3))(keras.ops.matmul(attention, heads)))
    found = export(keras.Model(image, scores(3)(layers.GlobalAveragePooling1D()(mixed))))
    assert [layer.name for layer in found.graph.metadata.layers] == ["patches"]


def test_auto_takes_a_map_that_everything_crosses(export: Callable[..., Exported]) -> None:
    image = keras.Input((32, 32, 3))
    x = body(image)  # (N, 16, 16, 16)
    one = layers.Conv2D(4, 16)(layers.Conv2D(4, 3, padding="same", name="branch")(x))  # (N, 1, 1, 4)
    x = layers.Concatenate()([one, layers.GlobalMaxPooling2D(keepdims=True)(x)])
    found = export(keras.Model(image, scores(3)(layers.Flatten()(x))))
    assert [layer.name for layer in found.graph.metadata.layers] == ["inner_last"]


def test_a_model_without_a_map_is_refused(export: Callable[..., Exported]) -> None:
    image = keras.Input((32, 32, 3))
    x = layers.Flatten()(image)
    with pytest.raises(InputError, match="no layer on the way to the score has a spatial map"):
        export(keras.Model(image, scores(3)(layers.BatchNormalization()(x))))


def test_an_unbuilt_chain_is_refused(export: Callable[..., Exported]) -> None:
    with pytest.warns(UserWarning, match="has not yet been built"), pytest.raises(InputError, match="built Sequential"):
        export(keras.Sequential([layers.Conv2D(8, 3), layers.GlobalAveragePooling2D(), layers.Dense(3)]))

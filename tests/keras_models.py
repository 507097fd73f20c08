"""Keras classifiers for export tests: a small one with the known traps inside, forms that tutorials use, backbones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np


def small(size: int = 32, classes: int = 3, activation: str | None = None) -> Any:
    """Padding before a max-pooling of negative values, skip, concatenation, average pooling, strided convolution."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    image = keras.Input((size, size, 3), name="image")
    x = layers.Rescaling(1 / 127.5, -1)(image)
    x = layers.Conv2D(8, 3, strides=2, padding="same", bias_initializer=keras.initializers.Constant(-1.0))(x)
    x = layers.MaxPooling2D(3, 2, name="pool")(layers.ZeroPadding2D(1, name="pad")(x))  # (size / 4)
    x = layers.BatchNormalization(name="normed")(x)
    skip = layers.ReLU(6.0)(x)
    x = layers.Add(name="added")([skip, layers.Conv2D(8, 3, padding="same", use_bias=False)(skip)])
    x = layers.Concatenate(name="joined")([x, layers.AveragePooling2D(3, 1, padding="same")(x)])
    x = layers.DepthwiseConv2D(
        3, strides=2, padding="same", depthwise_initializer=keras.initializers.RandomNormal(0, 1)
    )(x)
    x = layers.Activation("relu", name="map")(layers.BatchNormalization()(x))
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(image, layers.Dense(classes, activation=activation, name="logits")(x), name="small")
    return with_lively_statistics(model)


def body(image: Any) -> Any:
    """A map (N, H/2, W/2, 16) of an image, its last layer called `inner_last`."""
    x = keras.layers.Rescaling(1 / 255.0)(image)
    x = keras.layers.Conv2D(8, 3, activation="relu", padding="same")(x)
    return keras.layers.Conv2D(16, 3, activation="relu", padding="same", name="inner_last")(keras.layers.MaxPool2D()(x))


def base(name: str = "base") -> Any:
    """A model without a head, to be called as one layer."""
    image = keras.Input((32, 32, 3))
    return keras.Model(image, body(image), name=name)


def classifier(end: Callable[[Any], Any], **image: Any) -> Any:
    """Pooled features of `body` (N, 16) with an end on top; `image`: arguments of keras.Input."""
    taken = keras.Input(**(image or {"shape": (32, 32, 3)}))
    return keras.Model(taken, end(keras.layers.GlobalAveragePooling2D()(body(taken))))


def scores(classes: int, activation: str | None = None, **options: Any) -> Any:
    """A last layer with weights so large that classes differ between images."""
    wide = keras.initializers.RandomNormal(stddev=3.0, seed=1)
    return keras.layers.Dense(classes, activation=activation, kernel_initializer=wide, **options)


def sequential() -> Any:
    """A plain chain of layers."""
    layers = keras.layers
    return keras.Sequential([
        keras.Input((32, 32, 3)), layers.Rescaling(1 / 255.0), layers.Conv2D(8, 3, activation="relu"),
        layers.MaxPool2D(), layers.Conv2D(8, 3, activation="relu", name="last_conv"), layers.Flatten(),
        layers.Dropout(0.3), layers.Dense(3, activation="softmax"),
    ])  # fmt: skip


def nested(middle: Any = None, head: Any = None) -> Any:
    """Keras' guide to transfer learning: augmentation, a base model and a head, each called as one layer."""
    layers = keras.layers
    image = keras.Input((32, 32, 3))
    augmented = keras.Sequential([layers.RandomFlip(), layers.RandomRotation(0.2)], name="augmentation")(image)
    x = (middle or base())(augmented, training=False)
    head = head or keras.Sequential(
        [layers.GlobalAveragePooling2D(), layers.Dropout(0.2), scores(3, "softmax", name="out")], name="head"
    )
    return keras.Model(image, head(x))


def normalized_inside() -> Any:
    """A nested model that begins with a Normalization layer, adapted to images."""
    statistics = keras.layers.Normalization(name="statistics")
    statistics.adapt(np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype(np.float32))
    image = keras.Input((32, 32, 3))
    first = keras.Model(image, keras.layers.Conv2D(8, 3, activation="relu", name="conv")(statistics(image)), name="in")
    taken = keras.Input((32, 32, 3))
    return keras.Model(taken, scores(3)(keras.layers.GlobalAveragePooling2D()(first(taken))))


def transferred(architecture: str, head: Any, size: int = 96, preprocess: Any = None) -> Any:
    """Keras' guide to transfer learning on a backbone: called as one layer, in inference mode, with a new head."""
    image = keras.Input((size, size, 3))
    x = preprocess(image) if preprocess else image
    whole = getattr(keras.applications, architecture)(include_top=False, weights=None, input_shape=(size, size, 3))
    x = keras.layers.GlobalAveragePooling2D()(whole(x, training=False))
    return with_lively_statistics(keras.Model(image, head(keras.layers.Dropout(0.2)(x))))


def backbone(architecture: str, size: int = 224, classes: int = 5) -> Any:
    """A classifier on one of the Keras backbones with random weights."""
    keras.utils.clear_session()  # names such as activation_17 count from the start of the process else
    keras.utils.set_random_seed(3)
    image = keras.Input((size, size, 3), name="image")
    options = {"alpha": 0.35} if architecture == "MobileNetV2" else {}
    body = getattr(keras.applications, architecture)(
        include_top=False, weights=None, input_tensor=keras.layers.Rescaling(1 / 127.5, -1)(image), **options
    )
    pooled = keras.layers.GlobalAveragePooling2D()(body.output)
    return with_lively_statistics(keras.Model(image, keras.layers.Dense(classes, name="logits")(pooled)))


def with_lively_statistics(model: Any) -> Any:
    """BatchNorm statistics as after some training: with the initial ones deep random networks are dead."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            with_lively_statistics(layer)
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.moving_mean.shape
            layer.moving_mean.assign(rng.normal(0, 0.2, shape))
            layer.moving_variance.assign(rng.uniform(0.5, 2.0, shape))
            layer.beta.assign(rng.normal(0, 0.3, shape))
            if layer.scale:
                layer.gamma.assign(rng.uniform(0.8, 1.2, shape))
    return model

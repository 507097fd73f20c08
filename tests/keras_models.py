"""Keras classifiers for export tests: a small one with the known traps inside, and the four backbones."""

from __future__ import annotations

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
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.moving_mean.shape
            layer.moving_mean.assign(rng.normal(0, 0.2, shape))
            layer.moving_variance.assign(rng.uniform(0.5, 2.0, shape))
            layer.beta.assign(rng.normal(0, 0.3, shape))
            if layer.scale:
                layer.gamma.assign(rng.uniform(0.8, 1.2, shape))
    return model

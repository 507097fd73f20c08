"""PhantomNet: a small residual network of our own, for the demonstration and for tests that must be quick.

Five residual blocks (He 2015, arXiv 1512.03385) with BatchNorm and ReLU; about 130,000 parameters. The stride is 16:
an image of 224 pixels gives a 14 x 14 map, finer than the 7 x 7 of the published networks.
"""

from __future__ import annotations

from typing import Any

from training.framework import keras

# (filters, stride) of each block; the last two share their width, so `block4_out` is a full-width penultimate map.
BLOCKS = ((16, 1), (24, 2), (32, 2), (64, 2), (64, 1))


def phantomnet(*, input_tensor: Any, weights: None = None) -> Any:
    """Add the network to a Keras tensor (N, H, W, 3); the output is (N, H / 16, W / 16, 64), rectified."""
    assert weights is None, "there are no published weights"
    layers = keras.layers
    x = _convolved(input_tensor, 16, 3, 2, "stem")
    x = layers.Activation("relu", name="stem_relu")(x)
    for number, (filters, stride) in enumerate(BLOCKS, start=1):
        x = _block(x, filters, stride, f"block{number}")
    return keras.Model(keras.utils.get_source_inputs(input_tensor), x, name="phantomnet")


def _block(x: Any, filters: int, stride: int, name: str) -> Any:
    layers = keras.layers
    same = stride == 1 and x.shape[-1] == filters
    shortcut = x if same else _convolved(x, filters, 1, stride, f"{name}_0")
    y = _convolved(x, filters, 3, stride, f"{name}_1")
    y = layers.Activation("relu", name=f"{name}_1_relu")(y)
    y = _convolved(y, filters, 3, 1, f"{name}_2")
    return layers.Activation("relu", name=f"{name}_out")(layers.Add(name=f"{name}_add")([shortcut, y]))


def _convolved(x: Any, filters: int, width: int, stride: int, name: str) -> Any:
    layers = keras.layers
    x = layers.Conv2D(filters, width, stride, padding="same", use_bias=False, name=f"{name}_conv")(x)
    return layers.BatchNormalization(name=f"{name}_bn")(x)

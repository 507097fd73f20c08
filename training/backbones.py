"""The backbones: one record each, and the only place that names their layers and their preprocessing.

A record's `build(tensor, options)` adds the backbone's layers to a Keras tensor and returns the feature map's tensor
as the output of a functional model. `scaling` maps grey levels 0..255 to what the published weights expect.
"""

from __future__ import annotations

import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.common.errors import InputError, first_line
from training.config import Model, nearest
from training.framework import keras
from training.phantomnet import phantomnet

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Scaling:
    """Preprocessing of grey levels x, channel by channel: x * scale + offset."""

    scale: Triple
    offset: Triple


UNIT = Scaling((1 / 127.5, 1 / 127.5, 1 / 127.5), (-1.0, -1.0, -1.0))  # the "tf" mode of keras.applications
# The "torch" mode: (x / 255 - mean) / std with the statistics of ImageNet.
TORCH = Scaling(
    (1 / (255 * 0.229), 1 / (255 * 0.224), 1 / (255 * 0.225)), (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225)
)


@dataclass(frozen=True)
class Backbone:
    """`last` is the layer whose map global pooling reads, `penultimate` the last full-width block output before."""

    name: str
    build: Callable[..., Any]  # (input_tensor=..., weights=..., **options) -> keras.Model
    scaling: Scaling
    last: str
    penultimate: str
    imagenet: bool = True  # published weights exist
    options: tuple[str, ...] = ()  # keys of [model] that `build` takes


BACKBONES: dict[str, Backbone] = {}


def register(backbone: Backbone) -> None:
    """Add a record. A second one of the same name is an error."""
    if backbone.name in BACKBONES:
        raise ValueError(f"backbone {backbone.name} is registered twice")
    BACKBONES[backbone.name] = backbone


def find(model: Model) -> Backbone:
    """The record that `model.backbone` names, or the one that [model] describes for `custom`."""
    if model.backbone == "custom":
        return _custom(model)
    if model.backbone not in BACKBONES:
        raise InputError(
            f"model.backbone {model.backbone!r} is unknown; {nearest(model.backbone, [*BACKBONES, 'custom'])}"
        )
    backbone = BACKBONES[model.backbone]
    surplus = [key for key in ("path", "scale", "offset", "last", "penultimate") if getattr(model, key) is not None]
    if model.alpha is not None and "alpha" not in backbone.options:
        surplus.append("alpha")
    if surplus:
        raise InputError(f"model.{surplus[0]} means nothing for the backbone {backbone.name}; leave it out")
    return backbone


def options(backbone: Backbone, model: Model) -> dict[str, Any]:
    """What [model] sets of the options that this backbone takes."""
    chosen = {key: getattr(model, key) for key in backbone.options}
    return {key: value for key, value in chosen.items() if value is not None}


def _published(name: str) -> Callable[..., Any]:
    def build(*, input_tensor: Any, **keywords: Any) -> Any:
        shape = tuple(input_tensor.shape[1:])
        with warnings.catch_warnings():
            # MobileNetV2 warns at sizes for which no weights were published; convolutions fit every size.
            warnings.filterwarnings("ignore", "`input_shape` is undefined or non-square", UserWarning)
            function = getattr(keras.applications, name)
            return function(include_top=False, input_tensor=input_tensor, input_shape=shape, **keywords)

    return build


def _efficientnet(*, input_tensor: Any, **keywords: Any) -> Any:
    """EfficientNetB0 without the preprocessing layers that Keras builds in: ours takes their place.

    They would leave constants behind as graph inputs on export, and the published weights need one more of them than
    a model built without weights has. All together they are the "torch" mode.
    """
    shape = tuple(input_tensor.shape[1:])
    whole = keras.applications.EfficientNetB0(include_top=False, input_shape=shape, **keywords)
    return on_tensor(whole, input_tensor, skipped=(keras.layers.Rescaling, keras.layers.Normalization))


def on_tensor(model: Any, tensor: Any, skipped: tuple[type, ...] = ()) -> Any:
    """A copy of `model`, weights included, that reads `tensor`: a functional model from the tensor's source.

    Layers of the types `skipped` hand on what they get. A copy and not the layers themselves: a layer that belongs to
    two graphs answers `.output` with the tensor of the first.
    """
    source = keras.utils.get_source_inputs(tensor)[0]

    def call(layer: Any, *arguments: Any, **keywords: Any) -> Any:
        arguments = tuple(tensor if value is source else value for value in arguments)
        return arguments[0] if isinstance(layer, skipped) else layer(*arguments, **keywords)

    inputs = [source] if isinstance(model.input, list) else source
    copy = keras.models.clone_model(model, inputs, call_function=call)
    for layer in copy.layers:
        if layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    return copy


def _custom(model: Model) -> Backbone:
    needed = [key for key in ("path", "last", "penultimate") if getattr(model, key) is None]
    if needed:
        raise InputError(f'model.backbone = "custom" needs model.{needed[0]}')
    scaling = Scaling(_triple(model.scale, 1.0), _triple(model.offset, 0.0))

    def build(*, input_tensor: Any, **_: None) -> Any:
        return on_tensor(load_model(Path(str(model.path))), input_tensor)

    return Backbone("custom", build, scaling, str(model.last), str(model.penultimate), imagenet=False)


def _triple(given: list[float] | None, default: float) -> Triple:
    values = given or [default] * 3
    if len(values) != 3:
        raise InputError("model.scale and model.offset take three numbers, one per channel")
    return values[0], values[1], values[2]


def load_model(path: Path) -> Any:
    """A `.keras` file in Keras' safe mode. Raises InputError where it is missing or no such file."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (ValueError, OSError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: not a Keras 3 model ({first_line(error)})") from error


for _record in (
    Backbone("DenseNet121", _published("DenseNet121"), TORCH, "relu", "conv5_block15_concat"),
    Backbone("DenseNet201", _published("DenseNet201"), TORCH, "relu", "conv5_block31_concat"),
    Backbone("ResNet50V2", _published("ResNet50V2"), UNIT, "post_relu", "conv5_block2_out"),
    Backbone("InceptionV3", _published("InceptionV3"), UNIT, "mixed10", "mixed9"),
    Backbone("MobileNetV2", _published("MobileNetV2"), UNIT, "out_relu", "block_16_project_BN", options=("alpha",)),
    Backbone("EfficientNetB0", _efficientnet, TORCH, "top_activation", "block7a_project_bn"),
    Backbone("PhantomNet", phantomnet, UNIT, "block5_out", "block4_out", imagenet=False),
):
    register(_record)

"""From a backbone's record to a classifier, and the views of it that are trained.

A classifier is one flat functional model, so that every inner layer can be named and exported:

    image (N, H, W, 3), grey levels 0..255 in three equal channels
      -> preprocess (Rescaling) -> backbone -> gap -> head_dropout -> logits (N, K), float32, no activation
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.common import provenance
from harness.common.errors import InputError, first_line
from training import backbones
from training.config import Model, Phase, nearest
from training.framework import fresh_session, keras, several_devices

HEAD = ("gap", "head_dropout", "logits")


def build_classifier(model: Model, classes: int, seed: int, precision: str = "float32") -> Any:
    """A classifier with freshly seeded weights; the same arguments give the same bits."""
    fresh_session(seed, precision)
    with several_devices():
        return _assemble(model, classes, seed)


def _assemble(model: Model, classes: int, seed: int) -> Any:
    backbone, layers = backbones.find(model), keras.layers
    image = keras.Input((*model.input_size, 3), name="image")
    scaled = layers.Rescaling(list(backbone.scaling.scale), list(backbone.scaling.offset), name="preprocess")(image)
    try:
        body = backbone.build(input_tensor=scaled, weights=None, **backbones.options(backbone, model))
    except ValueError as error:
        size = " x ".join(map(str, model.input_size))
        raise InputError(f"{backbone.name} cannot be built for images of {size} ({first_line(error)})") from error
    pooled = layers.GlobalAveragePooling2D(name="gap")(body.output)
    dropped = layers.Dropout(model.dropout, seed=seed, name="head_dropout")(pooled)
    logits = layers.Dense(classes, name="logits", dtype="float32")(dropped)
    classifier = keras.Model(body.input, logits, name=backbone.name.lower())
    _require_maps(classifier, backbone)
    return classifier


def load_backbone_weights(classifier: Any, model: Model) -> None:
    """Give the backbone its first weights: `imagenet`, a path, or none."""
    backbone = backbones.find(model)
    if model.weights == "none" or backbone.name == "custom":
        return
    if model.weights == "imagenet":
        source = _download(backbone, model)
    elif model.weights.endswith(".keras"):
        source = backbones.load_model(Path(model.weights))
    else:
        source = _from_weights_file(backbone, model, Path(model.weights))
    copied = copy_weights(source, classifier, without=("logits",))
    lacking = {layer.name for layer in classifier.layers if layer.weights} - copied - {"logits"}
    if lacking:
        raise InputError(f"model.weights {model.weights}: no weights for {len(lacking)} layers, first {min(lacking)}")


def copy_weights(source: Any, target: Any, without: tuple[str, ...] = ()) -> set[str]:
    """Copy the weights of equally named layers; returns the names. Other shapes under one name are refused."""
    givers = {layer.name: layer for layer in source.layers if layer.weights and layer.name not in without}
    takers = [layer for layer in target.layers if layer.weights and layer.name in givers]
    for layer in takers:
        try:
            layer.set_weights(givers[layer.name].get_weights())
        except ValueError as error:
            raise InputError(f"the weights of layer {layer.name} have another shape: {first_line(error)}") from error
    return {layer.name for layer in takers}


def weights_digest(model: Any) -> str:
    """The identity of a model's weights, as `run.json` records it."""
    return provenance.weights_digest((weight.path, keras.ops.convert_to_numpy(weight)) for weight in model.weights)


def set_trainable(classifier: Any, phase: Phase) -> None:
    """Freeze and thaw the layers as `phase.trainable` says: "head", "all", or a layer's name and all after it."""
    names = [layer.name for layer in classifier.layers]
    first = {"all": 0, "head": names.index("gap")}.get(phase.trainable)
    if first is None:
        if phase.trainable not in names:
            raise InputError(
                f'trainable = "{phase.trainable}" is neither "head" nor "all" nor a layer; '
                f"{nearest(phase.trainable, names)}"
            )
        first = names.index(phase.trainable)
    for index, layer in enumerate(classifier.layers):
        layer.trainable = index >= first
        if phase.batchnorm == "train" and isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = phase.batchnorm_momentum


def cam_layer(classifier: Any, model: Model, layer: str) -> str:
    """The name of a CAM layer that is given by its role (`penultimate`, `last`) or by its name."""
    backbone = backbones.find(model)
    name = {"last": backbone.last, "penultimate": backbone.penultimate}.get(layer, layer)
    names = _maps(classifier)
    if name not in names:
        raise InputError(f"preserve.layer {name!r} is no feature map of {backbone.name}; {nearest(name, names)}")
    return name


def training_view(classifier: Any, phase: Phase) -> Any:
    """The same layers and weights, called the way the phase wants them during training (`runs_as_in_inference`)."""
    return view_with_tensors(classifier, lambda layer: runs_as_in_inference(layer, phase))[0]


def inference_view(classifier: Any, layer: str) -> Any:
    """The same layers and weights in inference mode whatever the model is told: outputs of `layer`, and logits."""
    view, tensors = view_with_tensors(classifier, lambda _: True)
    return keras.Model(view.input, [tensors[layer], view.output])


def runs_as_in_inference(layer: Any, phase: Phase) -> bool:
    """Whether a layer is the same in training as in inference.

    Frozen layers always are (no dropout, no moving statistics); BatchNorm is, too, where `phase.batchnorm` is
    "inference", although its gamma and beta may learn; and so is what knows no training mode.
    """
    fixed = phase.batchnorm == "inference" and isinstance(layer, keras.layers.BatchNormalization)
    return fixed or not layer.trainable or not _takes_training(layer)


def view_with_tensors(classifier: Any, still: Callable[[Any], bool]) -> tuple[Any, dict[str, Any]]:
    """A model of the same layers, those that are `still` in inference mode, and each one's output by its name."""
    tensors: dict[str, Any] = {}

    def call(layer: Any, *arguments: Any, **keywords: Any) -> Any:
        if still(layer) and _takes_training(layer):
            found = AsInInference(layer)(*arguments)
        else:
            found = layer(*arguments, **keywords)
        tensors[layer.name] = found
        return found

    view = keras.models.clone_model(classifier, clone_function=lambda layer: layer, call_function=call)
    return view, tensors


def _takes_training(layer: Any) -> bool:
    return "training" in inspect.signature(layer.call).parameters


class AsInInference(keras.layers.Layer):
    """Calls a layer with training=False whatever the model is told.

    A `training=False` given while a functional model is put together does not do it: fit() overrides it.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__(name=f"{layer.name}_as_in_inference", dtype=layer.dtype_policy)
        self.layer = layer

    def call(self, inputs: Any) -> Any:
        return self.layer(inputs, training=False)


def head_view(classifier: Any) -> Any:
    """The shared head alone, on pooled features (N, C): what trains when the backbone's output is cached."""
    features = keras.Input(classifier.get_layer("gap").output.shape[1:], name="features")
    dropped = classifier.get_layer("head_dropout")(features)
    return keras.Model(features, classifier.get_layer("logits")(dropped))


def pooling_view(classifier: Any) -> Any:
    """The shared backbone up to its pooled features (N, C)."""
    return keras.Model(classifier.input, classifier.get_layer("gap").output)


def preprocessing(classifier: Any) -> dict[str, Any]:
    """What the model does to grey levels first, for `run.json`."""
    layer = classifier.get_layer("preprocess")
    return {"inside_model": True, "formula": "x * scale + offset", "scale": layer.scale, "offset": layer.offset}


def _require_maps(classifier: Any, backbone: backbones.Backbone) -> None:
    names = _maps(classifier)
    for name in (backbone.last, backbone.penultimate):
        if name not in names:
            raise InputError(f"{name!r} is no feature map of {backbone.name}; {nearest(name, names)}")


def _maps(classifier: Any) -> list[str]:
    """The layers with a map (N, h, w, C)."""
    return [layer.name for layer in classifier.layers if len(getattr(layer.output, "shape", ())) == 4]


def _bare(backbone: backbones.Backbone, model: Model, weights: str | None) -> Any:
    image = keras.Input((*model.input_size, 3))
    return backbone.build(input_tensor=image, weights=weights, **backbones.options(backbone, model))


def _download(backbone: backbones.Backbone, model: Model) -> Any:
    if not backbone.imagenet:
        raise InputError(f'{backbone.name} has no ImageNet weights; use model.weights = "none" and [phases.pretrain]')
    keras.utils.clear_session()
    try:
        return _bare(backbone, model, "imagenet")
    except Exception as error:  # Keras raises a bare Exception for every failed download
        raise InputError(
            f"the ImageNet weights of {backbone.name} cannot be downloaded ({error}); fetch the `notop` .h5 file "
            "where there is a network and give its path as model.weights"
        ) from error


def _from_weights_file(backbone: backbones.Backbone, model: Model, path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    keras.utils.clear_session()
    bare = _bare(backbone, model, None)
    try:
        bare.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        raise InputError(f"{path}: not the weights of {backbone.name} without top ({first_line(error)})") from error
    return bare

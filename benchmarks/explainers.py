"""One batch of images through a network to logits and maps by LayerCAM and Grad-CAM++: ours, and how others do it.

An explainer takes grey levels (N, H, W) and classes (N,), and gives `Explained`. Maps are raw, of the layer's size,
(N, h, w), but for pytorch-grad-cam's, which can only be had enlarged and scaled.

- ours: one ONNX Runtime call on an exported graph, and the CAM kernels.
- a compiled GradientTape: a `tf.function` that returns logits, activations and gradients at once, and numpy.
- tf-keras-vis: a compiled forward pass for the logits, then `Layercam` and `GradcamPlusPlus`, without their enlarging
  (`expand_cam=False`) and scaling, which would only make them slower. Its Grad-CAM++ divides the alphas of each channel
  by their sum, as its authors' code does and the paper's equation 19 does not: as much work, another map.
- pytorch-grad-cam: `LayerCAM` and `GradCAMPlusPlus` on torchvision's network of the same family and size.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import kernel_rivals as rivals
from benchmarks.networks import CLASSES
from benchmarks.timing import THREADS
from harness.images.loading import channels_first, channels_last

METHODS = ("layercam", "gradcam++")
BATCH = 8
NORMALISED = "gradcam++ with alphas that sum to 1"
# torchvision's network of the family, and its module whose map has the size of our CAM layer's
TORCH = {
    "ResNet50V2": ("resnet50", lambda model: model.layer4[1]),
    "DenseNet201": ("densenet201", lambda model: model.features.denseblock4),
    "InceptionV3": ("inception_v3", lambda model: model.Mixed_7b),
}


@dataclass(frozen=True)
class Explained:
    """logits (N, K), and per method maps (N, h, w)."""

    logits: np.ndarray
    maps: dict[str, np.ndarray]


Explainer = Callable[[np.ndarray, np.ndarray], Explained]


def ours(path: Path) -> Explainer:
    """An exported graph in ONNX Runtime, as `evaluate` uses it."""
    from harness.models.session import Model
    from kernels.cam import cams

    model = Model.open(path, threads=THREADS)
    (label,) = model.graph.layers

    def explain(greys: np.ndarray, classes: np.ndarray) -> Explained:
        found = model.explain(channels_first(greys), classes, [label])
        made = cams(METHODS, *found.layers[label], threads=THREADS)
        return Explained(found.logits, {method: maps for method, (maps, _) in made.items()})

    return explain


def tape(path: Path, layer: str) -> Explainer:
    """A Keras checkpoint under a compiled GradientTape."""
    tf, model = _loaded(path)
    pinned = tf.keras.Model(model.inputs, [model.output, model.get_layer(layer).output])

    @tf.function
    def passes(images: Any, classes: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as recorded:
            recorded.watch(images)
            logits, activations = pinned(images, training=False)
            score = tf.reduce_sum(tf.gather(logits, classes, batch_dims=1))
        return logits, activations, recorded.gradient(score, activations)

    def explain(greys: np.ndarray, classes: np.ndarray) -> Explained:
        found = passes(tf.constant(channels_last(greys)), tf.constant(classes))
        logits, A, G = (value.numpy() for value in found)
        return Explained(logits, {"layercam": _layercam(A, G), "gradcam++": _gradcam_plus_plus(A, G)})

    return explain


def _layercam(A: np.ndarray, G: np.ndarray) -> np.ndarray:
    """(N, h, w, C) to (N, h, w)."""
    return np.maximum(np.einsum("nhwc,nhwc->nhw", np.maximum(G, 0), A), 0)


def _gradcam_plus_plus(A: np.ndarray, G: np.ndarray) -> np.ndarray:
    positive = np.maximum(G, 0)
    weights = (positive / (2 + positive * A.sum(axis=(1, 2), keepdims=True))).sum(axis=(1, 2))
    return np.maximum(np.einsum("nc,nhwc->nhw", weights, A), 0)


def tf_keras_vis(path: Path, layer: str) -> Explainer:
    """A Keras checkpoint under tf-keras-vis."""
    tf, model = _loaded(path)
    with warnings.catch_warnings():  # it imports `zoom` from a place that SciPy will take away
        warnings.simplefilter("ignore", DeprecationWarning)
        from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
        from tf_keras_vis.layercam import Layercam
    from tf_keras_vis.utils.scores import CategoricalScore

    forward = tf.function(lambda images: model(images, training=False))
    methods = {"layercam": Layercam(model), NORMALISED: GradcamPlusPlus(model)}
    options = {"seek_penultimate_conv_layer": False, "expand_cam": False, "normalize_cam": False}

    def explain(greys: np.ndarray, classes: np.ndarray) -> Explained:
        images, score = tf.constant(channels_last(greys)), CategoricalScore(classes.tolist())
        maps = {
            name: np.asarray(method(score, images, penultimate_layer=layer, **options))
            for name, method in methods.items()
        }
        return Explained(forward(images).numpy(), maps)

    return explain


def _loaded(path: Path) -> tuple[Any, Any]:
    import tensorflow as tf

    return tf, tf.keras.models.load_model(path, compile=False)


def pytorch_grad_cam(architecture: str) -> Explainer:
    """torchvision's network with random weights under pytorch-grad-cam."""
    import torch
    import torchvision
    from pytorch_grad_cam import GradCAMPlusPlus, LayerCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    name, layer = TORCH[architecture]
    more = {"aux_logits": False, "init_weights": True} if name == "inception_v3" else {}
    model = getattr(torchvision.models, name)(weights=None, num_classes=5, **more).eval()
    methods = {"layercam": LayerCAM(model, [layer(model)]), "gradcam++": GradCAMPlusPlus(model, [layer(model)])}

    def explain(greys: np.ndarray, classes: np.ndarray) -> Explained:
        images = torch.from_numpy(channels_first(greys)) / 127.5 - 1
        targets = [ClassifierOutputTarget(number) for number in classes.tolist()]
        maps = {name: method(images, targets) for name, method in methods.items()}
        return Explained(methods["layercam"].outputs.detach().numpy(), maps)

    return explain


def batch(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey levels (BATCH, size, size) and classes (BATCH,) to time a pass on."""
    greys = np.random.default_rng(0).uniform(0, 255, (BATCH, size, size)).astype(np.float32)
    return greys, np.arange(BATCH) % len(CLASSES)


def enlarged(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N, h, w) to (N, H, W), with half-pixel centres as ours."""
    return rivals.resize(maps, size)

"""Explaining one image by one exported graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.common.cpus import available_cpus
from harness.common.errors import InputError
from harness.common.storage import as_location
from harness.images.containers import MAX_PIXELS
from harness.images.loading import read_picture
from harness.images.rule import ImageRule
from harness.models.attribution import ExplainedImage, explain_image
from harness.models.session import Model


def explain(
    model: Any,
    image: Any,
    target: str | None = None,
    layers: Sequence[str] = (),
    methods: Sequence[str] = (),
    provider: str = "cpu",
    max_pixels: float = MAX_PIXELS,
) -> ExplainedImage:
    """Logits, and the raw map of every method at every layer, for one image.

    :param model: an exported graph (path), or a `Model` that is open already.
    :param image: a file, or an array in 0..255: grey levels (H, W), or for a graph of colours red, green, blue
        (H, W, 3).
    :param target: class to explain; None: the predicted one.
    :param layers, methods: all where none is named.
    :raises InputError: an image that cannot be read, a class, a layer or a method that is not there.
    """
    opened = model if isinstance(model, Model) else Model.open(as_location(model), provider, available_cpus())
    name = "the image" if isinstance(image, np.ndarray) else str(image)
    picture = _picture(image, opened.metadata.rule, max_pixels)
    return explain_image(opened, picture, target, layers, methods, name)


def _picture(image: Any, rule: ImageRule, max_pixels: float) -> np.ndarray:
    """A file decoded, or an array with the channels that the rule has."""
    if not isinstance(image, np.ndarray):
        return read_picture(image, rule, max_pixels=max_pixels)
    wanted = "(H, W)" if rule.colour == "grey" else "(H, W, 3)"
    if image.shape[2:] != (() if rule.colour == "grey" else (3,)):
        raise InputError(f"the image has the shape {image.shape}; image rule {rule.label} takes {wanted}")
    return np.asarray(image, np.float32)

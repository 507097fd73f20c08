"""Explaining one image by one exported graph."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.common.storage import place
from harness.images.containers import MAX_PIXELS
from harness.images.loading import load_grey, squash
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
    :param image: a file, or grey levels (H, W) in 0..255.
    :param target: class to explain; None: the predicted one.
    :param layers, methods: all where none is named.
    :raises InputError: an image that cannot be read, a class, a layer or a method that is not there.
    """
    opened = model if isinstance(model, Model) else Model.open(place(model), provider, os.cpu_count() or 1)
    size = opened.metadata.input_size
    grey = (
        squash(np.asarray(image, np.float32), size)
        if isinstance(image, np.ndarray)
        else load_grey(image, size, max_pixels=max_pixels)
    )
    name = "the image" if isinstance(image, np.ndarray) else str(image)
    return explain_image(opened, grey, target, layers, methods, name)

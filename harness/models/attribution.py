"""From images and targets to attribution maps: one call of a model serves all methods that reduce A and G.

Methods that take further passes are computed by `explain_further`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from harness.common.errors import InputError
from harness.common.validation import user_functions
from harness.images.loading import view_of
from harness.images.view import Geometry, channels_first
from harness.models.metadata import require_applicable
from harness.models.session import Explanation, Model
from harness.models.several_passes import maps_of
from kernels.cam import cams, conditioning
from kernels.catalogue import METHODS, cam_method, of_one_pass, of_several_passes
from kernels.reasons import BY_CODE, Reason


class Maps(NamedTuple):
    """Raw maps (N, h, w) float32, reason codes (N,) uint8, and `conditioning` (N,), NaN where it is not known."""

    raw: np.ndarray
    codes: np.ndarray
    conditioning: np.ndarray


@dataclass(frozen=True)
class Map:
    """The raw map (h, w) of one method at one layer, and why it is undefined, if it is."""

    layer: str
    method: str
    raw: np.ndarray
    reason: Reason


@dataclass(frozen=True)
class Further:
    """What further passes found: maps, as a graph would make them, and (layer, method) -> residuals (n,)."""

    explanation: Explanation
    residuals: dict[tuple[str, str], np.ndarray]


@dataclass(frozen=True)
class ExplainedImage:
    """What a graph says of an image: probabilities and logits (K,), and its maps.

    picture: (h, w) grey levels or (h, w, 3) colours 0..255, upright and in its own size
    geometry: how it lies in what the network saw, which the maps belong to
    target: index of the class whose maps these are
    """

    picture: np.ndarray
    geometry: Geometry
    classes: Sequence[str]
    logits: np.ndarray
    probabilities: np.ndarray
    target: int
    maps: Sequence[Map]


def explain_further(
    model: Model,
    found: Explanation,
    methods: Sequence[str],
    rows: np.ndarray,
    pictures: np.ndarray,
    targets: np.ndarray,
) -> Further:
    """Maps of the methods that take further passes, for some rows of a call.

    :param rows: (n,) places in the call; `pictures` (N, 3, H, W) and `targets` (N,) are those of the whole call.
    """
    made = {
        (layer, method): maps_of(model, layer, method, activations[rows], pictures[rows], targets[rows])
        for layer, (activations, _) in found.layers.items()
        for method in of_several_passes(methods)
    }
    maps = {key: raw for key, (raw, _) in made.items()}
    return Further(Explanation(found.logits[rows], {}, maps), {key: rest for key, (_, rest) in made.items()})


def reduce(
    found: Explanation,
    methods: Sequence[str],
    rows: np.ndarray | slice = slice(None),
    threads: int = 1,
    named: Callable[[int], str] = str,
) -> dict[tuple[str, str], Maps]:
    """(layer, method) -> maps of some rows of a call, reduced from activations and gradients or made by the graph.

    :param named: what to call the image of a row in a message about a method of the user's own.
    """
    maps = {key: _judged(key[1], made[rows]) for key, made in found.maps.items()}
    for layer, (activations, gradients) in found.layers.items():
        a, g = activations[rows], gradients[rows]
        with user_functions(named):
            made = cams(of_one_pass(methods), a, g, threads)
        maps |= {(layer, name): Maps(*result, conditioning(name, a, g, threads)) for name, result in made.items()}
    return maps


def explain_image(
    model: Model,
    picture: np.ndarray,
    target: str | None,
    layers: Sequence[str],
    methods: Sequence[str] = (),
    name: str = "the image",
) -> ExplainedImage:
    """All methods at some layers (all, if none is named) for class `target` (the predicted one, if None).

    :param picture: (h, w) grey levels or (h, w, 3) colours 0..255, by the image rule of the model.
    :param name: what to call the image in a message about a method of the user's own.
    :raises InputError: a class, a layer or a method that is not there, or a picture that the rule does not take.
    """
    metadata = model.metadata
    seen = view_of(name, picture, metadata.rule, metadata.input_size)
    labels = [model.graph.layer(name).label for name in layers] or list(model.graph.layers)
    if target is not None and target not in metadata.classes:
        raise InputError(f"{model.graph.path}: no class {target!r}; it has: {', '.join(metadata.classes)}")
    number = -1 if target is None else metadata.classes.index(target)
    known, view = _known(methods), channels_first(seen.pixels[None])
    require_applicable([model.graph.layers[label] for label in labels], methods)
    found, all_made = all_maps(model, view, np.array([number]), labels, known, lambda _: name)
    probabilities = metadata.probabilities(found.logits)[0]
    maps = [Map(*key, made.raw[0], BY_CODE[int(made.codes[0])]) for key, made in all_made.items()]
    explained = int(probabilities.argmax()) if target is None else number
    return ExplainedImage(picture, seen.geometry, metadata.classes, found.logits[0], probabilities, explained, maps)


def all_maps(
    model: Model,
    pictures: np.ndarray,
    targets: np.ndarray,
    layers: Sequence[str],
    methods: Sequence[str],
    named: Callable[[int], str] = str,
) -> tuple[Explanation, dict[tuple[str, str], Maps]]:
    """One call, and the maps of every method that applies to a layer, in the order of layers and methods."""
    found = model.explain(pictures, targets, layers)
    explained = np.where(targets < 0, model.metadata.decisions(found.logits).argmax(axis=1), targets)
    made: dict[tuple[str, str], Maps] = {}
    for layer, own in found.layers.items():
        here = Explanation(found.logits, {layer: own})
        picture = model.graph.layer(layer).is_picture
        there = [name for name in methods if cam_method(name).applies_to(picture)]
        further = explain_further(model, here, there, np.arange(len(pictures)), pictures, explained).explanation
        both = reduce(here, there, named=named) | reduce(further, there)
        made |= {(layer, method): both[layer, method] for method in there}
    return found, made


def _known(methods: Sequence[str]) -> list[str]:
    try:
        return [cam_method(name).name for name in methods or of_one_pass(METHODS)]
    except ValueError as error:  # an unknown name, or an installed package whose methods cannot be loaded
        raise InputError(str(error)) from error


def _judged(method: str, maps: np.ndarray) -> Maps:
    """Maps (n, h, w) that a graph made, and why some are undefined: there they are not finite.

    A graph does not say which of the two reasons of Grad-CAM++ it was; singular weights are the usual one. It does not
    say how well conditioned they are either, since activations and gradients stay inside.
    """
    finite = np.isfinite(maps).all(axis=(1, 2))
    reason = Reason.SINGULAR_ALPHA if METHODS[method].conditioning else Reason.NON_FINITE
    maps = np.where(finite[:, None, None], maps, np.float32(np.nan))
    codes = np.where(finite, np.uint8(Reason.DEFINED), np.uint8(reason)).astype(np.uint8)
    return Maps(maps, codes, np.full(len(maps), np.nan))

"""A Keras classifier as it is explained: one image in, one row of class scores out, and the maps on the way."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from export.graph.layers import PICTURE
from export.sources.keras.framework import keras
from export.sources.keras.load import constant_statistics
from export.sources.keras.walk import Call, calls_of, can_be_opened, walk
from harness.common.errors import InputError, first_line

Size = tuple[int, int]  # (H, W)
COLOURS = 3  # equal channels of the image that every exported graph takes
SCALING = (
    keras.layers.Rescaling, keras.layers.Normalization, keras.layers.BatchNormalization,
    keras.layers.LayerNormalization, keras.layers.GroupNormalization, keras.layers.UnitNormalization,
)  # fmt: skip
SCALING_OPERATIONS = ("Add", "Subtract", "Multiply", "Divide", "TrueDivide")
PROPORTIONS = 1.0  # places by which rounded strides may miss the image's proportions


class Pixels(Protocol):
    """What happened to pixels before they reached the model: (image * scale - mean) / std, of one or three channels.

    channels: `rgb` or `bgr`, the order in which the model takes them; arithmetic: all of it in words
    """

    @property
    def scale(self) -> float: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...
    @property
    def channels(self) -> str: ...
    @property
    def arithmetic(self) -> str: ...


@dataclass(frozen=True)
class Tensor:
    """Output number `place` of call number `call`."""

    call: int
    place: int = 0


IMAGE = Tensor(-1)  # no call makes it


@dataclass(frozen=True)
class Network:
    """A loaded model, one of its outputs, and every call on the way to it.

    `layers`: name -> tensor (N, h, w, C) that can be a CAM layer, first to last.
    `output_name`: what the user called the output, None where there is only one.
    `pixels`: what the model expects to be done before it, None where it takes grey levels.
    """

    source: Path
    model: Any
    size: Size
    calls: Sequence[Call]
    output: Tensor
    layers: Mapping[str, Tensor]
    output_name: str | None = None
    pixels: Pixels | None = None

    def symbol(self, tensor: Tensor) -> Any:
        """The symbolic tensor: shape and data type."""
        if tensor == IMAGE:
            return keras.Input((*self.size, COLOURS), name=PICTURE)
        return self.calls[tensor.call].outputs[tensor.place]

    def maker(self, symbol: Any) -> Tensor | None:
        """Where a symbolic tensor comes from; None for the image."""
        for number, call in enumerate(self.calls):
            for place, made in enumerate(call.outputs):
                if made is symbol:
                    return Tensor(number, place)
        return None

    def shape(self, layer: str) -> tuple[int, int, int]:
        """(h, w, C) of a layer's map."""
        return tuple(self.symbol(self.layers[layer]).shape[1:])

    def run(self, images: Any, tensors: Sequence[Tensor]) -> list[Any]:
        """The values of tensors for images (N, H, W, 3) of grey levels, in inference mode."""
        return _Run(self, tensors)(images, training=False)

    def output_of_model(self, images: np.ndarray) -> np.ndarray:
        """(N, K) values of the output by a plain call of the model on images (N, H, W, 3), for comparison."""
        batch = self.model.inputs[0].shape[0]
        parts = [images] if batch is None else [np.repeat(one[None], batch, axis=0) for one in images]
        found = [np.asarray(self._output_of_model(part)) for part in parts]
        rows = found if batch is None else [values[:1] for values in found]
        return np.concatenate(rows).reshape(len(images), -1)

    def _output_of_model(self, images: np.ndarray) -> Any:
        image = _as_input(self.model, keras.ops.convert_to_tensor(images), self.pixels)
        if not isinstance(self.model, keras.Sequential):  # which has no form of input until it is called
            image = keras.tree.map_structure(lambda _: image, self.model.input)
        outputs = self.model(image, training=False)
        return _chosen_output(self.source, self.model, outputs, self.output_name)

    def find_layer(self, name: str) -> Tensor:
        """The map of that name; the end of a path is enough where only one layer ends so; `image` is the picture.

        :raises InputError: there is none, or it does not lie on the way to the score.
        """
        if name == PICTURE:
            return IMAGE
        ending = [known for known in self.layers if known.endswith(f"/{name}")]
        if name in self.layers or len(ending) == 1:
            return self.layers[name if name in self.layers else ending[0]]
        near = ending or difflib.get_close_matches(name, self.layers, n=3) or list(self.layers)[-5:]
        shapes = ", ".join(f"{other} {self.shape(other)}" for other in near)
        there = any(call.name == name for call in self.calls)
        what = f"layer {name!r} holds no map on the way to the score" if there else f"no spatial layer {name!r}"
        raise InputError(f"{self.source}: {what}; nearest (h, w, C): {shapes or 'none'}")

    @property
    def scales_pixels(self) -> bool:
        """Whether the model itself changes the range of the image, before its first layer with a kernel."""
        for call in self.calls:
            if isinstance(call.operation, SCALING) or type(call.operation).__name__ in SCALING_OPERATIONS:
                return True
            if any(len(weight.shape) > 1 for weight in getattr(call.operation, "weights", ())):
                break
        return False

    @cached_property
    def last_layer(self) -> str | None:
        """The map that feeds the head: the last one larger than 1x1 with the image's proportions; None without any.

        One that everything crosses on its way to the score goes before one of several branches.
        """
        names = [name for name in self.layers if _is_map(self.shape(name)[:2], self.size)]
        crossed = (name for name in reversed(names) if self._is_crossed(self.symbol(self.layers[name])))
        return next(crossed, names[-1] if names else None)

    def _is_crossed(self, symbol: Any) -> bool:
        """Whether every way from the image to the output leads through a symbolic tensor."""
        made = {id(value) for call in self.calls for value in call.outputs}
        around: set[int] = set()  # what can be reached without it
        for call in self.calls:
            read = [value for value in call.inputs if isinstance(value, keras.KerasTensor) and value is not symbol]
            if not can_be_opened(call.operation) and any(id(v) in around or id(v) not in made for v in read):
                around |= {id(value) for value in call.outputs}
        return id(self.symbol(self.output)) not in around


def open_network(
    source: Path, model: Any, input_size: Size | None = None, output: str | None = None, pixels: Pixels | None = None
) -> Network:
    """The network behind one output of a model.

    :param input_size: (H, W) of a model that leaves them free.
    :param output: the name of the output with the class scores, where there are several.
    :raises InputError: the model does not take one image, or its outputs are not those asked for.
    """
    size = _input_size(source, model, input_size)
    try:
        calls, outputs = calls_of(model, _as_input(model, keras.Input((*size, COLOURS)), pixels))
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{source}: does not run on images of {size[0]}x{size[1]} pixels ({first_line(error)})"
        ) from error
    for call in calls:
        constant_statistics(call.operation)
    chosen = _chosen_output(source, model, outputs, output)
    found = Network(source, model, size, calls, Tensor(0), {})
    made = found.maker(chosen)
    if made is None:
        raise InputError(f"{source}: its output is its input; expected a classifier")
    return Network(source, model, size, calls, made, _layers(source, calls, chosen), output, pixels)


class _Run(keras.layers.Layer):
    """The model, called so that Keras runs all of it in inference mode, with the tensors asked for as outputs."""

    def __init__(self, network: Network, tensors: Sequence[Tensor]) -> None:
        super().__init__(name="network", dtype="float32")
        self.model, self.pixels, self.tensors, self.built = network.model, network.pixels, tuple(tensors), True

    def call(self, image: Any, training: bool | None = None) -> list[Any]:  # noqa: ARG002 (Keras hands it on)
        found: dict[Tensor, Any] = {IMAGE: image}
        number = itertools.count()

        def seen(call: Call) -> None:
            this = next(number)
            found.update({tensor: call.outputs[tensor.place] for tensor in self.tensors if tensor.call == this})

        walk(self.model, _as_input(self.model, image, self.pixels), seen)
        return [found[tensor] for tensor in self.tensors]


def _as_input(model: Any, image: Any, pixels: Pixels | None) -> Any:
    """What a model takes, of an image (N, H, W, 3) with equal channels: one channel, whole numbers where it says so."""
    wanted = model.inputs[0]
    if pixels is not None:
        image = image[..., ::-1] if pixels.channels == "bgr" else image
        mean, std = np.array(pixels.mean, np.float32), np.array(pixels.std, np.float32)
        image = (image * np.float32(pixels.scale) - mean) / std
    image = image[..., : wanted.shape[-1]]
    return image if keras.backend.is_float_dtype(wanted.dtype) else keras.ops.cast(image, wanted.dtype)


def _input_size(source: Path, model: Any, asked: Size | None) -> Size:
    """(H, W) of the images that a model takes."""
    if not can_be_opened(model) or not getattr(model, "inputs", None):
        raise InputError(
            f"{source}: holds a {type(model).__name__} without a graph of layers; "
            "export a functional or a built Sequential model"
        )
    shapes = [tuple(value.shape) for value in model.inputs]
    if len(shapes) != 1:
        raise InputError(f"{source}: takes {len(shapes)} inputs {shapes}; expected one image")
    shape = shapes[0]
    if len(shape) != 4 or shape[3] not in (1, COLOURS):
        raise InputError(f"{source}: takes {shape}; expected one image (N, H, W, 3) or (N, H, W, 1), channels last")
    size = tuple(given or own for given, own in zip(asked or (None, None), shape[1:3], strict=True))
    if None in size:
        raise InputError(f"{source}: takes {shape}; set the free height and width with --input-size, such as 224")
    if asked and any(own not in (None, given) for given, own in zip(asked, shape[1:3], strict=True)):
        raise InputError(f"{source}: takes {shape}, not the --input-size {asked[0]}x{asked[1]}; leave the option out")
    return size  # type: ignore[return-value]


def _chosen_output(source: Path, model: Any, outputs: Any, name: str | None) -> Any:
    """The symbolic output that holds the class scores."""
    named = _named_outputs(model, outputs)
    known = ", ".join(f"{other} {tuple(value.shape[1:])}" for other, value in named)
    if name is None and len(named) > 1:
        raise InputError(f"{source}: has the outputs {known}; choose that with the class scores by --output NAME")
    found = [value for other, value in named if name in (None, other)]
    if len(found) != 1:
        raise InputError(f"{source}: no single output {name!r}; it has: {known}")
    shape = tuple(found[0].shape)
    if shape[-1] is None or any(size != 1 for size in shape[1:-1]) or len(shape) < 2:
        raise InputError(f"{source}: the output has shape {shape}; expected one row of class scores per image")
    return found[0]


def _named_outputs(model: Any, outputs: Any) -> list[tuple[str, Any]]:
    if isinstance(outputs, Mapping) and not any(isinstance(value, (Mapping, list)) for value in outputs.values()):
        return [(str(name), value) for name, value in outputs.items()]
    values = keras.tree.flatten(outputs)
    names = getattr(model, "output_names", None) or [model.layers[-1].name]
    return list(zip(names, values, strict=True))


def _layers(source: Path, calls: Sequence[Call], output: Any) -> dict[str, Tensor]:
    """Name -> tensor of the maps (N, h, w, C) that an output is computed from, first to last."""
    needed = {id(output)}
    for call in reversed(calls):
        if not can_be_opened(call.operation) and any(id(value) in needed for value in call.outputs):
            needed |= {id(value) for value in call.inputs}
    found, made = {}, dict[int, Tensor]()
    for number, call in enumerate(calls):
        for place, value in enumerate(call.outputs):
            made.setdefault(id(value), Tensor(number, place))
        shapes = [value.shape for value in call.outputs if id(value) in needed]
        if len(call.outputs) == len(shapes) == 1 and len(shapes[0]) == 4 and None not in shapes[0][1:]:
            _refuse_channels_first(source, call)
            found[call.name] = made[id(call.outputs[0])]  # of a nested model: that of its last call
    return found


def _refuse_channels_first(source: Path, call: Call) -> None:
    if getattr(call.operation, "data_format", None) == "channels_first":
        raise InputError(f"{source}: layer {call.name!r} has its channels first; expected channels last")


def _is_map(size: Size, image: Size) -> bool:
    """Whether (h, w) is larger than 1x1 and has the image's proportions, but for the rounding of strides."""
    (h, w), (height, width) = size, image
    return h * w > 1 and min(abs(w - width * h / height), abs(h - height * w / width)) <= PROPORTIONS

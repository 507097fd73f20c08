"""The calls that a Keras model consists of, in order, those inside nested models included.

Keras runs a functional model operation by operation and lets a function stand in for each call. Here that function
opens models that are called as layers, so that a tensor inside them (`base/conv5_block16_concat`) can be named, read
and differentiated like any other. Layers are neither copied nor renamed: the same names may occur in two nested models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from export.sources.keras.framework import keras, tf


@dataclass(frozen=True)
class Call:
    """One call of a layer, operation or nested model. `name` is its path through the nested models."""

    name: str
    operation: Any
    arguments: Sequence[Any]
    keywords: Mapping[str, Any]
    output: Any

    @property
    def inputs(self) -> list[Any]:
        """The tensors that it reads."""
        given = keras.tree.flatten([list(self.arguments), dict(self.keywords)])
        return [value for value in given if hasattr(value, "shape") and hasattr(value, "dtype")]

    @property
    def outputs(self) -> list[Any]:
        return keras.tree.flatten(self.output)


def walk(model: Any, image: Any, seen: Callable[[Call], None], prefix: str = "") -> Any:
    """The outputs of a model for an image, each call reported to `seen` when it is done; the calls inside of a nested
    model come before the nested model itself.

    A `training` argument that was given when the model was put together is left out: `model(x, training=False)` and
    `predict` override it as well.
    """

    def call(operation: Any, *arguments: Any, training: Any = None, **keywords: Any) -> Any:  # noqa: ARG001
        name = prefix + operation.name
        arguments, keywords = keras.tree.map_structure(_constant, (arguments, keywords))
        if can_be_opened(operation):
            given = [value for value in (*arguments, *keywords.values()) if value is not None]
            output = walk(operation, given[0], seen, f"{name}/")
        else:
            output = operation(*arguments, **keywords)
        seen(Call(name, operation, arguments, keywords, output))
        return output

    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            image = call(layer, image)
        return image
    return _through_graph(model)(image, operation_fn=lambda operation: operation, call_fn=call)


def calls_of(model: Any, image: Any) -> tuple[list[Call], Any]:
    """(all calls, outputs) of a model for a symbolic image. A layer called n times is named `layer@1` to `layer@n`."""
    calls: list[Call] = []
    outputs = walk(model, image, calls.append)
    times = Counter(call.name for call in calls)
    seen: Counter[str] = Counter()
    named = []
    for call in calls:
        seen[call.name] += 1
        name = f"{call.name}@{seen[call.name]}" if times[call.name] > 1 else call.name
        named.append(Call(name, call.operation, call.arguments, call.keywords, call.output))
    return named, outputs


def can_be_opened(operation: Any) -> bool:
    """Whether an operation is a model made of a graph or a chain, that runs as Keras runs such a model."""
    if isinstance(operation, keras.Sequential):
        return type(operation).call is keras.Sequential.call
    return isinstance(operation, keras.Function) and type(operation).call.__module__.startswith("keras.")


def _constant(value: Any) -> Any:
    """A tensor that the model itself holds (a mean to subtract), while TensorFlow traces: else it becomes an input."""
    held = not tf.executing_eagerly() and isinstance(value, tf.Tensor) and hasattr(value, "numpy")
    return tf.constant(value.numpy()) if held else value


def _through_graph(model: Any) -> Any:
    """The method with which Keras runs a functional model; its name was public in earlier releases."""
    return getattr(model, "_run_through_graph", None) or model.run_through_graph

"""The end of a Keras classifier: which of its tensors holds the logits, and how they become probabilities.

    a layer's own activation     Dense(3, activation="softmax")
    a layer or operation         Softmax(), Activation("sigmoid"), keras.ops.softmax(x)

Recognised ends are cut off; what does nothing at inference, or only casts and reshapes, may stand behind them. What the
logits say is compared with what the model says, and an output whose end is not recognised is judged by its numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from export.proof.parity import FORWARD_TOLERANCE, relative_l2
from export.proof.scores import Probabilities, probabilities_in, probes, scores_to_probabilities
from export.sources.keras.framework import keras
from export.sources.keras.network import Network, Tensor
from export.sources.keras.walk import Call
from harness.common.errors import CannotEvaluateError, InputError
from harness.images.loading import channels_last

FUNCTIONS = {"softmax": "softmax", "log_softmax": "softmax", "sigmoid": "sigmoid", "log_sigmoid": "sigmoid"}
SAME = 1e-4  # absolute difference that probabilities of the model and of its logits may have
L = keras.layers
INACTIVE = (
    L.Dropout, L.SpatialDropout1D, L.SpatialDropout2D, L.SpatialDropout3D, L.AlphaDropout, L.GaussianDropout,
    L.GaussianNoise, L.ActivityRegularization, L.Identity, L.Flatten, L.Reshape,
)  # fmt: skip
INACTIVE_OPERATIONS = ("Cast", "Identity", "Reshape", "Squeeze")


@dataclass(frozen=True)
class Head:
    """Class scores of a network: the tensor with its logits, (N, K) after flattening.

    function: what the model makes of them: `softmax` or `sigmoid` (or its logarithm), or `linear`, nothing
    layer: the layer whose own activation that is, to be left out
    """

    logits: Tensor
    function: str = "linear"
    layer: Any = None


def find_head(network: Network) -> Head:
    """The head of a network, read from its last calls.

    :raises InputError: it ends in an activation that makes neither logits nor probabilities.
    """
    tensor = _without_trimmings(network)
    call = network.calls[tensor.call]
    function = _function(call)
    if function == "linear" or sum(other.operation is call.operation for other in network.calls) > 1:
        return Head(network.output)
    if function not in FUNCTIONS:
        raise InputError(f"{network.source}: ends in {function!r}; expected logits, a softmax or a sigmoid")
    if FUNCTIONS[function] == "softmax" and _columns(network, network.output) == 1:
        raise InputError(
            f"{network.source}: ends in a softmax over one score, which is 1 on every image; train it with a sigmoid"
        )
    if isinstance(call.operation, keras.Layer) and not isinstance(call.operation, (L.Activation, L.Softmax)):
        return Head(tensor, function, call.operation)
    before = network.maker(call.inputs[0])
    return Head(before, function) if before is not None else Head(network.output)


@dataclass(frozen=True)
class Scores:
    """The logits (N, K) of a network and what they mean, once numbers have confirmed it.

    total: what probabilities sum to that the logits are made of, for want of logits; 0 where each stands alone, None
        where the logits are the network's own
    """

    network: Network
    logits: Tensor
    kind: str  # softmax, multilabel or binary (K = 1)
    total: float | None = None
    bare: bool = False  # whether the network itself ends in logits

    @property
    def columns(self) -> int:
        return _columns(self.network, self.logits)

    def of(self, values: Any) -> Any:
        """(N, K) logits of the values that the tensor `logits` has."""
        row = keras.ops.reshape(values, (-1, self.columns))
        if self.total is None:
            return row
        numbers = np.finfo(np.float32)
        alone = self.kind != "softmax"
        p = keras.ops.clip(row / (self.total or 1.0), numbers.tiny, 1 - numbers.epsneg * alone)
        return keras.ops.log(p) - keras.ops.log(1 - p) if alone else keras.ops.log(p)


def settled(network: Network, images: np.ndarray, on_purpose: bool) -> Scores:
    """The logits of a network after a look at the numbers; its last activation is switched off for good.

    :param images: (N, H, W, 3) grey levels.
    :param on_purpose: whether probabilities are to be explained; then their logarithms, or log-odds, become the logits
        of an output whose end was not recognised.
    :raises InputError: such an output holds probabilities, and is not said to.
    :raises CannotEvaluateError: the calls that were found give another output than the model, or logits say something
        else than the output.
    """
    head = find_head(network)
    said = network.output_of_model(images)
    _require_same_output(network, said, images)
    if head.function == "linear":
        return _judged(head, network, said, images, on_purpose)
    if head.layer is not None:
        head.layer.activation = keras.activations.linear
    scores = Scores(network, head.logits, _kind(network, softmax=FUNCTIONS[head.function] == "softmax"))
    _require_same_probabilities(scores, head.function, said, images)
    return scores


def _judged(head: Head, network: Network, said: np.ndarray, images: np.ndarray, on_purpose: bool) -> Scores:
    """The logits of a network whose end was not recognised: its output, or what its probabilities are made of."""
    found = _probabilities(network, said, images)
    if found is None:
        return Scores(network, head.logits, _kind(network, softmax=True), bare=True)
    if not on_purpose:
        raise InputError(
            f"{network.source}: its outputs {found} on every image, so they are probabilities, not logits; "
            "save it without its last step, or say so with --probability"
        )
    return Scores(network, head.logits, _kind(network, softmax=found.total is not None), found.total or 0.0)


def _kind(network: Network, softmax: bool) -> str:
    if _columns(network, network.output) == 1:
        return "binary"
    return "softmax" if softmax else "multilabel"


def _require_same_output(network: Network, said: np.ndarray, images: np.ndarray) -> None:
    apart = relative_l2(_values(network, network.output, images), said)
    if not apart <= FORWARD_TOLERANCE:
        raise CannotEvaluateError(
            f"{network.source}: called layer by layer it gives another output than called whole (relative L2 error "
            f"{apart:.1e}); nothing was written; rebuild it as a functional model of plain layers"
        )


def _require_same_probabilities(scores: Scores, function: str, said: np.ndarray, images: np.ndarray) -> None:
    logits = _values(scores.network, scores.logits, images)
    found = scores_to_probabilities(logits.astype(np.float64), scores.kind)
    found = np.log(found) if function.startswith("log_") else found
    apart = float(np.abs(found - said).max()) if found.shape == said.shape else np.inf
    if not apart <= SAME:
        raise CannotEvaluateError(
            f"{scores.network.source}: its output was taken for the {function} of its logits, but they differ by "
            f"{apart:.2g}; nothing was written; save the model without its last step"
        )


def _probabilities(network: Network, said: np.ndarray, images: np.ndarray) -> Probabilities | None:
    """What an output shows that looks like probabilities on the images; probes decide."""
    if probabilities_in(said, varying=False) is None:
        return None
    more = _values(network, network.output, channels_last(probes(images.shape[1:3])))
    return probabilities_in(np.concatenate([said, more]))


def _values(network: Network, tensor: Tensor, images: np.ndarray) -> np.ndarray:
    """(N, K) values of a tensor with class scores."""
    return np.asarray(network.run(images, [tensor])[0]).reshape(len(images), -1)


def _columns(network: Network, tensor: Tensor) -> int:
    return int(np.prod(network.symbol(tensor).shape[1:]))


def _without_trimmings(network: Network) -> Tensor:
    """The output, or the tensor before the calls that end a network and do nothing at inference."""
    tensor = network.output
    while _is_trimming(network.calls[tensor.call]):
        before = network.maker(network.calls[tensor.call].inputs[0])
        if before is None:
            return network.output
        tensor = before
    return tensor


def _is_trimming(call: Call) -> bool:
    if isinstance(call.operation, L.Activation):
        return _function(call) == "linear"
    return isinstance(call.operation, INACTIVE) or _operation_name(call.operation) in INACTIVE_OPERATIONS


def _operation_name(operation: Any) -> str:
    """The class of a `keras.ops` operation, nothing for a layer."""
    return "" if isinstance(operation, keras.Layer) else type(operation).__name__


def _function(call: Call) -> str:
    """What an activation, or a layer's own one, is called; `linear` for every other call."""
    operation = call.operation
    if isinstance(operation, L.Softmax):
        return "softmax"
    if isinstance(operation, keras.Layer):
        named = keras.activations.serialize(getattr(operation, "activation", None) or keras.activations.linear)
        return named if isinstance(named, str) else str(named.get("config", named))
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", _operation_name(operation)).lower()
    return name if name in FUNCTIONS or hasattr(keras.activations, name) else "linear"

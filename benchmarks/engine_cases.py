"""Graphs for timing the engine: per architecture the forward pass alone, and one exported graph per CAM layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import tensorflow as tf

from benchmarks.timing import THREADS
from export import passes
from export.graph import Forward, add_backward, clean
from export.sources.keras import frontend

BATCH = 8
LAYERS = {  # architecture -> (last, penultimate, deep)
    "ResNet50V2": ("post_relu", "conv5_block2_out", "conv4_block6_out"),
    "DenseNet201": ("relu", "conv5_block31_concat", "pool3_pool"),
    "InceptionV3": ("mixed10", "mixed9", "mixed7"),
}


@dataclass
class Graphs:
    """Serialised graphs of one architecture."""

    forward: bytes
    by_layer: dict[str, bytes]


def graphs(model: Any, layers: Sequence[str]) -> Graphs:
    """The forward graph as the export cleans it, and the exported graph for each layer, from one conversion."""
    network = frontend.open_network(Path(model.name), model)
    images = feeds(network.size[0])["image"].transpose(0, 2, 3, 1)
    scores = frontend.settled(network, images, on_purpose=False)
    made = frontend.forward_graph(scores, {name: network.find_layer(name) for name in layers})
    proto = ir.to_proto(made.model)

    def fresh(pinned: Sequence[str]) -> Forward:
        copy = Forward(ir.from_proto(proto), made.logits_name, {name: made.layer_names[name] for name in pinned})
        copy.pin_outputs()
        clean(copy)
        return copy

    alone = fresh([])
    forward = ir.to_proto(passes.checked(alone.model)).SerializeToString()
    exported = {layer: ir.to_proto(add_backward(fresh([layer]), "softmax")).SerializeToString() for layer in layers}
    return Graphs(forward, exported)


def session(content: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # contenders take turns
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def feeds(size: int) -> dict[str, np.ndarray]:
    grey = np.random.default_rng(0).uniform(0, 255, (BATCH, 1, size, size)).astype(np.float32)
    return {"image": grey.repeat(3, axis=1), "target": np.arange(BATCH) % 5}


def onnx_run(content: bytes, feeds: Mapping[str, np.ndarray]) -> Callable[[], object]:
    """One call of an exported graph."""
    opened = session(content)
    return lambda: opened.run(None, dict(feeds))


def tape_run(model: Any, layer: str, feeds: Mapping[str, np.ndarray]) -> Callable[[], object]:
    """TensorFlow's compiled gradient of the same outputs."""
    pinned = keras.Model(model.inputs, [model.output, model.get_layer(layer).output])
    image, target = tf.constant(feeds["image"].transpose(0, 2, 3, 1)), tf.constant(feeds["target"])

    @tf.function
    def explained() -> Any:
        with tf.GradientTape() as tape:
            logits, activations = pinned(image, training=False)
            score = tf.reduce_sum(tf.gather(logits, target, batch_dims=1))
        return logits, activations, tape.gradient(score, activations)

    return lambda: [value.numpy() for value in explained()]

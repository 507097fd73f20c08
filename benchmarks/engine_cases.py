"""Graphs for timing the engine: per architecture the forward pass alone, and one exported graph per CAM layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from export import assemble, keras_source

BATCH = 8
THREADS = 2
SIZES = {"ResNet50V2": 224, "DenseNet201": 224, "InceptionV3": 299}
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
    made = keras_source.forward_graph(model, layers)
    proto = ir.to_proto(made.model)

    def fresh(pinned: Sequence[str]) -> assemble.Forward:
        copy = assemble.Forward(
            ir.from_proto(proto), made.logits_name, {name: made.layer_names[name] for name in pinned}
        )
        copy.graph.outputs[:] = [copy.logits, *copy.layers.values()]
        assemble.clean(copy)
        return copy

    alone = fresh([])
    forward = ir.to_proto(assemble.finished(alone.model)).SerializeToString()
    exported = {
        layer: ir.to_proto(assemble.add_backward(fresh([layer]), "softmax")).SerializeToString() for layer in layers
    }
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

"""The nine `light_*` classifiers inside the onnx package, their constant weights replaced by seeded random ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test.data.light
from onnx import numpy_helper

FOLDER = Path(next(iter(onnx.backend.test.data.light.__path__)))
NAMES = [
    "bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50",
    "shufflenet", "squeezenet", "vgg19", "zfnet512",
]  # fmt: skip
HIDDEN = 4096  # units of the hidden dense layers of AlexNet, VGG19 and ZFNet512


def with_random_weights(name: str, path: Path, hidden: int = HIDDEN) -> Path:
    """Write one of the models with lively weights: Glorot-scaled kernels, BatchNorm near the identity.

    :param hidden: units that each hidden dense layer has in place of 4,096, with which VGG19 takes 0.6 GB.
    """
    model = onnx.load(FOLDER / f"light_{name}.onnx")
    rng = np.random.default_rng(0)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    readers = {source: (node, place) for node in model.graph.node for place, source in enumerate(node.input)}
    kept = []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        reader, place = readers[node.output[0]]
        shape = tuple(hidden if size == HIDDEN else size for size in shapes[node.input[0]])
        weights = _weights(rng, shape, reader.op_type, place)
        model.graph.initializer.append(numpy_helper.from_array(weights.astype(np.float32), node.output[0]))
        model.graph.input.append(  # IR version 3 wants every initializer among the inputs
            onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, weights.shape)
        )
    del model.graph.node[:]
    model.graph.node.extend(kept)
    onnx.save(model, path)
    return path


def _weights(rng: np.random.Generator, shape: tuple[int, ...], reader: str, place: int) -> np.ndarray:
    if len(shape) > 1:
        return rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
    if reader == "BatchNormalization" and place in (1, 4):  # scale, variance
        return rng.uniform(0.7, 1.3, shape)
    if reader == "Unsqueeze":  # a scale or shift per channel
        return rng.uniform(0.5, 1.0, shape)
    return rng.normal(0, 0.1, shape)

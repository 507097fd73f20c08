"""Parts of an exported graph as models of their own."""

from __future__ import annotations

import numpy as np
import onnx


def part(model: onnx.ModelProto, inputs: list[str], output: str, images: np.ndarray) -> bytes:
    """The part of a graph between some tensors; what goes around them comes from `images`, as constants."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.input[[value.name for value in fixed.graph.input].index("image")]
    fixed.graph.initializer.append(onnx.numpy_helper.from_array(images, "image"))
    return onnx.utils.Extractor(fixed).extract_model(inputs, [output]).SerializeToString()

"""Weights rounded to the precision of other hardware. The only file of the harness that reads ONNX as a graph."""

from __future__ import annotations

import numpy as np
import onnx

_TF32_DROPPED = 13  # of the 23 bits of a float32's fraction, TF32 keeps 10


def rounded(content: bytes, precision: str) -> bytes:
    """The model with every float32 initializer of two dimensions or more rounded to `tf32` or `float16`.

    Those are the weights that matrix products and convolutions round on such hardware; biases and scales stay.
    """
    model = onnx.load_from_string(content)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1:
            values = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(_round(values, precision), tensor.name))
    return model.SerializeToString()


def _round(values: np.ndarray, precision: str) -> np.ndarray:
    if precision == "float16":
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16).astype(np.float32)
        return np.where(np.isfinite(halves), halves, values)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    half, last = np.uint32(1 << (_TF32_DROPPED - 1)), (bits >> np.uint32(_TF32_DROPPED)) & np.uint32(1)
    even = bits + (half - np.uint32(1)) + last  # to nearest, ties to even
    return (even & ~np.uint32((1 << _TF32_DROPPED) - 1)).view(np.float32)

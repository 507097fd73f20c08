"""ONNX Runtime on the CPU, at each of its optimisation levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime as ort

LEVELS = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def open_session(model: bytes, level: str) -> ort.InferenceSession:
    """A serialised model on the CPU provider, at one optimisation level."""
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.log_severity_level = 4  # what it raises says the same
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(
    session: ort.InferenceSession, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """The named outputs, all of them by default."""
    names = [output.name for output in session.get_outputs()] if outputs is None else list(outputs)
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))

"""A model at an opset that has gradient rules; a conversion is proved equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from export.autodiff.engine import OPSETS
from export.proof.parity import relative_l2
from export.proof.sessions import open_session, run
from harness.common.errors import CannotEvaluateError, InputError, first_line

EQUAL = 1e-5  # relative L2 error that a converted model may have


def at_supported_opset(path: Path, proto: onnx.ModelProto) -> onnx.ModelProto:
    """Up to the lowest opset with rules, or down to the highest; old and new run on the same input.

    A file newer than ONNX Runtime is run by ONNX's reference implementation.
    """
    opset = next((entry.version for entry in proto.opset_import if not entry.domain), 0)
    if opset in OPSETS:
        return proto
    wanted = OPSETS[0] if opset < OPSETS[0] else OPSETS[-1]
    old = onnx.ModelProto()
    old.CopyFrom(proto)
    old.ir_version = max(old.ir_version, 8)
    try:
        converted = onnx.version_converter.convert_version(old, wanted)
    except Exception as error:  # the converter raises RuntimeError and its own types
        raise InputError(
            f"{path}: cannot be converted from opset {opset} to {wanted} ({first_line(error)}); export it at an opset "
            f"from {OPSETS[0]} to {OPSETS[-1]}"
        ) from error
    _prove_equal(path, old, converted, by_reference=opset > OPSETS[-1])
    return converted


def _prove_equal(path: Path, old: onnx.ModelProto, new: onnx.ModelProto, by_reference: bool) -> None:
    shape = [d.dim_value or 1 for d in old.graph.input[0].type.tensor_type.shape.dim]
    feed = {old.graph.input[0].name: np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)}
    before = _by_reference(path, old, feed) if by_reference else _run(path, old, feed)
    apart = relative_l2(_run(path, new, feed), before)
    if not apart <= EQUAL:
        raise CannotEvaluateError(f"{path}: converting its opset changed its output (relative L2 error {apart:.1e})")


def _by_reference(path: Path, proto: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    try:
        return np.asarray(ReferenceEvaluator(proto).run(None, feed)[0])
    except Exception as error:  # whatever an operator of the reference raises
        raise InputError(f"{path}: ONNX's reference cannot run it ({first_line(error)})") from error


def _run(path: Path, proto: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    try:
        return next(iter(run(open_session(proto.SerializeToString(), "all"), feed).values()))
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        raise InputError(f"{path}: ONNX Runtime cannot run it ({first_line(error)})") from error

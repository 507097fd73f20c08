"""Whole models: normalised, with shapes, checked."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from export.captured_logs import warnings_of
from harness.common.errors import InputError

_KEEP_SHAPE = {"GroupNormalization"}


def tidy(model: ir.Model) -> None:
    """Normalise: initializers are no inputs, constants are initializers, no identities, twins or dead nodes."""
    for step in (
        common.RemoveInitializersFromInputsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.IdentityEliminationPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.TopologicalSortPass(),
    ):
        step(model)


def infer_shapes(model: ir.Model, check_type: bool = True) -> None:
    """Give every value its type and shape, as far as ONNX shape inference knows them.

    :raises InputError: the graph contradicts itself (the pass of onnx-ir only logs that).
    """
    _infer_around_gaps(model)
    with warnings_of("onnx_ir.passes.common.shape_inference") as complaints:
        common.ShapeInferencePass(check_type=check_type, strict_mode=True, data_prop=True)(model)
    if complaints:
        raise InputError(f"the graph's shapes contradict each other: {complaints[0]}")


def _infer_around_gaps(model: ir.Model) -> None:
    """Give nodes that ONNX does not infer, though they keep the shape, the shape of their input, first to last."""
    infer = common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)
    gaps = [node for node in model.graph if node.op_type in _KEEP_SHAPE and node.outputs[0].shape is None]
    for node in gaps:
        with warnings_of("onnx_ir.passes.common.shape_inference"):
            infer(model)
        source = node.inputs[0]
        assert source is not None
        node.outputs[0].shape, node.outputs[0].type = source.shape, source.type


def checked(model: ir.Model) -> ir.Model:
    """Drop twins and dead nodes, infer shapes, run the ONNX checker."""
    for step in (
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.TopologicalSortPass(),
        common.ClearMetadataAndDocStringPass(),
    ):
        step(model)
    infer_shapes(model)
    common.CheckerPass(full_check=True)(model)
    return model

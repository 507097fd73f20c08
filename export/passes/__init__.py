"""Passes that rewrite an ONNX graph in place without changing what it computes.

Contract of each: a tensor name keeps meaning the same numbers; the result needs no shape inference that the input
did not have; graph outputs are never folded away, which is how CAM tensors are pinned. Passes over a graph return how
often they changed it, those over a whole model (`tidy`, `infer_shapes`) nothing.
"""

from export.passes.backward import fold_channel_scales
from export.passes.concrete import fix_shapes
from export.passes.folding import fold_batch_normalization, fold_constants
from export.passes.model import checked, infer_shapes, tidy
from export.passes.padding import resolve_ceil_mode, separate_padding_from_max_pool
from export.passes.scale_and_shift import merge_scale_and_shift
from export.passes.transposes import compose_transposes, reduce_before_transpose

__all__ = [
    "checked",
    "compose_transposes",
    "fix_shapes",
    "fold_batch_normalization",
    "fold_channel_scales",
    "fold_constants",
    "infer_shapes",
    "merge_scale_and_shift",
    "reduce_before_transpose",
    "resolve_ceil_mode",
    "separate_padding_from_max_pool",
    "tidy",
]

"""How a prepared forward part is compressed.

A prepared forward part is image -> logits and CAM tensors in float32, its constants folded, its nodes named. What comes
back has the same inputs and outputs, and every CAM tensor on the way to the logits, so that it has a gradient.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from export.autodiff.emit import Emitter
from export.captured_logs import warnings_of
from export.proof.sessions import open_session, run
from harness.common.errors import CannotEvaluateError

LEARNED = {"Conv", "ConvTranspose", "MatMul", "Gemm"}
RECTIFIERS = {"Relu", "Clip"}
QUANTIZERS = {"QuantizeLinear", "DequantizeLinear"}
CPU = Path("/proc/cpuinfo")

Facts = dict[str, Any]  # what the metadata say about the compression


@dataclass(frozen=True)
class Calibration:
    """What a compression may use: images (N, 3, H, W), a folder to write in, what was asked of the weights' range."""

    images: np.ndarray
    folder: Path
    reduce_range: bool | None


Compression = Callable[[onnx.ModelProto, Calibration], tuple[onnx.ModelProto, Facts]]


class _Feed:
    """Calibration images, one by one, as ONNX Runtime's quantiser asks for them."""

    def __init__(self, images: np.ndarray) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {"image": image[None]}


def _to_int8(prepared: onnx.ModelProto, calibration: Calibration) -> tuple[onnx.ModelProto, Facts]:
    reduced = saturates_here() if calibration.reduce_range is None else calibration.reduce_range
    made = _quantized(prepared, calibration, reduced)
    _require_same_operators(prepared, made)
    model = ir.from_proto(made)
    _take_out_pairs(model.graph)
    common.RemoveUnusedNodesPass()(model)
    facts = {"calibration": "minmax", "calibration_images": len(calibration.images), "reduce_range": reduced}
    return ir.to_proto(model), facts


def _quantized(prepared: onnx.ModelProto, calibration: Calibration, reduced: bool) -> onnx.ModelProto:
    """What ONNX Runtime's static quantiser makes of it, in QDQ form."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    folder = calibration.folder
    onnx.save(prepared, folder / "float32.onnx")
    with warnings_of("root"):  # "consider to run pre-processing", which has been run
        quantize_static(
            folder / "float32.onnx",
            folder / "int8.onnx",
            _Feed(calibration.images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduced,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_before_learned(prepared),
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"QDQKeepRemovableActivations": True},
        )
    return onnx.load(folder / "int8.onnx")


def _take_out_pairs(graph: ir.Graph) -> None:
    """Take out the pairs that say nothing, or too much.

    1. Relu(DequantizeLinear(QuantizeLinear(x))), quantised again, becomes Relu(x), quantised once: the same numbers.
       ONNX Runtime gives x the range of the rectified values, so the first pair rectifies already: its saturation would
       leave every negative x at the kink of the rectifier, and would put rectified values into a CAM tensor x.
    2. Logits are not rounded to 256 values.
    """
    for node in list(graph):
        read = node.inputs[0] if node.op_type in RECTIFIERS else None
        if read is not None and all(use.node.op_type in RECTIFIERS for use in read.uses()):
            _take_out_pair(read)
    _take_out_pair(graph.outputs[0])


def _take_out_pair(dequantized: ir.Value) -> None:
    """Let every reader of a pair read what was quantised; nothing happens to a tensor that comes out of no pair."""
    second = dequantized.producer()
    quantized = second.inputs[0] if second is not None and second.op_type == "DequantizeLinear" else None
    first = quantized.producer() if quantized is not None else None
    real = first.inputs[0] if first is not None and first.op_type == "QuantizeLinear" else None
    if real is None:
        return
    if dequantized.is_graph_output():
        dequantized.name, real.name = f"{dequantized.name}/dequantized", dequantized.name
        real.type, real.shape = dequantized.type, dequantized.shape
    dequantized.replace_all_uses_with(real, replace_graph_outputs=True)


def saturates_here() -> bool:
    """ONNX Runtime's advice: on x86 without VNNI, sums of 8-bit products saturate, so weights take 7 bits."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        flags = CPU.read_text(encoding="utf-8").split()
    except OSError:
        return True  # unknown: the safe choice
    return not {"avx512_vnni", "avx_vnni"} & set(flags)


def _require_same_operators(prepared: onnx.ModelProto, made: onnx.ModelProto) -> None:
    """Quantising adds pairs and nothing else: a rectifier taken out would be one that gradients do not see."""
    before, after = (
        Counter(node.op_type for node in model.graph.node if node.op_type not in QUANTIZERS)
        for model in (prepared, made)
    )
    if before != after:
        changed = ", ".join(sorted({*(before - after), *(after - before)}))
        raise CannotEvaluateError(f"quantising took out or added the operators {changed}; nothing was written")


def _to_float16(prepared: onnx.ModelProto, _calibration: Calibration) -> tuple[onnx.ModelProto, Facts]:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with catch_warnings():
        simplefilter("ignore")  # numbers too small or too large for half precision; the proof looks at the result
        made = convert_float_to_float16(
            copy_of(prepared), keep_io_types=True, node_block_list=_before_learned(prepared)
        )
    del made.graph.value_info[:]  # types as they were before
    model = ir.from_proto(made)
    _read_image_in_full(model.graph)
    _pass_through_outputs(model.graph)
    return ir.to_proto(model), {}


def _read_image_in_full(graph: ir.Graph) -> None:
    """Cast(float32, Cast(float16, image)) becomes the image: preprocessing reads what it was given."""
    for node in list(graph):
        inner = node.inputs[0].producer() if node.op_type == "Cast" and node.inputs[0] else None
        if inner is not None and inner.op_type == "Cast" and inner.inputs[0] is graph.inputs[0]:
            node.outputs[0].replace_all_uses_with(graph.inputs[0])


def _pass_through_outputs(graph: ir.Graph) -> None:
    """What read a float16 tensor whose float32 form is an output reads that output, so that it has a gradient."""
    op = Emitter(graph, "float16")
    for output in list(graph.outputs):
        cast = output.producer()
        assert cast is not None
        half = cast.inputs[0]
        readers = [use for use in half.uses() if use.node is not cast] if half is not None else []
        if readers:
            again = op.Cast(output, to=ir.DataType.FLOAT16)
            for use in readers:
                use.node.replace_input_with(use.idx, again)
    graph.sort()


def _before_learned(model: onnx.ModelProto) -> list[str]:
    """The nodes that no convolution or matrix product comes before: the model's own preprocessing."""
    learned: set[str] = set()
    names = []
    for node in model.graph.node:
        if node.op_type in LEARNED or learned & set(node.input):
            learned.update(node.output)
        else:
            names.append(node.name)
    return names


def outputs_of(model: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    """All outputs of a forward graph for images (N, 3, H, W), by ONNX Runtime without optimisations."""
    session = open_session(model.SerializeToString(), "disabled")
    return run(session, {"image": images}, [output.name for output in model.graph.output])


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that can be changed without changing this one."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


COMPRESSIONS: dict[str, Compression] = {
    "int8": _to_int8,
    "float16": _to_float16,
}

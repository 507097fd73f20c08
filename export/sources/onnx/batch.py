"""A graph whose file fixed the batch size, with a batch that varies."""

from __future__ import annotations

import onnx_ir as ir

from export.autodiff.emit import Emitter


def free_batch(graph: ir.Graph) -> None:
    """Let the batch size vary, where the file fixed it: in the input, and in reshapes that spell it out."""
    image = graph.inputs[0]
    assert image.shape is not None
    fixed = image.shape[0]
    image.shape = ir.Shape(["N", *image.shape[1:]])
    op = Emitter(graph, "batch")
    shapes = {value: value.shape for node in graph for value in node.inputs if value is not None}
    for node in graph:
        shape = (
            ir.convenience.get_const_tensor(node.inputs[1]) if node.op_type == "Reshape" and node.inputs[1] else None
        )
        if shape is not None and isinstance(fixed, int):
            sizes = shape.numpy().tolist()
            if (
                sizes
                and sizes[0] == fixed
                and node.inputs[0] is not None
                and _starts_with(shapes[node.inputs[0]], fixed)
            ):
                node.replace_input_with(1, op.integers(0, *sizes[1:]))
        for value in node.outputs:
            value.shape = None
    for value in graph.outputs:
        value.shape = None


def _starts_with(shape: ir.Shape | None, size: int) -> bool:
    return shape is None or (len(shape) > 0 and shape[0] == size)

"""Writing nodes into an ONNX graph: the few conveniences that rules and passes share."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir


class Emitter(ir.tape.Tape):
    """Appends nodes to a graph: `op.Mul(a, b)` makes a node and returns its output value.

    Attributes are keyword arguments (`op.Transpose(x, perm=[0, 1, 3, 2])`); `_outputs=2` asks for several
    outputs and returns them as a sequence. Equal constants are stored once.
    """

    def __init__(self, graph: ir.Graph, prefix: str = "backward") -> None:
        super().__init__(graph)
        self.graph = graph
        self._prefix = prefix
        self._constants: dict[tuple[Any, ...], ir.Value] = {}

    def __getattr__(self, operator: str) -> Any:
        if not operator[:1].isupper():
            raise AttributeError(operator)
        return lambda *inputs, **attributes: self._emit(operator, inputs, attributes)

    def _emit(self, operator: str, inputs: tuple[ir.Value | None, ...], attributes: dict[str, Any]) -> Any:
        outputs = attributes.pop("_outputs", 1)
        if outputs == 1:
            return self.op(operator, inputs, attributes)
        return self.op_multi_out(operator, inputs, attributes, num_outputs=outputs)

    def constant(self, array: Any, dtype: Any = None) -> ir.Value:
        """An initializer holding `array`; asking twice for equal contents gives the same value."""
        array = np.asarray(array, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._free_name()
            self._constants[key] = self.initializer(ir.tensor(array, name=name))
        return self._constants[key]

    def integers(self, *values: int) -> ir.Value:
        """A one-dimensional int64 constant: shapes, axes, pads."""
        return self.constant(np.array(values, np.int64))

    def _free_name(self) -> str:
        number = len(self._constants)
        while f"{self._prefix}/constant_{number}" in self.graph.initializers:
            number += 1
        return f"{self._prefix}/constant_{number}"


def dimensions(value: ir.Value) -> tuple[int | None, ...]:
    """The shape of a value, None standing for a size that is known only at run time (the batch).

    Raises ValueError where shape inference found no rank.
    """
    if value.shape is None:
        raise ValueError(f"the shape of tensor {value.name!r} is unknown")
    return tuple(size if isinstance(size, int) else None for size in value.shape)


def constant_array(value: ir.Value | None) -> np.ndarray | None:
    """The numbers behind an initializer or Constant node, None where the value is computed."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()

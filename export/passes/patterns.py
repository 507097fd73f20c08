"""What passes ask of a graph and do to it alike."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def has_one_reader(value: ir.Value | None) -> bool:
    """True where exactly one input of a node reads a value that is no output of the graph."""
    return value is not None and len(list(value.uses())) == 1 and not value.is_graph_output()


def is_per_channel(constant: np.ndarray, rank: int) -> bool:
    """True where c (1, ..), (C, 1, ..) or (1, C, 1, ..) holds one number per channel of a tensor (N, C, h, ..)."""
    if constant.ndim > rank:
        return False
    return (1,) * (rank - constant.ndim) + constant.shape == (1, constant.size, *[1] * (rank - 2))


def take_over(old: ir.Value, new: ir.Value, mark: str) -> None:
    """Let `new` stand where `old` stood: for all that read it, under its name, with its shape and type.

    The name of `old` gets `mark` behind it.
    """
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.shape, new.type = old.shape, old.type
    new.name, old.name = old.name, f"{old.name}/{mark}"

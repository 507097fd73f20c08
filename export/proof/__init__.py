"""Whether an exported graph computes what its source computes: forward pass, gradients and slopes."""

from export.proof.parity import Difference, compare, difference, relative_l2, require, summary
from export.proof.slopes import Tail, check_gradients

__all__ = [
    "Difference", "Tail", "check_gradients", "compare", "difference", "relative_l2", "require", "summary",
]  # fmt: skip

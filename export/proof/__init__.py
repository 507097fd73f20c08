"""Whether an exported graph computes what its source computes: forward pass, gradients and slopes."""

from export.proof.parity import Difference, compare, difference, relative_l2, require, summary
from export.proof.slopes import compare_slopes

__all__ = ["Difference", "compare", "compare_slopes", "difference", "relative_l2", "require", "summary"]

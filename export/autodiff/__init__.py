"""Reverse-mode differentiation, ONNX to ONNX: the reverse walk and one rule per operator, registered on import."""

from export.autodiff import rules  # noqa: F401  (registers the rules)
from export.autodiff.emit import Emitter
from export.autodiff.engine import OPSETS, backward

__all__ = ["OPSETS", "Emitter", "backward"]

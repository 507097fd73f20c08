"""The exported graph: head, target, CAM layers, backward part and outputs around a forward graph."""

from export.graph.assemble import add_backward, clean
from export.graph.forward import Forward, check_forward
from export.graph.outputs import OutputNames, output_names

__all__ = ["Forward", "OutputNames", "add_backward", "check_forward", "clean", "output_names"]

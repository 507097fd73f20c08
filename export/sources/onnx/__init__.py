"""Any ONNX image classifier to exported graph."""

from export.sources.onnx.export import export_onnx
from export.sources.onnx.listing import list_layers
from export.sources.onnx.preprocessing import Preprocessing
from export.sources.onnx.read import Choices

__all__ = ["Choices", "Preprocessing", "export_onnx", "list_layers"]

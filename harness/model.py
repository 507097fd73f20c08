"""The exported graphs of `harness.models` under the name by which scripts know them."""

from harness.models.metadata import Graph, GraphMetadata
from harness.models.session import Explanation, Model

__all__ = ["Explanation", "Graph", "GraphMetadata", "Model"]

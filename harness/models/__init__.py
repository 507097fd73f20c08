"""Exported graphs: their metadata, ONNX Runtime sessions and providers, and the maps of a batch of images."""

from typing import TYPE_CHECKING

from harness.common.lazy import on_demand

if TYPE_CHECKING:
    from harness.models.metadata import Graph, GraphMetadata
    from harness.models.session import Model

__all__ = ["Graph", "GraphMetadata", "Model"]
__getattr__ = on_demand(__name__, {"Graph": "metadata", "GraphMetadata": "metadata", "Model": "session"})

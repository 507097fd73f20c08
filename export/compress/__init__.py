"""Exported graph to compressed exported graph, explained through the compression."""

from export.compress.calibration_images import find_images
from export.compress.export import compress, write_changed
from export.compress.methods import COMPRESSIONS

__all__ = ["COMPRESSIONS", "compress", "find_images", "write_changed"]

"""What of this room needs TensorFlow, in one import."""

from export.sources.keras.convert import forward_graph
from export.sources.keras.head import settled
from export.sources.keras.load import in_float32, load_checkpoint, trained_on_each_class_alone
from export.sources.keras.network import open_network
from export.sources.keras.witness import explain

__all__ = [
    "explain", "forward_graph", "in_float32", "load_checkpoint", "open_network", "settled",
    "trained_on_each_class_alone",
]  # fmt: skip

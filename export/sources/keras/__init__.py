"""Keras checkpoints and run directories to exported graphs; TensorFlow is loaded by `frontend` only."""

from export.sources.keras.export import export_checkpoint
from export.sources.keras.run_record import CheckpointRecord, find_checkpoints

__all__ = ["CheckpointRecord", "export_checkpoint", "find_checkpoints"]

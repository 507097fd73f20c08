"""Classifier to self-describing ONNX: forward graph, backward graph and metadata in one file."""

from harness.common.privacy import switch_off_telemetry

switch_off_telemetry()

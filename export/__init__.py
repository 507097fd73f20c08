"""Classifier to self-describing ONNX: forward graph, backward graph and metadata in one file."""

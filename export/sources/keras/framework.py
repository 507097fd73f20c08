"""TensorFlow, Keras and tf2onnx, loaded with the TensorFlow backend. The only file that imports them.

A `.keras` file does not depend on the backend that it was trained under, so one that the environment names is left out
of account.
"""

from __future__ import annotations

import os
import sys

if "keras" not in sys.modules:
    os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
import tf2onnx

from harness.common.errors import InputError

if keras.backend.backend() != "tensorflow":
    raise InputError(
        f"Keras was loaded with the backend {keras.backend.backend()!r} before; "
        "export in a process of its own, or with KERAS_BACKEND=tensorflow"
    )

__all__ = ["keras", "tf", "tf2onnx"]

"""TensorFlow, Keras, its h5py and tf2onnx, loaded with the TensorFlow backend. The only file that imports them.

A `.keras` file does not depend on the backend that it was trained under, so one that the environment names is left out
of account.
"""

from __future__ import annotations

import os
import sys

from harness.common.errors import InputError
from harness.common.quiet_start import quiet_start

if "keras" not in sys.modules:
    os.environ["KERAS_BACKEND"] = "tensorflow"

with quiet_start():
    import h5py
    import keras
    import tensorflow as tf
    import tf2onnx

    tf.config.list_logical_devices()  # else the first operation looks for them, and writes about it

if keras.backend.backend() != "tensorflow":
    raise InputError(
        f"Keras was loaded with the backend {keras.backend.backend()!r} before; "
        "export in a process of its own, or with KERAS_BACKEND=tensorflow"
    )

tf.get_logger().setLevel("ERROR")

__all__ = ["h5py", "keras", "tf", "tf2onnx"]

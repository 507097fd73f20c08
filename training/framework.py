"""The one door to Keras and TensorFlow: backend, quiet start-up, seeds, precision, devices.

Every module that trains imports `keras` and `tf` from here, so that the environment is set before they load.
"""

from __future__ import annotations

import contextlib
import functools
import os
from typing import Any

from harness.common.errors import InputError
from harness.common.quiet_start import quiet_start

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

try:
    with quiet_start():
        import keras
        import tensorflow as tf
except ImportError as error:
    raise InputError(f"training needs TensorFlow ({error}); pip install 'evidence-drift[train]'") from error

if keras.backend.backend() != "tensorflow":
    raise InputError(
        f"the Keras backend is {keras.backend.backend()}, but export reads TensorFlow graphs; "
        "unset KERAS_BACKEND or set it to tensorflow"
    )

tf.get_logger().setLevel("ERROR")  # every phase compiles its own steps; the advice against retracing is moot

__all__ = ["fresh_session", "keras", "several_devices", "tf", "versions"]


def fresh_session(seed: int, precision: str = "float32") -> None:
    """Forget earlier models, so that automatic layer names start again, then seed every generator.

    Names enter the weights digest; without this the second InceptionV3 of a process would have other names.
    `precision` is a Keras dtype policy: `float32` or `mixed_float16` / `mixed_bfloat16`.
    """
    _start_devices()
    keras.utils.clear_session()
    keras.config.set_dtype_policy(precision)
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


@functools.cache
def _start_devices() -> None:
    """Look for devices, which the first operation would do otherwise, and write about it."""
    with quiet_start():
        tf.config.list_logical_devices()


def several_devices() -> contextlib.AbstractContextManager[object]:
    """Scope in which a model is copied to every visible GPU; does nothing with fewer than two.

    On the TensorFlow backend Keras' distribution API is a prototype that says "do not use"; what works there, and what
    Keras documents for it, is `tf.distribute.MirroredStrategy`. Never forget a session inside the scope: it would
    forget the scope as well.
    """
    strategy = _strategy()
    return contextlib.nullcontext() if strategy is None else strategy.scope()


@functools.cache
def _strategy(kind: str = "GPU") -> Any:
    """One strategy per process: a model and its optimiser must belong to the same."""
    found = [device.name for device in tf.config.list_logical_devices(kind)]
    return tf.distribute.MirroredStrategy(found) if len(found) > 1 else None


def versions() -> dict[str, str]:
    """Versions of what decides the numbers, for `run.json`."""
    import cv2
    import numpy as np

    return {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }

"""Keras files become models in float32 whose statistics are constants."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from export.sources.keras.framework import h5py, keras
from harness.common.errors import InputError, first_line

OTHER_FLOATS = ("float16", "bfloat16", "float64")


def load_checkpoint(path: Path) -> Any:
    """A `.keras` or `.h5` file as a model, in Keras' safe mode: a file cannot bring code of its own."""
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; give a .keras file or a run directory")
    if path.name.endswith(".weights.h5"):
        raise InputError(f"{path}: holds weights without their model; save the whole model as a .keras file")
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (ValueError, OSError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise InputError(f"{path}: {_about_loading(error)}") from error


def _about_loading(error: Exception) -> str:
    if "Lambda" in str(error):
        return "holds a Lambda layer, whose code Keras does not run from a file; replace it by layers or keras.ops"
    unknown = re.search(r"(?:Could not locate class|Could not locate function|Unknown layer:) '(\w+)'", str(error))
    if unknown:
        return f"needs {unknown[1]!r}, which is not part of Keras; build it of Keras' layers, or write it as ONNX"
    return f"not a checkpoint that Keras can load safely ({first_line(error)})"


def trained_on_each_class_alone(path: Path) -> bool:
    """Whether the file says that its model was compiled with binary cross-entropy, of one or several classes."""
    loss = (_compile_config(path) or {}).get("loss")
    loss = loss.get("class_name") if isinstance(loss, dict) else loss
    return isinstance(loss, str) and loss.lower().replace("_", "").startswith("binary")


def _compile_config(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json")).get("compile_config")
    with h5py.File(path) as file:
        return json.loads(file.attrs.get("training_config", "{}"))


def in_float32(path: Path, model: Any) -> Any:
    """The same model with every layer computing in float32: another precision is a choice for training.

    :raises InputError: its weights are quantized.
    """
    config = model.get_config()
    if any(str(value.get("class_name", "")).startswith("Quantized") for value in _records(config)):
        raise InputError(f"{path}: holds quantized weights; export the model as it was before, then `export compress`")
    if any(_is_other_float(value) for value in _records(config)):
        weights = model.get_weights()
        model = type(model).from_config(_without_other_floats(config))
        model.set_weights(weights)
    return model


def constant_statistics(layer: Any) -> None:
    """Normalization keeps its statistics as tensors, which tracing would turn into inputs; arrays become constants."""
    if isinstance(layer, keras.layers.Normalization):
        layer.finalize_state()
        layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)


def _records(config: Any) -> Iterator[dict[str, Any]]:
    """Every dictionary in a configuration."""
    if isinstance(config, dict):
        yield config
    for value in config.values() if isinstance(config, dict) else config if isinstance(config, (list, tuple)) else ():
        yield from _records(value)


def _is_other_float(record: dict[str, Any]) -> bool:
    if record.get("class_name") == "DTypePolicy":
        return str(record["config"]["name"]).removeprefix("mixed_") in OTHER_FLOATS
    return str(record.get("dtype")).removeprefix("mixed_") in OTHER_FLOATS


def _without_other_floats(config: Any) -> Any:
    if isinstance(config, dict):
        changed = {key: _without_other_floats(value) for key, value in config.items()}
        if config.get("class_name") == "DTypePolicy":
            return changed | {"config": changed["config"] | {"name": "float32"}}
        return changed | ({"dtype": "float32"} if _is_other_float(config) else {})
    return type(config)(map(_without_other_floats, config)) if isinstance(config, (list, tuple)) else config

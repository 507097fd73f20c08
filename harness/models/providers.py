"""Execution providers of ONNX Runtime: which are asked for, with which options, and what a machine lacks for them.

`cpu`, `cuda`, `tensorrt`, or several in the order of preference: `tensorrt,cuda` lets CUDA run what TensorRT cannot.
`+tf32` behind an accelerator allows TF32, which keeps 10 bits of a product's factors and is faster; without it CUDA
computes in float32 throughout.
"""

from __future__ import annotations

import ctypes
import io
import os
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import onnxruntime as ort

from harness.common.errors import CannotEvaluateError, InputError, first_line
from harness.common.storage import Location

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
TF32 = "+tf32"
LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
NO_FOLDER = "/nowhere/weights-lie-outside-the-file"
# What each accelerator loads, and what to do where it is not there. ONNX Runtime 1.2x and 1.3x for CUDA 13.
_DRIVER = ("libcuda.so.1", "no NVIDIA driver is loaded (libcuda.so.1); install one for CUDA 13 (release 580 or newer)")
_LIBRARIES = {
    "cuda": (
        _DRIVER,
        ("libcudart.so.13", "the CUDA 13 runtime is missing (libcudart.so.13); pip install nvidia-cuda-runtime"),
        ("libcublas.so.13", "cuBLAS for CUDA 13 is missing (libcublas.so.13); pip install nvidia-cublas"),
        ("libcudnn.so.9", "cuDNN 9 is missing (libcudnn.so.9); pip install nvidia-cudnn-cu13"),
    ),
    "tensorrt": (_DRIVER, ("libnvinfer.so.10", "TensorRT 10 is missing (libnvinfer.so.10); pip install tensorrt")),
}


def parse(asked: str) -> list[tuple[str, bool]]:
    """[(provider, whether TF32 is allowed)] in the order of preference.

    :raises InputError: a name that is no provider, the same one twice, or TF32 on the CPU.
    """
    found = []
    for text in asked.split(","):
        name = text.strip().removesuffix(TF32)
        if name not in PROVIDERS or (name == "cpu" and text.strip() != name):
            known = ", ".join([*PROVIDERS, f"cuda{TF32}"])
            raise InputError(f"unknown provider {text.strip()!r}; choose from {known}, several with commas")
        found.append((name, text.strip().endswith(TF32)))
    if len({name for name, _ in found}) < len(found):
        raise InputError(f"--provider {asked} names a provider twice; name it once")
    if len({tf32 for name, tf32 in found if name != "cpu"}) > 1:
        raise InputError(f"--provider {asked} allows TF32 to one accelerator only; give {TF32} to all of them or none")
    return found


def accelerated(asked: str) -> bool:
    """Whether something else than the CPU is asked for."""
    return parse(asked)[0][0] != "cpu"


def session(path: Location, content: bytes, asked: str, threads: int, level: str) -> ort.InferenceSession:
    """A graph in a session on the providers that are asked for, the first of which really runs.

    :raises InputError: an unknown provider, or nothing that ONNX Runtime can run.
    :raises CannotEvaluateError: a provider is not there; says what it lacks.
    """
    wanted = parse(asked)
    for name, _ in wanted:
        _require(name)
    if accelerated(asked):
        _load_libraries(allow_tf32=any(tf32 for _, tf32 in wanted))
    listed = [(PROVIDERS[name], _options(name, tf32)) for name, tf32 in wanted]
    try:
        with redirect_stdout(io.StringIO()):  # ONNX Runtime prints there when a provider does not start
            made = ort.InferenceSession(content, _settings(threads, level), providers=listed)
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        if accelerated(asked):  # the CPU has read the file before
            raise CannotEvaluateError(
                f"{path}: provider {wanted[0][0]!r} cannot load it: {first_line(error)}"
            ) from error
        raise InputError(f"{path}: not an ONNX file that ONNX Runtime can run ({first_line(error)})") from error
    if made.get_providers()[0] != listed[0][0]:
        raise _refusal(wanted[0][0], f"ONNX Runtime fell back to {made.get_providers()[0]}")
    return made


def missing(name: str, loads: Callable[[str], bool] | None = None) -> list[str]:
    """What this machine lacks for a provider, one sentence each; empty where nothing is missing.

    :param loads: whether a shared library can be loaded; by default it is tried.
    """
    loads = loads or _loads
    if PROVIDERS[name] not in ort.get_available_providers():
        return [f"this ONNX Runtime was built without {PROVIDERS[name]}; pip install onnxruntime-gpu in its place"]
    return [sentence for library, sentence in _LIBRARIES.get(name, ()) if not loads(library)]


def state(name: str) -> str:
    """A provider in words, for people."""
    return "; ".join(missing(name)) or "ready"


def _require(name: str) -> None:
    if PROVIDERS[name] not in ort.get_available_providers():
        raise _refusal(name, "it is not there")


def _refusal(name: str, what: str) -> CannotEvaluateError:
    reasons = "; ".join(missing(name)) or "nothing that is known to be needed is missing"
    return CannotEvaluateError(f"provider {name!r} was asked for, but {what}: {reasons} (see `evidence-drift env`)")


def _options(name: str, tf32: bool) -> dict[str, str]:
    if name == "cuda":
        return {"use_tf32": str(int(tf32)), "cudnn_conv_algo_search": "HEURISTIC"}
    return {"trt_fp16_enable": "0"} if name == "tensorrt" else {}


def _settings(threads: int, level: str) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    ort.set_default_logger_severity(4)  # what goes wrong is raised, and said in a sentence of ours
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[level])
    # Two sessions take turns: threads that spin while waiting for work would slow the other one down.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Weights outside of the file would be under no digest: ONNX Runtime shall find none.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", NO_FOLDER)
    return options


def _load_libraries(allow_tf32: bool) -> None:
    """Find CUDA and cuDNN in NVIDIA's pip packages, too. TensorRT has no option against TF32, the environment has."""
    if allow_tf32:
        os.environ.pop("NVIDIA_TF32_OVERRIDE", None)
    else:
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        ort.preload_dlls()


def _loads(library: str) -> bool:
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        ort.preload_dlls()
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def gpu_model(folder: Path = Path("/proc/driver/nvidia/gpus")) -> str:
    """What the first NVIDIA GPU calls itself, empty without one."""
    for file in sorted(folder.glob("*/information")) if folder.is_dir() else ():
        lines: list[Any] = file.read_text(encoding="utf-8").splitlines()
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("Model:")), "")
    return ""

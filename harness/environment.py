"""What this machine offers: versions, execution providers, and where each of our packages comes from."""

from __future__ import annotations

import importlib.util
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

OURS = ("training", "export", "harness", "kernels")
PACKAGES = (
    "evidence-drift", "onnxruntime-gpu", "onnxruntime", "numpy", "numba", "scipy", "opencv-python-headless", "pyarrow",
    "pydantic", "onnx", "onnx-ir", "tensorflow", "keras", "tf2onnx",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Package -> version, of those that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def origins() -> dict[str, str]:
    """Folder that each of our packages is imported from: `kernels` is the name of another distribution, too."""
    found = {}
    for name in OURS:
        spec = importlib.util.find_spec(name)
        found[name] = str(Path(spec.origin).parent) if spec is not None and spec.origin else "not found"
    return found

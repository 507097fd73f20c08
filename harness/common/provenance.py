"""What this machine offers: versions, execution providers, and where each of our packages comes from."""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

OURS = ("training", "export", "harness", "kernels")
PACKAGES = (
    "evidence-drift", "onnxruntime-gpu", "onnxruntime", "numpy", "numba", "scipy", "opencv-python-headless", "pyarrow",
    "pydantic", "onnx", "onnx-ir", "tensorflow", "keras", "tf2onnx",
)  # fmt: skip


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Package -> version, of those that are installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def stamp() -> dict[str, Any]:
    """What a result says about where it was made: versions, kind of machine, commit. No host and no user name."""
    return {"versions": versions(), "machine": platform.machine(), "cpu": cpu_model(), "git_commit": git_commit()}


def utc_now() -> str:
    """The time, UTC, to the second: 2026-11-29T03:15:00Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def cpu_model() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def git_commit() -> str | None:
    """The commit of the working folder, where it is a git repository."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def origins() -> dict[str, str]:
    """Folder that each of our packages is imported from: `kernels` is the name of another distribution, too."""
    found = {}
    for name in OURS:
        spec = importlib.util.find_spec(name)
        found[name] = str(Path(spec.origin).parent) if spec is not None and spec.origin else "not found"
    return found


def bytes_digest(content: bytes) -> str:
    """sha256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def weights_digest(weights: Iterable[tuple[str, np.ndarray]]) -> str:
    """sha256 over name, shape and float32 bytes of each weight, in order.

    Two saved files of one model differ in bytes (they hold dates); their weights do not.
    """
    digest = hashlib.sha256()
    for name, array in weights:
        digest.update(f"{name}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array, "<f4").tobytes())
    return digest.hexdigest()

"""Fixtures that every folder's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real radiographs; tests that need it skip where it is absent, unless it is required."""
    folder = Path(os.environ.get("EVIDENCE_DRIFT_SHARED", ROOT.parent / "shared"))
    if not (folder / "cxr5" / "manifest.csv").is_file():
        message = f"real radiographs are not at {folder} (set EVIDENCE_DRIFT_SHARED)"
        if os.environ.get("EVIDENCE_DRIFT_REQUIRE_SHARED") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def finished_training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of one small complete run, to be read and copied, never changed (tests/training_runs.py)."""
    from tests.training_runs import finish

    return finish(tmp_path_factory.mktemp("training"))

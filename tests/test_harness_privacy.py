"""Telemetry of dependencies is off, whatever is imported first, unless the user asks for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.common.privacy import SWITCHES
from tests.tiny_graphs import process_environment

ENTRIES = ("harness", "export", "training", "harness.cli", "export.cli", "training.cli", "harness.models.session",
           "export.proof.parity", "harness.common.errors")  # fmt: skip
SHOW = "import os, {entry}; print({{name: os.environ.get(name) for name in {names!r}}})"


def switches_after(entry: str, **environment: str) -> dict[str, str | None]:
    """The switches in a fresh process that imports `entry` alone."""
    kept = {name: value for name, value in process_environment().items() if name not in SWITCHES}
    code = SHOW.format(entry=entry, names=list(SWITCHES))
    done = subprocess.run([sys.executable, "-c", code], env={**kept, **environment}, capture_output=True, check=True)
    return eval(done.stdout)


@pytest.mark.parametrize("entry", ENTRIES)
def test_telemetry_is_off_whatever_is_imported(entry: str) -> None:
    assert switches_after(entry) == SWITCHES


def test_a_user_who_asks_for_it_keeps_it() -> None:
    assert switches_after("harness", ORT_DISABLE_TELEMETRY="0")["ORT_DISABLE_TELEMETRY"] == "0"


@pytest.mark.parametrize("entry", ["harness.models.session", "export.proof.parity"])
def test_it_is_off_before_the_runtime_is_loaded(entry: str) -> None:
    """An import hook records the switch at the moment at which ONNX Runtime is looked for."""
    code = (
        "import builtins, os, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'onnxruntime': print(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "sys.meta_path.insert(0, Finder())\n"
        f"import {entry}\n"
    )
    kept = {name: value for name, value in process_environment().items() if name not in SWITCHES}
    done = subprocess.run([sys.executable, "-c", code], env=kept, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]

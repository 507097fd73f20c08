"""Starting TensorFlow: quiet unless asked, and progress bars likewise."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from harness.common.quiet_start import quiet_start
from training import framework
from training.pixels import Pixels
from training.progress import Bar
from training.samples import Sample


@pytest.mark.parametrize(("level", "expected"), [(None, ""), ("3", ""), ("2", "native\n"), ("0", "native\n")])
def test_start_is_quiet_unless_the_log_level_asks_for_it(
    level: str | None, expected: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What native code writes goes past `sys.stderr`; our own messages afterwards arrive."""
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    if level is not None:
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
    with quiet_start():
        os.write(2, b"native\n")
    os.write(2, b"ours\n")
    assert capfd.readouterr().err == f"{expected}ours\n"


def test_devices_are_looked_for_while_it_is_quiet(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA complains about a machine without a GPU at the first operation, long after the import."""

    def complaining() -> list[str]:
        os.write(2, b"failed call to cuInit\n")
        return []

    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.setattr(framework.tf.config, "list_logical_devices", complaining)
    framework._start_devices.cache_clear()
    framework.fresh_session(0)
    assert framework._start_devices.cache_info().misses == 1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("quiet", [True, False])
def test_progress_bars_are_left_out_when_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str], quiet: bool) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8), np.uint8))
    Pixels([Sample("a.png", tmp_path / "a.png", ("x",), "1")], (8, 8), 1.0, quiet)
    with Bar("finetune", epochs=1, steps=1, done=0, quiet=quiet) as bar:
        bar.callback().on_train_batch_end(0)
    shown = capfd.readouterr().err
    assert (shown == "") is quiet
    assert quiet or ("reading" in shown and "finetune 1/1" in shown)

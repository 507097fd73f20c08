"""`python -m benchmarks gpu`: what is measured in which order, what stops it, and how far two graphs are apart."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu
from harness.common.errors import CannotEvaluateError
from harness.models.session import Model
from tests import tiny_graphs


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The rows that were asked for; nothing is measured. DenseNet201 in TF32 fails."""
    asked: list[tuple[str, str]] = []

    def row(_asked: gpu.Asked, pair: str, way: str, _folder: Path) -> tuple[object, ...]:
        asked.append((pair, way))
        if (pair, way) == ("DenseNet201", "TF32"):
            raise CannotEvaluateError("provider 'cuda' cannot load it")
        return "1", "2", "3", "4%", "5e-07"

    monkeypatch.setattr(gpu, "checkpoints", lambda network: network)
    monkeypatch.setattr(gpu, "_row", row)
    return asked


def asked(provider: str, seconds: float = 60.0) -> gpu.Asked:
    return gpu.Asked(provider, 8, 20, ("ResNet50V2", "DenseNet201"), seconds)


def test_every_network_has_a_row_for_every_arithmetic(rows: list, tmp_path: Path) -> None:
    found = list(gpu.measure(asked("cuda"), tmp_path))
    assert [row[:2] for row in found] == [(net, way) for net in asked("cuda").networks for way in gpu.WAYS] == rows
    assert all(len(row) == len(gpu.HEADERS) for row in found)
    assert found[4][2:] == (None, None, None, None, None, "provider 'cuda' cannot load it")
    assert found[3][-1] == ""


@pytest.mark.usefixtures("rows")
def test_the_cpu_has_no_tf32(tmp_path: Path) -> None:
    found = [row[1] for row in gpu.measure(asked("cpu"), tmp_path)]
    assert found == ["float32", "float16"] * 2
    assert "provider cpu, 8 images a call" in gpu.table(asked("cpu"), tmp_path)


def test_nothing_is_begun_after_the_limit(rows: list, tmp_path: Path) -> None:
    found = list(gpu.measure(asked("cuda", seconds=-1.0), tmp_path))
    assert {row[-1] for row in found} == {"no time left"}
    assert rows == []


def test_the_rate_is_that_of_the_fastest_call_after_the_first_two() -> None:
    waits = iter([0.0, 0.0, 0.05, 0.01, 0.05, 0.05, 0.05])
    assert gpu._rate(lambda: time.sleep(next(waits)), 1) == pytest.approx(100, rel=0.5)


def test_the_error_is_a_share_of_the_maximum_of_the_map(tmp_path: Path) -> None:
    one, other = (
        Model.open(tiny_graphs.write_graph(tmp_path / f"{seed}.onnx", seed, balanced=True)) for seed in (0, 1)
    )
    batch = np.random.default_rng(0).uniform(0, 255, (16, 3, 32, 32)).astype(np.float32)
    layer = "late"
    assert gpu._largest_error(one, one, batch, layer) == 0
    assert 0 < gpu._largest_error(other, one, batch, layer) < np.inf

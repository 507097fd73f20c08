"""A graph in a session: who calls it at the same time, with how many pictures, and for how long."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from harness.models import session
from harness.models.session import BusyTime, Model
from tests import tiny_graphs


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return tiny_graphs.write_graph(tmp_path / "graph.onnx")


@pytest.mark.parametrize(("threads", "batch"), [(1, 4), (2, 4), (16, 4), (32, 2), (100, 1)])
def test_each_thread_makes_calls_of_few_pictures(graph: Path, threads: int, batch: int) -> None:
    model = Model.open(graph, threads=threads, at_once=True)
    assert (model.calls, model.batch) == (threads, batch)


def test_threads_share_the_only_call_otherwise(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (Model.open(graph, threads=8).calls, Model.open(graph, threads=8).batch) == (1, 32)
    monkeypatch.setattr(session.providers, "accelerated", lambda _: True)
    assert Model.open(graph, threads=8, at_once=True).calls == 1


def test_calls_at_the_same_time_give_the_bits_of_calls_in_turn(graph: Path) -> None:
    pictures = np.random.default_rng(0).uniform(0, 255, (24, 4, 3, 32, 32)).astype(np.float32)
    targets = np.arange(4) % 3
    alone, shared = Model.open(graph), Model.open(graph, threads=6, at_once=True)

    def maps(model: Model, batch: np.ndarray) -> list[np.ndarray]:
        found = model.explain(batch, targets, ["late"])
        behind = model.behind("late", found.layers["late"][0], targets, batch, gradients=True)
        return [found.logits, *found.layers["late"], *behind, model.logits(batch)]

    with ThreadPoolExecutor(shared.calls) as pool:
        together = list(pool.map(lambda batch: maps(shared, batch), pictures))
    for batch, found in zip(pictures, together, strict=True):
        for mine, expected in zip(found, maps(alone, batch), strict=True):
            np.testing.assert_array_equal(mine, expected)


def test_time_that_calls_share_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(session.time, "perf_counter", lambda: now[0])
    busy = BusyTime()
    busy.__enter__()  # from 0
    now[0] = 1
    busy.__enter__()  # from 1
    now[0] = 3
    busy.__exit__()
    assert busy.seconds == 3
    now[0] = 5
    busy.__exit__()
    now[0] = 10
    assert busy.seconds == 5
    with busy:
        now[0] = 12
        assert busy.seconds == 7
    now[0] = 20
    assert busy.seconds == 7

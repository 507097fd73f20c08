"""The engine's cost as ratios within one run: exported graphs against the forward pass alone and against TensorFlow."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tabulate import tabulate

from benchmarks import engine_cases
from benchmarks.engine_cases import BATCH, LAYERS, SIZES, THREADS
from tests.keras_models import backbone

HEADERS = ("network", "layer", "ours, ms", "rival", "its ms", "ratio", "wanted", "file size ratio")
WANTED = {"last": 1.05, "penultimate": 1.15, "deep": 1.0}

Run = Callable[[], object]


def engine_table(rounds: int) -> str:
    """One row per network and depth; each ratio is the median over rounds in which all took turns."""
    rows = [row for architecture in LAYERS for row in _rows(architecture, rounds)]
    note = (
        f"Batch {BATCH}, {THREADS} threads, ms per image, random weights, {rounds} rounds in which all take turns; "
        "ours gives logits, activations and gradients, from which every CAM method follows."
    )
    return f"{tabulate(rows, HEADERS, 'pipe', disable_numparse=True)}\n\n{note}"


def _rows(architecture: str, rounds: int) -> list[tuple[str, ...]]:
    size, layers = SIZES[architecture], LAYERS[architecture]
    model = backbone(architecture, size)
    made = engine_cases.graphs(model, layers)
    feeds = engine_cases.feeds(size)
    runs: dict[str, Run] = {"forward only": _onnx(made.forward, {"image": feeds["image"]})}
    runs |= {layer: _onnx(content, feeds) for layer, content in made.by_layer.items()}
    runs["GradientTape"] = _tape(model, layers[2], feeds)
    seconds = _take_turns(runs, rounds)
    rows = []
    for depth, layer in zip(WANTED, layers, strict=True):
        rival = "GradientTape" if depth == "deep" else "forward only"
        ratio = float(np.median(seconds[layer] / seconds[rival]))
        grown = len(made.by_layer[layer]) / len(made.forward)
        ours, theirs = (1e3 * float(np.median(seconds[name])) / BATCH for name in (layer, rival))
        times = f"{ours:.1f}", rival, f"{theirs:.1f}", f"{ratio:.2f}", f"<= {WANTED[depth]:.2f}"
        rows.append((architecture, f"{layer} ({depth})", *times, f"{grown:.3f}"))
    return rows


def _onnx(content: bytes, feeds: Mapping[str, np.ndarray]) -> Run:
    session = engine_cases.session(content)
    return lambda: session.run(None, dict(feeds))


def _tape(model: Any, layer: str, feeds: Mapping[str, np.ndarray]) -> Run:
    """TensorFlow's compiled gradient of the same outputs."""
    pinned = keras.Model(model.inputs, [model.output, model.get_layer(layer).output])
    image, target = tf.constant(feeds["image"].transpose(0, 2, 3, 1)), tf.constant(feeds["target"])

    @tf.function
    def explained() -> Any:
        with tf.GradientTape() as tape:
            logits, activations = pinned(image, training=False)
            score = tf.reduce_sum(tf.gather(logits, target, batch_dims=1))
        return logits, activations, tape.gradient(score, activations)

    return lambda: [value.numpy() for value in explained()]


def _take_turns(runs: Mapping[str, Run], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each contender, (rounds,), after two rounds to warm up."""
    seconds = np.empty((len(runs), rounds + 2))
    for turn in range(rounds + 2):
        for place, run in enumerate(runs.values()):
            started = time.perf_counter()
            run()
            seconds[place, turn] = time.perf_counter() - started
    return dict(zip(runs, seconds[:, 2:], strict=True))

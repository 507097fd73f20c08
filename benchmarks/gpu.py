"""`python -m benchmarks gpu`: how fast an accelerator is on the networks of the benchmarks, and how far from the CPU.

Made for the first machine with a GPU at hand: one command, a time limit, one table. With `--provider cpu` the same runs
anywhere, which shows that it works and nothing else.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tabulate import tabulate

from benchmarks import evaluations
from benchmarks.networks import LIGHT, PHASES, ROOT, SIZES, Checkpoints, checkpoints
from benchmarks.radiographs import radiographs
from harness.common.errors import CannotEvaluateError, InputError
from harness.images.loading import channels_first, load_grey
from harness.models.providers import TF32, gpu_model
from harness.models.session import Model

NETWORKS = {**LIGHT, **SIZES}
WAYS = ("float32", "TF32", "float16")
HEADERS = (
    "network", "arithmetic", "forward, images/s", "CAM pass, images/s", "evaluate, images/s", "outside ONNX Runtime",
    "largest error of a map", "note",
)  # fmt: skip
ROUNDS = 5
COMPARED = 16  # images whose maps are held against those of the CPU


@dataclass(frozen=True)
class Asked:
    """What to measure: on which provider, with how many images a call and in an evaluation, for how long at most."""

    provider: str
    batch: int
    images: int
    networks: Sequence[str]
    seconds: float


def measure(asked: Asked, folder: Path) -> Iterator[tuple[object, ...]]:
    """A row per network and arithmetic, in turn; what there is no time left for is named."""
    end = time.monotonic() + asked.seconds
    for network in asked.networks:
        pair = checkpoints(network)
        for way in WAYS:
            if way == "TF32" and asked.provider == "cpu":
                continue
            if time.monotonic() > end:
                yield network, way, *[None] * 5, "no time left"
                continue
            try:
                yield network, way, *_row(asked, pair, way, folder), ""
            except (CannotEvaluateError, InputError, subprocess.CalledProcessError) as error:
                yield network, way, *[None] * 5, str(error)[:80]


def _row(asked: Asked, pair: Checkpoints, way: str, folder: Path) -> tuple[object, ...]:
    provider = f"{asked.provider}{TF32}" if way == "TF32" else asked.provider
    files = [_graph(pair, phase, way, folder) for phase in PHASES]
    model, reference = Model.open(files[0], provider, 2), Model.open(pair.onnx(PHASES[0]), "cpu", 2)
    batch = _pictures(model, asked.batch)
    target = np.zeros(len(batch), np.int64)
    forward = _rate(lambda: model.logits(batch), len(batch))
    cam = _rate(lambda: model.explain(batch, target, [pair.layer]), len(batch))
    error = _largest_error(model, reference, batch[:COMPARED], pair.layer)
    whole, outside = _evaluated(asked, files, provider, folder)
    return f"{forward:.0f}", f"{cam:.0f}", f"{whole:.0f}", f"{outside:.0%}", f"{error:.1e}"


def _graph(pair: Checkpoints, phase: str, way: str, folder: Path) -> Path:
    """The exported graph, halved for float16."""
    if way != "float16":
        return pair.onnx(phase)
    halved = folder / f"{pair.architecture}-{phase}-float16.onnx"
    if not halved.is_file():
        line = ["export", "compress", pair.onnx(phase), "--to", "float16", "--out", halved]
        subprocess.run([sys.executable, "-m", *map(str, line)], cwd=ROOT, check=True, capture_output=True)
    return halved


def _pictures(model: Model, count: int) -> np.ndarray:
    size = model.metadata.input_size
    files = radiographs(count).files
    return channels_first(np.stack([load_grey(files[n % len(files)], size) for n in range(count)]))


def _rate(call: Callable[[], object], images: int) -> float:
    """Images per second of the fastest of some calls, after two that prepare it."""
    took = []
    for _ in range(ROUNDS + 2):
        started = time.perf_counter()
        call()
        took.append(time.perf_counter() - started)
    return images / min(took[2:])


def _largest_error(model: Model, reference: Model, batch: np.ndarray, layer: str) -> float:
    """The largest difference of sum_k G_k A_k (HiResCAM, not rectified: never empty) from the reference's.

    As a share of its largest magnitude in the image. What is explained is the class that the reference predicts.
    """
    target = reference.explain(batch, np.full(len(batch), -1), [layer]).logits.argmax(axis=1)
    pairs = [one.explain(batch, target, [layer]).layers[layer] for one in (model, reference)]
    found, expected = (np.einsum("nchw,nchw->nhw", *pair) for pair in pairs)
    apart, largest = (np.abs(values).max(axis=(1, 2)) for values in (found - expected, expected))
    return float((apart / largest).max())


def _evaluated(asked: Asked, files: Sequence[Path], provider: str, folder: Path) -> tuple[float, float]:
    """Images per second of a default `evaluate` from start to end, and the share of it outside ONNX Runtime."""
    manifest, out = folder / f"{asked.images}.csv", folder / "out"
    if not manifest.is_file():
        radiographs(asked.images).write_manifest(manifest)
    line = ["harness", "evaluate", "--before", files[0], "--after", files[1], "--data", manifest, "--select", "all"]
    line += ["--provider", provider, "--quiet", "--out", out]
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", *map(str, line)], cwd=ROOT, check=True, capture_output=True)
    took = time.perf_counter() - started
    inside = evaluations.Evaluation.read(out).seconds["onnxruntime"]
    return asked.images / took, 1 - inside / took


def table(asked: Asked, folder: Path) -> str:
    """The rows as Markdown, under a sentence that says what they were measured on."""
    where = gpu_model() or "no GPU"
    head = (
        f"{where}; provider {asked.provider}, {asked.batch} images a call, evaluations of {asked.images} radiographs."
    )
    return f"{head}\n\n{tabulate(list(measure(asked, folder)), HEADERS, tablefmt='github', disable_numparse=True)}"

"""The worked example of docs/compression.md: does compressing a fine-tuned network move its evidence?

    python scripts/compression_example.py runs/study-mobilenetv2 runs/compression

Needs a run directory with `split.csv` and `exported/onnx/finetune.onnx`, which holds `penultimate` and `last`.
Compresses it three ways on images of the training split, evaluates each against the original on the test split, and
writes tables: what moved, what it costs, and how far one file is from itself at another optimisation level.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from tabulate import tabulate

from harness.images.loading import channels_first, load_grey
from harness.images.manifest import read_manifest
from harness.models.session import Model
from harness.results.schema import Evaluation, MetricSummary, PairResult
from kernels.cam import cam
from kernels.metrics import pair_metrics

WAYS = {
    "float16": ["--to", "float16"],
    "int8": ["--to", "int8", "--full-range"],
    "int8, 7-bit weights": ["--to", "int8", "--reduce-range"],
}
LAYERS, METHODS = ("penultimate", "last"), ("layercam", "gradcam++")
ROUNDS = 30
BATCH = 16


def command(*arguments: object) -> None:
    """Run one of our command lines; one that fails stops the example."""
    subprocess.run([sys.executable, "-m", *map(str, arguments)], check=True)


REFERENCES = ("--jitter", 4, "--chance", 20)  # with which the page's numbers were measured


def compress(run: Path, out: Path) -> dict[str, Path]:
    """Name -> graph, the original first."""
    original = run / "exported/onnx/finetune.onnx"
    graphs = {"float32": original}
    for name, options in WAYS.items():
        graphs[name] = out / f"{name.replace(', ', '-').replace(' ', '-')}.onnx"
        data = ["--data", run / "split.csv", "--split", "train"]
        command("export", "compress", original, *options, *data, "--out", graphs[name])
    return graphs


def evaluate(run: Path, graphs: dict[str, Path]) -> dict[str, Evaluation]:
    """Name -> every compressed graph against the original, on the test split."""
    found = {}
    for name in WAYS:
        folder = graphs[name].with_suffix("")
        layers = [part for layer in LAYERS for part in ("--layer", layer)]
        pair = ["--before", graphs["float32"], "--after", graphs[name]]
        data = ["--data", run / "split.csv", "--split", "test"]
        command("harness", "evaluate", *pair, *data, *layers, *REFERENCES, "--out", folder, "--quiet")
        found[name] = Evaluation.read(folder)
    return found


def prediction_row(name: str, result: Evaluation) -> list[str]:
    """Accuracy and agreement of one comparison."""
    (pair,) = result.pairs
    before, after = (result.by_key[key].quality["accuracy"].mean for key in (pair.before, pair.after))
    change, agreement = pair.change["accuracy"], pair.agreement
    return [
        name,
        f"{before:.3f}",
        f"{after:.3f}",
        f"{change.low:+.3f} .. {change.high:+.3f}",
        f"{agreement.mean:.3f} ({agreement.low:.3f} .. {agreement.high:.3f})",
    ]


def map_rows(name: str, pair: PairResult) -> list[list[str]]:
    """One row per layer and method."""
    items = {(item.layer, item.method, item.metric): item for item in pair.metrics if item.scope == "all"}
    return [
        [name, layer, method, *measured(items[layer, method, "iou_top20"], items[layer, method, "pearson"])]
        for layer in LAYERS
        for method in METHODS
    ]


def measured(overlap: MetricSummary, pearson: MetricSummary) -> list[str]:
    """IoU with interval, chance, floor and index; Pearson; vanished and undefined images."""
    assert overlap.chance is not None
    assert overlap.floor is not None
    assert overlap.index is not None
    mean, index = overlap.estimate, overlap.index
    return [
        f"{mean.mean:.3f} ({mean.low:.3f} .. {mean.high:.3f})",
        f"{overlap.chance.mean:.3f}",
        f"{overlap.floor.mean:.3f}",
        f"{index.value:.2f} ({index.low:.2f} .. {index.high:.2f})",
        f"{pearson.estimate.mean:.3f}",
        f"{overlap.vanished} of {overlap.n}",
    ]


def test_images(run: Path, size: tuple[int, int]) -> np.ndarray:
    """(N, 3, H, W) images of the test split."""
    rows = read_manifest(run / "split.csv", split="test", wanted=("file", "split")).rows
    files = [row.path for row in rows]
    return channels_first(np.stack([load_grey(path, size) for path in files]))


def seconds(models: list[Model], image: np.ndarray) -> list[float]:
    """Median time of one explained image; the models take turns, so that they meet the same machine."""
    taken: list[list[float]] = [[] for _ in models]
    for _ in range(ROUNDS):
        for model, times in zip(models, taken, strict=True):
            started = time.perf_counter()
            model.explain(image, np.array([-1]), LAYERS)
            times.append(time.perf_counter() - started)
    return [float(np.median(times)) for times in taken]


def between_levels(path: Path, images: np.ndarray) -> list[str]:
    """Mean IoU of the top fifth of LayerCAM maps of one file, without and with optimisations, per layer."""
    models = [Model.open(path, level=level) for level in ("disabled", "all")]
    scores = [scores_of(models, images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    return [f"{np.nanmean(np.concatenate(score)):.3f}" for score in zip(*scores, strict=True)]


def scores_of(models: list[Model], images: np.ndarray) -> list[np.ndarray]:
    """Per layer, IoU (N,) of the maps of two models for the class that the first predicts."""
    target = models[0].explain(images, np.full(len(images), -1), LAYERS).logits.argmax(axis=1)
    found = [model.explain(images, target, LAYERS).layers for model in models]
    maps = [[cam("layercam", *layers[layer])[0] for layers in found] for layer in LAYERS]
    return [pair_metrics(*pair, size=(224, 224)).column("iou_top20")[0] for pair in maps]


def cost_rows(run: Path, graphs: dict[str, Path]) -> list[list[str]]:
    """File size, time beside the original, and agreement with itself at another optimisation level."""
    models = [Model.open(path) for path in graphs.values()]
    images = test_images(run, models[0].metadata.input_size)
    times = seconds(models, images[:1])
    return [
        [name, f"{path.stat().st_size / 1e6:.2f}", f"{1e3 * taken:.2f}", f"{taken / times[0]:.2f}",
         *between_levels(path, images)]
        for (name, path), taken in zip(graphs.items(), times, strict=True)
    ]  # fmt: skip


def main(run: Path, out: Path) -> None:
    """Run everything; print the tables and keep them as `tables.md`."""
    graphs = compress(run, out)
    results = evaluate(run, graphs)
    iou = ["IoU top 20", "chance", "floor", "index", "Pearson", "vanished"]
    levels = [f"IoU top 20 between levels, {layer}" for layer in LAYERS]
    predictions = [prediction_row(*item) for item in results.items()]
    maps = [row for name, result in results.items() for row in map_rows(name, result.pairs[0])]
    tables = [
        (["graph", "accuracy before", "after", "change", "agreement"], predictions),
        (["graph", "layer", "method", *iou], maps),
        (["graph", "MB", "ms", "ratio", *levels], cost_rows(run, graphs)),
    ]
    text = "\n\n".join(tabulate(rows, headers, tablefmt="github", disable_numparse=True) for headers, rows in tables)
    (out / "tables.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""How similar are maps to those of a network that knows nothing? The ladder of docs/metrics.md.

    python scripts/null_ladder.py harness/demo/finetune.onnx harness/demo/manifest.csv runs/ladder

Re-draws the weights of a graph from the top (1 tensor of weights, a fifth, half, all), and compares the maps of each
rung with those of the graph itself: `iou_top20` and `spearman`, every method at the first layer, on all images. Beside
it two references. Two different patients of a class within the one checkpoint: maps no more alike than these share
nothing. And the change of entropy by the last rung, which does not depend on how alike two maps of one picture are
anyway (Hedstroem et al. 2024, arXiv 2401.06465).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from tabulate import tabulate

from export.compress.prepare import forward_part, read_export
from export.randomise import randomise, weights_from_the_top
from harness.api.evaluation import Settings, evaluate
from harness.results.part_files import Store
from harness.results.plan import read_scored, restore
from harness.results.reader import Reader, labels_of, read_collected, tasks
from kernels.partners import mean_over_draws, partner_metrics

METHODS = (
    "layercam", "gradcam", "gradcam++", "gradcam++-mean", "hirescam", "xgradcam", "eigencam", "ablation",
    "integrated-gradients", "scorecam",
)  # fmt: skip
METRICS = ("iou_top20", "spearman")
SAMPLE = 64


def rungs(graph: Path, folder: Path) -> dict[str, Path]:
    """Name of each rung -> its graph."""
    source, metadata = read_export(graph)
    count = len(list(weights_from_the_top(forward_part(source, metadata).graph)))
    found = {}
    for top in dict.fromkeys([1, max(1, count // 5), count // 2, count]):
        found[f"{top} of {count}"] = folder / f"top-{top}.onnx"
        if not found[f"{top} of {count}"].exists():
            randomise(graph, found[f"{top} of {count}"], None if top == count else top)
    return found


def compared(graph: Path, other: Path, data: Path, out: Path) -> Path:
    """The folder of the evaluation of two graphs on all images."""
    if not (out / "evaluation.json").exists():
        evaluate(
            graph, other, data, settings=Settings(out, report=False, progress=False), methods=METHODS, select="all",
            jitter=0, chance=0, sample=SAMPLE,
        )  # fmt: skip
    return out


def reader_of(folder: Path) -> Reader:
    stored, samples = restore(read_scored(folder), folder)
    store = Store(folder, labels_of(stored))
    collected = read_collected(store, stored.plan, samples, len(stored.plan.checkpoints))
    return Reader(stored.plan, collected, stored.select, store, stored.jitter_seed)


def means(folder: Path, method: str) -> dict[str, float]:
    """Metric -> mean of a pair, and the relative change of entropy."""
    reader = reader_of(folder)
    number = next(n for n, task in enumerate(_tasks(reader)) if task.kind == "pair" and task.method == method)
    scores = reader.scores(number, "observed", [*METRICS, "entropy_before", "entropy_after"])
    found = {name: float(np.nanmean(scores.values[:, column])) for column, name in enumerate(scores.names)}
    return {**found, "entropy": found["entropy_after"] / found["entropy_before"] - 1}


def _tasks(reader: Reader) -> list:
    return tasks(reader.plan)


def other_patients(folder: Path, method: str) -> dict[str, float]:
    """Metric -> mean of maps of different patients of a class, within the first checkpoint."""
    reader = reader_of(folder)
    rows = np.flatnonzero(reader.with_maps(method))
    maps = reader.maps(0, reader.plan.layers[0], method, rows)
    names, classes, groups = reader.described(rows)
    from harness.statistics.chance import derangements

    partners = derangements(names, classes, groups, 10, 0)
    scores = mean_over_draws(
        partner_metrics(
            maps.raw, maps.raw, partners, 2, before_reasons=maps.codes, after_reasons=maps.codes,
            size=reader.plan.options.map_size, metrics=reader.plan.vocabulary.functions(),
        )
    )  # fmt: skip
    return {name: float(np.nanmean(scores.column(name)[0])) for name in METRICS}


def main(graph: Path, data: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ladder = rungs(graph, folder)
    folders = {name: compared(graph, file, data, folder / file.stem) for name, file in ladder.items()}
    rows = []
    for method in METHODS:
        found = {name: means(out, method) for name, out in folders.items()}
        others = other_patients(next(iter(folders.values())), method)
        last = found[list(found)[-1]]
        cells = [f"{item['iou_top20']:.2f}, {item['spearman']:.2f}" for item in found.values()]
        rows.append(
            [f"`{method}`", *cells, f"{others['iou_top20']:.2f}, {others['spearman']:.2f}", f"{last['entropy']:+.1%}"]
        )
    heads = ["method", *folders, "other patients", "entropy"]
    print(tabulate(rows, heads, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))

"""What a map of several passes costs beside a forward pass, and how complete integrated gradients are.

    python scripts/passes_cost.py GRAPH.onnx ... --images FOLDER

Per graph, at `penultimate` (else its first layer): milliseconds of a forward pass, and of a map of `ablation`,
`integrated-gradients` and `scorecam` in forward passes; median and 95 % quantile of the residual of completeness, over
the images whose score moves by at least 0.1 standard deviations of the margin along the path. All within one run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from tabulate import tabulate

from harness.images.loading import load_view
from harness.images.view import channels_first
from harness.models.score_kinds import margins
from harness.models.session import Model
from harness.models.several_passes import maps_of

METHODS = ("ablation", "integrated-gradients", "scorecam")
LEAST_MOVE = 0.1  # standard deviations of the margin


def seconds(work: Callable[[], object], times: int = 3) -> float:
    """The best of some runs, after one that prepares."""
    work()
    took = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return min(took)


@click.command()
@click.argument("graphs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), required=True)
@click.option("--count", default=16)
@click.option("--threads", default=2)
def main(graphs: tuple[Path, ...], images: Path, count: int, threads: int) -> None:
    """Print the table."""
    files = sorted(path for path in images.rglob("*") if path.suffix in (".png", ".jpg"))[:count]
    rows = [measured(Model.open(graph, threads=threads), graph.stem, files) for graph in graphs]
    heads = ["network", "h x w", "forward, ms", *METHODS, "residual, median", "95 %", "n"]
    print(tabulate(rows, heads, tablefmt="github", disable_numparse=True))


def measured(model: Model, name: str, files: list[Path]) -> list[str]:
    """The row of one graph."""
    rule, size = model.metadata.rule, model.metadata.input_size
    pictures = channels_first(np.stack([load_view(file, rule, size).pixels for file in files]))
    layer = "penultimate" if "penultimate" in model.graph.layers else next(iter(model.graph.layers))
    found = model.explain(pictures, np.full(len(files), -1), [layer])
    targets = model.metadata.decisions(found.logits).argmax(axis=1)
    activations = found.layers[layer][0]
    forward = seconds(lambda: model.logits(pictures)) / len(files)
    few = slice(0, 4)
    costs = [
        seconds(lambda m=m: maps_of(model, layer, m, activations[few], pictures[few], targets[few]), 2) / 4 / forward
        for m in METHODS
    ]
    _, residuals = maps_of(model, layer, "integrated-gradients", activations, pictures, targets)
    empty, _ = model.behind(layer, np.zeros_like(activations), targets, pictures)
    ends = [model.metadata.explained_scores(logits, targets) for logits in (found.logits, empty)]
    spread = margins(found.logits, targets, model.metadata.score_kind).std(ddof=1)
    kept = residuals[np.abs(ends[0] - ends[1]) >= LEAST_MOVE * spread]
    height, width = activations.shape[2:]
    quantiles = [f"{np.quantile(kept, q):.2%}" for q in (0.5, 0.95)]
    return [
        name,
        f"{height} x {width}",
        f"{1e3 * forward:.1f}",
        *(f"{cost:.1f}" for cost in costs),
        *quantiles,
        str(len(kept)),
    ]


if __name__ == "__main__":
    main()

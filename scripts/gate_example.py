"""The worked example of docs/gate.md: three honest fine-tunes pass, three spoiled ones are stopped.

    python scripts/gate_example.py runs/gate-example

Needs runs/study-mobilenetv2 and runs/gate-spoiled, trained and exported as docs/gate.md says. Writes the policy, an
evaluation and a verdict per candidate, a table and a picture of the mean maps.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from tabulate import tabulate

from harness.results.schema import Evaluation
from kernels.resize import upsample

HONEST, SPOILED = Path("runs/study-mobilenetv2"), Path("runs/gate-spoiled")
HONEST_GRAPHS, SPOILED_GRAPHS = HONEST / "exported/onnx", SPOILED / "onnx"  # the first are those of docs/study
DEPLOYED = HONEST_GRAPHS / "transfer.onnx"
REFERENCES = ("--jitter", 4, "--chance", 20)  # with which the page's numbers were measured
MARKED_CLASS = "covid19"
CANDIDATES = {
    **{f"honest, seed {n}": (HONEST, HONEST_GRAPHS / f"finetune.seed{n}.onnx") for n in (3, 4, 5)},
    "spoiled, seed 3": (SPOILED, SPOILED_GRAPHS / "finetune.onnx"),
    "spoiled, seed 4": (SPOILED, SPOILED_GRAPHS / "finetune.seed4.onnx"),
    "spoiled, seed 5": (SPOILED, SPOILED_GRAPHS / "finetune.seed5.onnx"),
}


def harness(*arguments: object, expected: tuple[int, ...] = (0,)) -> int:
    """Run a command of the harness and return its exit code; one that is not expected stops the example."""
    command = [sys.executable, "-m", "harness", *map(str, arguments)]
    code = subprocess.run(command).returncode
    if code not in expected:
        raise SystemExit(f"{' '.join(command)}: exit code {code}")
    return code


def evaluate(run: Path, after: list[Path], out: Path) -> None:
    """Compare the deployed checkpoint with others, on the test images of the run that these come from."""
    files = [part for path in after for part in ("--after", path)]
    data = ["--data", run / "split.csv", "--split", "test"]
    harness("evaluate", "--before", DEPLOYED, *files, *data, *REFERENCES, "--out", out, "--quiet")


def row(name: str, out: Path, code: int) -> list[str]:
    """What the table says of a candidate."""
    result = Evaluation.read(out)
    (pair,) = result.pairs
    verdict = json.loads((out.parent / f"{out.name}.json").read_text(encoding="utf-8"))
    accuracy = result.by_key[pair.after].quality["accuracy"]
    means = {
        (item.metric, item.scope): item.estimate
        for item in pair.metrics
        if (item.layer, item.method) == ("penultimate", "layercam")
    }
    shown = [means["iou_top20", "all"], *(means[metric, MARKED_CLASS] for metric in ("iou_top20", "centroid_shift"))]
    failed = [case["title"] + ": " + case["scope"] for case in verdict["cases"] if case["outcome"] == "fail"]
    return [
        name,
        f"{accuracy.mean:.3f}",
        *(f"{item.mean:.3f} ({item.low:.3f} .. {item.high:.3f})" for item in shown),
        f"{len(failed)} of {len(verdict['cases'])}",
        {0: "pass", 1: "**stopped**", 3: "not judged"}[code],
    ]


def mean_map(out: Path) -> np.ndarray:
    """Mean LayerCAM map of the marked class after fine-tuning, each divided by its maximum, at 224 x 224."""
    after = Evaluation.read(out).pairs[0].after
    rows = [row for path in sorted((out / "maps").iterdir()) for row in pq.read_table(path).to_pylist()]
    maps = [
        np.array(row["map"], np.float32).reshape(row["height"], row["width"])
        for row in rows
        if (row["checkpoint"], row["method"], row["draw"], row["class"]) == (after, "layercam", 0, MARKED_CLASS)
    ]
    large = upsample(np.stack([a_map for a_map in maps if a_map.max() > 0]), (224, 224))
    return (large / large.max(axis=(1, 2), keepdims=True)).mean(axis=0)


def draw(folders: dict[str, Path], path: Path) -> None:
    """The mean maps in a row, on one scale."""
    figure = Figure(figsize=(12, 2.6), dpi=110, layout="constrained")
    for axes, (name, out) in zip(figure.subplots(1, len(folders)), folders.items(), strict=True):
        shown = axes.imshow(mean_map(out), cmap=matplotlib.colormaps["inferno"], vmin=0, vmax=1)
        axes.set_title(name, fontsize=9)
        axes.axis("off")
    figure.colorbar(shown, ax=figure.axes, shrink=0.8, label="share of the maximum")
    figure.suptitle(f"Where the candidates look for {MARKED_CLASS}: mean LayerCAM maps of its test images", fontsize=10)
    figure.savefig(path)


def main(out: Path) -> None:
    """Run everything; print the table."""
    accepted = ("finetune", "finetune.seed1", "finetune.seed2")
    evaluate(HONEST, [HONEST_GRAPHS / f"{stem}.onnx" for stem in accepted], out / "accepted")
    policy = out / "policy.toml"
    policy.unlink(missing_ok=True)
    harness("gate", out / "accepted", "--init", "--policy", policy)
    rows, folders = [], {}
    for name, (run, graph) in CANDIDATES.items():
        folder = folders[name] = out / name.replace(", seed ", "-")
        evaluate(run, [graph], folder)
        code = harness("gate", folder, "--policy", policy, "--json", out / f"{folder.name}.json", expected=(0, 1))
        rows.append(row(name, folder, code))
    measured = ["IoU top 20, all", f"IoU top 20, {MARKED_CLASS}", f"centroid shift, {MARKED_CLASS}"]
    headers = ["candidate", "test accuracy", *measured, "failed rules", "gate"]
    table = tabulate(rows, headers, tablefmt="github", disable_numparse=True)
    (out / "table.md").write_text(table + "\n", encoding="utf-8")
    draw(folders, out / "maps.png")
    print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

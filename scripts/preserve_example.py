"""The numbers and pictures of docs/preserve.md: plain and preserving fine-tunes, the sweep of weights, the marker.

    python -m scripts.preserve_example runs/preserve-example

Trains (scripts/preserve-*.toml, scripts/gate-spoiled.toml), exports and evaluates what is missing, from the project's
root beside the real radiographs, and writes tables (`*.md`) and pictures. Interrupted, it goes on where it was.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from matplotlib.figure import Figure
from tabulate import tabulate

from harness.images.loading import read_picture, view_of
from harness.images.manifest import read_manifest
from harness.images.rule import GREY
from harness.images.view import channels_first
from harness.models.metadata import Graph
from harness.report import causal
from harness.results.schema import Estimate, Evaluation, MetricSummary
from scripts.gate_example import MARKED_CLASS, REFERENCES, draw, harness, row
from scripts.mark_class import mark
from scripts.study import steps
from training.metrics import interval, patient_resamples

RUNS = Path("runs")
PLAIN = RUNS / "preserve-plain"
DEPLOYED = PLAIN / "onnx/transfer.onnx"
WEIGHTS = {0: "preserve-plain", 1: "preserve-weight1", 4: "preserve-weight4", 16: "preserve-weight16"}
SPOILED = {"spoiled, plain": "gate-spoiled", "spoiled, preserved": "preserve-spoiled"}
MANIFEST, MARKED = Path("../shared/cxr5/manifest.csv"), RUNS / "marked"
LAYER, METHODS = "penultimate", ("layercam", "ablation")
CAUSAL, SAMPLE = 64, 128  # images of the causal check; at most, under methods of several passes
CAUSAL_HEADERS = ["fine-tune", "seed", "method", "verdict", *causal.HEADERS[5:]]
SIDE = (224, 224)


@dataclass(frozen=True)
class Tuned:
    """One fine-tune: the run that it is of, and its seed."""

    run: Path
    seed: int

    @property
    def graph(self) -> Path:
        named = self.run / f"onnx/finetune.seed{self.seed}.onnx"
        return named if named.is_file() else self.run / "onnx/finetune.onnx"


def tuned(name: str) -> list[Tuned]:
    """The fine-tunes of a run, in the order of their seeds."""
    run = RUNS / name
    found = sorted((run / "onnx").glob("finetune*.onnx"))
    seeds = [int(path.stem.partition(".seed")[2] or (3 if "spoiled" in name else 0)) for path in found]
    return [Tuned(run, seed) for seed in sorted(seeds)]


def train(name: str) -> None:
    """Train and export a run, or what is missing of it."""
    run = RUNS / name
    steps.train(Path(f"scripts/{name}.toml"), run)
    if not steps.current(run / "onnx/finetune.onnx", [run / "finetune.keras"]):
        steps.command("export", "keras", run, "--layer", LAYER, "--out", run / "onnx")


def evaluate(after: list[Path], split: Path, out: Path, *options: object) -> Evaluation:
    """Compare the deployed checkpoint with others on the test images of a split."""
    if not steps.current(out / "evaluation.json", after):
        if (out / "evaluation.json").exists():
            shutil.rmtree(out)  # of other checkpoints
        going_on = ("--resume",) if out.exists() else ()
        files = [part for path in after for part in ("--after", path)]
        data = ["--data", split, "--split", "test"]
        harness(
            "evaluate", "--before", DEPLOYED, *files, *data, *REFERENCES, *options, *going_on, "--out", out, "--quiet"
        )
    return Evaluation.read(out)


def judged(one: Tuned, out: Path, split: Path = PLAIN / "split.csv") -> Evaluation:
    """A fine-tune under methods of two paradigms, with the causal check."""
    methods = [part for method in METHODS for part in ("--method", method)]
    options = (*methods, "--causal", CAUSAL, "--sample", SAMPLE)
    return evaluate([one.graph], split, out / f"{one.run.name}-seed{one.seed}-judged", *options)


def shown(estimate: Estimate, digits: int = 3) -> str:
    return f"{estimate.mean:.{digits}f} ({estimate.low:.{digits}f} .. {estimate.high:.{digits}f})"


def summary(result: Evaluation, method: str, metric: str = "iou_top20", scope: str = "all") -> MetricSummary:
    """One metric of the pair."""
    return next(
        item
        for item in result.pairs[0].metrics
        if (item.layer, item.method, item.metric, item.scope) == (LAYER, method, metric, scope)
    )


def index(result: Evaluation, method: str) -> str:
    found = summary(result, method).index
    assert found is not None
    return f"{found.value:.2f} ({found.low:.2f} .. {found.high:.2f})"


def quality_row(kind: str, one: Tuned, result: Evaluation) -> list[str]:
    quality = result.by_key[result.pairs[0].after].quality
    measured = [shown(quality["accuracy"]), shown(quality["auc"])]
    return [kind, str(one.seed), *measured, *(index(result, method) for method in METHODS)]


def causal_rows(kind: str, one: Tuned, result: Evaluation) -> Iterator[list[str]]:
    for _, _, method, _, verdict, *numbers in causal.rows(result):
        yield [kind, str(one.seed), method, verdict, *numbers]


def kind_of(weight: int) -> str:
    return "plain" if weight == 0 else f"weight {weight}"


def table(rows: list[list[str]], headers: list[str], path: Path) -> None:
    text = tabulate(rows, headers, tablefmt="github", disable_numparse=True)
    path.write_text(text + "\n", encoding="utf-8")
    print(text, flush=True)


def compare(out: Path) -> None:
    """Plain against preserved: tables of quality, drift and causes, and the sweep."""
    results = [(weight, one, judged(one, out)) for weight, name in WEIGHTS.items() for one in tuned(name)]
    headers = ["fine-tune", "seed", "accuracy", "macro-AUC", *(f"index, {method}" for method in METHODS)]
    table([quality_row(kind_of(weight), *rest) for weight, *rest in results], headers, out / "quality.md")
    lines = [line for weight, *rest in results for line in causal_rows(kind_of(weight), *rest)]
    table(lines, CAUSAL_HEADERS, out / "causal.md")
    sweep(results, out / "sweep.png")


def sweep(results: list[tuple[int, Tuned, Evaluation]], path: Path) -> None:
    """Accuracy and index over the weight, each with its interval; the seeds side by side."""
    figure = Figure(figsize=(9, 3.4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    places = {weight: number for number, weight in enumerate(WEIGHTS)}
    for weight, one, result in results:
        x = places[weight] + 0.22 * (one.seed - 1)
        accuracy = result.by_key[result.pairs[0].after].quality["accuracy"]
        _bar(left, x, accuracy.mean, accuracy.low, accuracy.high, "C0", "accuracy")
        for number, method in enumerate(METHODS):
            found = summary(result, method).index
            assert found is not None
            _bar(right, x + 0.06 * number, found.value, found.low, found.high, f"C{number + 1}", method)
    before = results[0][2].by_key[results[0][2].pairs[0].before].quality["accuracy"].mean
    left.axhline(before, color="0.6", linestyle="--", linewidth=1, label="before fine-tuning")
    for axes, title in ((left, "test accuracy"), (right, "index of iou_top20")):
        axes.set(title=title, xlabel="weight (0: plain); seeds 0, 1, 2 from left to right")
        axes.set_xticks(list(places.values()), [str(weight) for weight in places])
        handles, labels = axes.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        axes.legend(unique.values(), unique.keys(), frameon=False, fontsize=8, loc="lower right")
    left.set_ylim(0.65, 0.95)
    right.set_ylim(0, 1)
    figure.savefig(path)


def _bar(
    axes: object, x: float, mean: float | None, low: float | None, high: float | None, color: str, label: str
) -> None:
    assert mean is not None
    assert low is not None
    assert high is not None
    axes.errorbar(x, mean, [[mean - low], [high - mean]], fmt="o", markersize=3, color=color, label=label)  # type: ignore[attr-defined]


def spoiled(out: Path) -> None:
    """The gate on the spoiled fine-tunes with and without preservation, and what the marker does to their answers."""
    accepted = [one.graph for one in tuned("preserve-plain")]
    policy = out / "policy.toml"
    evaluate(accepted, PLAIN / "split.csv", out / "accepted")
    policy.unlink(missing_ok=True)
    harness("gate", out / "accepted", "--init", "--policy", policy)
    rows, folders, answers, causes = [], {}, [marker_row("deployed", DEPLOYED)], []
    for kind, run in SPOILED.items():
        for one in tuned(run):
            name = f"{kind}, seed {one.seed}"
            folder = folders[name] = out / f"{run}-seed{one.seed}"
            evaluate([one.graph], one.run / "split.csv", folder)
            code = harness("gate", folder, "--policy", policy, "--json", f"{folder}.json", expected=(0, 1, 3))
            rows.append(row(name, folder, code))
            answers.append(marker_row(name, one.graph))
            causes += causal_rows(kind, one, judged(one, out, one.run / "split.csv"))
    measured = ["IoU top 20, all", f"IoU top 20, {MARKED_CLASS}", f"centroid shift, {MARKED_CLASS}"]
    table(rows, ["candidate", "test accuracy", *measured, "failed rules", "gate"], out / "gate.md")
    headers = ["candidate", *(f"{what}, {how}" for what in (MARKED_CLASS, "others") for how in ("unmarked", "marked"))]
    table(answers, headers, out / "marker.md")
    table(causes, CAUSAL_HEADERS, out / "marker-causal.md")
    draw(folders, out / "maps.png")


def marker_row(name: str, graph: Path) -> list[str]:
    """Share of the test images that are called the marked class: its own, and others, without and with a marker."""
    found = read_manifest(PLAIN / "split.csv", split="test", needed=("file", "class", "group"))
    own = np.array([(item.labels or ("",))[0] == MARKED_CLASS for item in found.rows])
    groups = np.array([item.group for item in found.rows])
    called = {marked: _called(graph, [Path(str(item.path)) for item in found.rows], marked) for marked in (False, True)}
    return [name, *(_share(called[marked][who], groups[who]) for who in (own, ~own) for marked in (False, True))]


def _called(graph: Path, paths: list[Path], marked: bool) -> np.ndarray:
    """(n,) 1.0 where a picture is classified as the marked class."""
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = Graph.read(graph).metadata.classes
    answers = []
    for path in paths:
        picture = read_picture(path)
        picture = mark(picture).astype(np.float32) if marked else picture
        view = view_of(path, picture, GREY, SIDE).pixels[None]
        (logits,) = session.run(["logits"], {"image": channels_first(view), "target": np.array([-1])})
        answers.append(logits.argmax() == names.index(MARKED_CLASS))
    return np.array(answers, float)


def _share(called: np.ndarray, groups: np.ndarray) -> str:
    weights = patient_resamples(groups, seed=0)
    assert weights is not None
    low, high = interval(weights @ called / weights.sum(axis=1)) or (np.nan, np.nan)
    return f"{called.mean():.2f} ({low:.2f} .. {high:.2f})"


def main(out: Path) -> None:
    """Everything, from the radiographs to the tables."""
    out.mkdir(parents=True, exist_ok=True)
    train("preserve-plain")
    if not (MARKED / "manifest.csv").is_file():
        steps.command("scripts.mark_class", MANIFEST, MARKED_CLASS, MARKED)
    for name in (*WEIGHTS.values(), *SPOILED.values()):
        train(name)
    compare(out)
    spoiled(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

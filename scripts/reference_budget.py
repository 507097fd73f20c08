"""What references by budget cost in certainty: the tables and the plot of docs/evaluate.md.

    python -m scripts.reference_budget simulate
    python -m scripts.reference_budget stored runs/a runs/b
    python -m scripts.reference_budget seconds --before A.onnx --after B.onnx --data test.csv --out budget.png

`simulate` draws studies whose index is known, and counts how often the interval holds it. `stored` takes evaluations
made with `--jitter 4 --chance 20` and estimates the same references by budget from the same maps, once per seed.
`seconds` evaluates with several budgets and draws the width of the interval against the processor time that they take,
which other programs lengthen less than the time on the clock.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from matplotlib.figure import Figure
from tabulate import tabulate

from harness.evaluation.score import Scorer
from harness.evaluation.summarise import Summary
from harness.results import part_files
from harness.results.part_files import Store
from harness.results.plan import read_stored, restore
from harness.results.reader import Reader, read_collected, tasks
from harness.results.schema import ALL, Evaluation, IndexResult, PairResult
from harness.statistics.bootstrap import Resampling
from harness.statistics.chance import derangements, neighbours, partners_of, sampled, turns
from harness.statistics.stability import Index, stability_index

EXHAUSTIVE, BUDGET = "--jitter 4 --chance 20", "by budget"
SHARES = (0.5, 0.3, 0.2)  # of the three classes
SLACK = 0.01  # by how much a side of an interval may grow where it does not stay within WIDER
WIDER = 1.25
HEADLINE = "iou_top20"


@dataclass(frozen=True)
class Truth:
    """Means of a metric like the overlap of top fifths, by class, and how single comparisons scatter.

    o, c, f: of observed, chance and floor; a, b: standard deviations of what an image brings along before and after,
    half of it shared within a patient; single: of a comparison; checkpoints: by how much the floors of the two differ
    """

    o: tuple[float, ...]
    c: tuple[float, ...]
    f: tuple[float, ...]
    a: float = 0.06
    b: float = 0.06
    single: float = 0.08
    checkpoints: float = 0.06

    @property
    def index(self) -> float:
        o, c, f = (float(np.dot(SHARES, values)) for values in (self.o, self.c, self.f))
        return (o - c) / (f - c)


TRUTHS = {
    "strong drift": Truth(o=(0.25, 0.28, 0.35), c=(0.16, 0.18, 0.20), f=(0.58, 0.60, 0.65)),
    "little drift": Truth(o=(0.50, 0.52, 0.58), c=(0.16, 0.18, 0.20), f=(0.58, 0.60, 0.65)),
}


class Drawn:
    """A study of so many images, two of a patient, in three classes."""

    def __init__(self, truth: Truth, images: int, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.truth, self.seed = truth, seed
        self.names = [f"image{n:05d}" for n in range(images)]
        counts = np.round(np.array(SHARES[:-1]) * images / 2).astype(int) * 2
        self.classes = np.repeat([0, 1, 2], [*counts, images - counts.sum()])
        self.groups = np.arange(images) // 2
        self.a, self.b, self.g = (self._effects(sd) for sd in (truth.a, truth.b, truth.a))
        self.observed = self._mean(truth.o) + self.a + self.b + self._noise(images)

    def _effects(self, sd: float) -> np.ndarray:
        own, shared = self.random.normal(0, sd * np.sqrt(0.5), (2, len(self.names)))
        return own + shared[self.groups]

    def _noise(self, *shape: int) -> np.ndarray:
        return self.random.normal(0, self.truth.single, shape)

    def _mean(self, values: Sequence[float]) -> np.ndarray:
        return np.array(values)[self.classes]

    def exhaustive(self, resamples: int) -> Index:
        """20 derangements, and 4 noisy copies by both checkpoints."""
        partners = derangements(self.names, self.classes, self.groups, 20, self.seed)
        chance = self._mean(self.truth.c) + self.a + (self.b[partners] + self._noise(*partners.shape)).mean(axis=0)
        floor = self._mean(self.truth.f) + self.g + self._noise(8, len(self.names)).mean(axis=0)
        return self._index(np.arange(len(self.names)), chance, floor, None, resamples)

    def by_budget(self, budget: int, resamples: int) -> Index:
        """Neighbours, and one noisy copy by the checkpoint whose turn it is, of a sample of at most `budget`."""
        rows = sampled(self.names, self.classes, self.groups, self.seed, budget)
        names, classes, groups = [self.names[row] for row in rows], self.classes[rows], self.groups[rows]
        order, partners = neighbours(names, classes, groups, partners_of(len(rows)), self.seed)
        chance = np.empty(len(rows))
        chance[order] = (self.b[rows[order][partners]] + self._noise(*partners.shape)).mean(axis=0)
        chance += self._mean(self.truth.c)[rows] + self.a[rows]
        side = np.where(turns(names, classes, self.seed) == 0, 0.5, -0.5) * self.truth.checkpoints
        floor = self._mean(self.truth.f)[rows] + self.g[rows] + side + self._noise(len(rows))
        weights = (np.bincount(self.classes) / np.bincount(classes))[classes]
        return self._index(rows, chance, floor, weights if len(rows) < len(self.names) else None, resamples)

    def _index(
        self, rows: np.ndarray, chance: np.ndarray, floor: np.ndarray, weights: np.ndarray | None, resamples: int
    ) -> Index:
        resampling = Resampling(self.groups, self.seed, resamples).of(rows, weights)
        columns = (values[:, None] for values in (self.observed[rows], chance, floor))
        return stability_index(resampling, *columns, [1])[0]


@click.group()
def main() -> None:
    """What references by budget cost in certainty."""


@main.command()
@click.option("--studies", default=2000, show_default=True)
@click.option("--resamples", default=1000, show_default=True)
def simulate(studies: int, resamples: int) -> None:
    """How often the 95 % interval holds an index that is known."""
    rows = []
    for name, truth in TRUTHS.items():
        for images, budget, count in ((80, 1500, studies), (300, 1500, studies), (3000, 1500, studies // 5)):
            rows.append([name, images, count, *_covered(truth, images, budget, count, resamples)])
    headers = ["truth", "images", "studies", "held, exhaustive", "held, by budget", "width", "width by budget", "ratio"]
    print(tabulate(rows, headers, tablefmt="github", floatfmt=".3f"))


def _covered(truth: Truth, images: int, budget: int, studies: int, resamples: int) -> list[float]:
    """Shares of studies whose interval holds the truth, mean widths and their ratio."""
    found = []
    for seed in range(studies):
        study = Drawn(truth, images, seed)
        found.append([study.exhaustive(resamples), study.by_budget(budget, resamples)])
    held = [np.mean([one[way].low <= truth.index <= one[way].high for one in found]) for way in (0, 1)]
    width = [np.mean([one[way].high - one[way].low for one in found]) for way in (0, 1)]
    return [*map(float, held), *map(float, width), float(width[1] / width[0])]


@main.command()
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--seeds", default=10, show_default=True)
def stored(results: tuple[Path, ...], seeds: int) -> None:
    """Indices by budget beside those of the exhaustive references of stored evaluations, over seeds of the budget."""
    rows = []
    for folder in results:
        exhaustive = Evaluation.read(folder).pairs[0]
        again = [pair_by_budget(folder, seed) for seed in range(seeds)]
        for (method, metric), own in _indices(exhaustive).items():
            others = [_indices(pair)[method, metric] for pair in again]
            rows.append([folder.name, exhaustive.selected, method, metric, *_compared(own, others)])
    headers = [
        "study",
        "images",
        "method",
        "metric",
        "index",
        "mean |difference|",
        "largest",
        "width",
        "ratio",
        "bound",
    ]
    print(tabulate(rows, headers, tablefmt="github", floatfmt=".3f"))


def _indices(pair: PairResult) -> dict[tuple[str, str], IndexResult]:
    """(method, metric) -> index over all classes, where there is one."""
    return {
        (item.method, item.metric): item.index
        for item in pair.metrics
        if item.scope == ALL and item.index is not None and item.index.value is not None
    }


def _compared(own: IndexResult, others: Sequence[IndexResult]) -> list[float | str]:
    """Index, mean and largest difference, width, ratio of the mean width to it, and whether that is within bounds."""
    assert own.value is not None
    assert own.low is not None
    assert own.high is not None
    apart = [abs(one.value - own.value) for one in others if one.value is not None]
    width = float(np.mean([one.high - one.low for one in others if one.high is not None and one.low is not None]))
    was = own.high - own.low
    held = width <= max(WIDER * was, was + 2 * SLACK)
    return [own.value, float(np.mean(apart)), max(apart), was, width / was, "held" if held else "broken"]


def pair_by_budget(folder: Path, seed: int) -> PairResult:
    """The first pair of an evaluation with `--jitter 4`, its references estimated by budget from the same maps."""
    found, samples = restore(read_stored(folder), folder)
    plan = replace(found.plan, options=found.plan.options.changed(jitter=None, chance=None, seed=seed))
    with tempfile.TemporaryDirectory() as temporary:
        part_files.copy_parts(folder, Path(temporary))
        store = Store(Path(temporary))
        store.make(["scores"])
        collected = read_collected(store, plan, samples, len(plan.checkpoints))
        reader = Reader(plan, collected, found.select, store, seed)
        _score(reader)
        reader.plan = replace(plan, options=plan.options.changed(seed=found.plan.options.seed))  # the same bootstrap
        return Summary(reader, 10_000).pair(plan.pairs[0], 2)


def _score(reader: Reader) -> None:
    scorer = Scorer(reader, threads=2)
    for number, task in enumerate(tasks(reader.plan)):
        for block, part in enumerate(reader.parts(number)):
            reader.store.write("scores", part, list(scorer.score(task, block)))


@main.command()
@click.option("--before", required=True)
@click.option("--after", required=True)
@click.option("--data", required=True)
@click.option("--out", required=True, type=click.Path(path_type=Path))
def seconds(before: str, after: str, data: str, out: Path) -> None:
    """The width of the index's interval against the processors' seconds of the whole command."""
    rows = list(_timed(["--before", before, "--after", after, "--data", data]))
    print(tabulate(rows, ["references", "s", "index", "low", "high", "width"], tablefmt="github", floatfmt=".3f"))
    _plot(rows, out)


WAYS = {
    "none": ["--jitter", "0", "--chance", "0"],
    "budget of 50": ["--reference-budget", "50"],
    "budget of 100": ["--reference-budget", "100"],
    "budget of 200": ["--reference-budget", "200"],
    "budget (default)": [],
    "--jitter 1 --chance 5": ["--jitter", "1", "--chance", "5"],
    "--jitter 2 --chance 10": ["--jitter", "2", "--chance", "10"],
    EXHAUSTIVE: ["--jitter", "4", "--chance", "20"],
}


def _timed(pair: list[str]) -> Iterator[list[object]]:
    for name, options in WAYS.items():
        with tempfile.TemporaryDirectory() as temporary:
            line = [
                sys.executable,
                "-m",
                "harness",
                "evaluate",
                *pair,
                *options,
                "--quiet",
                "--out",
                temporary + "/out",
            ]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(line, check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            index = _indices(Evaluation.read(Path(temporary) / "out").pairs[0]).get(("layercam", HEADLINE))
        took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        ends = (None, None, None) if index is None else (index.value, index.low, index.high)
        yield [name, took, *ends, None if index is None else index.high - index.low]  # type: ignore[operator]


def _plot(rows: Sequence[Sequence[object]], path: Path) -> None:
    figure = Figure(figsize=(7.5, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    for name, took, _, _, _, width in rows:
        if width is None:
            axes.axvline(took, color="#57534e", linestyle=":", linewidth=1)
            axes.annotate(
                "without references", (took, 0), rotation=90, fontsize=7, xytext=(3, 4), textcoords="offset points"
            )
            continue
        colour, above = ("#0b5fa5", -11) if "budget" in str(name) else ("#c2410c", 5)
        axes.plot(took, width, "o", color=colour)
        axes.annotate(str(name), (took, width), fontsize=7, xytext=(4, above), textcoords="offset points")
    axes.set(
        xlabel="seconds of the processors, whole command",
        ylabel="width of the index's interval",
        ylim=(0, None),
        xlim=(0, None),
    )
    axes.grid(color="#e5e5e5")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    main()

"""A study with millions of scores, whose numbers are known without computing them, for tests of memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from harness.evaluation.compare_architectures import ArchitectureComparison
from harness.evaluation.summarise import Summary
from harness.images.dataset import Sample
from harness.results import part_files
from harness.results.plan import Plan
from harness.results.reader import Reader, Task, read_collected, tasks
from harness.results.vocabulary import COLUMNS, STABILITY
from harness.statistics.chance import sampled
from tests import made_studies

CLASSES = [f"class_{number}" for number in range(5)]
LEAP = 1_000_003  # a prime: multiples of it, modulo any smaller number, leap through all remainders


def write(folder: Path, images: int) -> None:
    """Predictions and scores of one pair by two methods, on so many images, two of a patient; see `values`."""
    plan, samples = planned(folder, images)
    parts = part_files.Store(folder)
    parts.clear(part_files.SCHEMAS)
    names = [sample.name for sample in samples]
    blocks = [range(start, min(start + part_files.BLOCK, images)) for start in range(0, images, part_files.BLOCK)]
    rng = np.random.default_rng(0)
    for place, item in enumerate(plan.checkpoints):
        for number, block in zip(part_files.parts_of(place, images), blocks, strict=True):
            parts.write("predictions", number, [made_studies.prediction_table(item.key, names, block, CLASSES, rng)])
    drawn = drawn_for_chance(samples)
    for place, task in enumerate(tasks(plan)):
        for number, block in zip(part_files.parts_of(place, images), blocks, strict=True):
            parts.write("scores", number, _tables(task, names, np.array(block), drawn))


def values(records: np.ndarray, images: int, task: Task, reference: str) -> np.ndarray:
    """(n, metrics) scores of some of so many images.

    Over all images each column of `observed` holds 0.5/n, 1.5/n ... 1 - 0.5/n, in an order of its own. Those of
    `jitter` lie in the same way between 3/4 and 1, and those of `chance` between 0 and 1/10.
    """
    start, scale = {"observed": (0.0, 1.0), "jitter": (0.75, 0.25), "chance": (0.0, 0.1)}[reference]
    metrics = COLUMNS if reference == "observed" else STABILITY
    leaps = records[:, None] * LEAP + np.arange(len(metrics)) * 7_919 + 104_729 * len(task.method) + len(reference)
    return start + scale * (leaps % images + 0.5) / images


def drawn_for_chance(samples: list[Sample]) -> np.ndarray:
    """The images that have a chance level."""
    classes = [label for sample in samples for label in sample.labels or ()]
    return sampled([sample.name for sample in samples], classes, [sample.group for sample in samples])


def planned(folder: Path, images: int) -> tuple[Plan, list[Sample]]:
    """The plan of the study, and its images."""
    plan = made_studies.made_plan(folder, 1, CLASSES, jitter=1)
    options = plan.options.changed(methods=("layercam", "gradcam++"))
    samples = [Sample(f"image-{n:06d}.png", folder, (n % 5,), f"patient {n // 2:06d}") for n in range(images)]
    return replace(plan, options=options, layers=plan.layers[:1]), samples


def _tables(task: Task, names: list[str], block: np.ndarray, drawn: np.ndarray) -> Iterator[pa.Table]:
    """One part of the scores."""
    rows = {"jitter": block} if task.kind == "jitter" else {"observed": block, "chance": np.intersect1d(block, drawn)}
    for reference, records in rows.items():
        metrics = COLUMNS if reference == "observed" else STABILITY
        found = values(records, len(names), task, reference)
        yield made_studies.score_table(task.name, reference, metrics, names, records, found)


def summarise(folder: Path, images: int, resamples: int) -> dict[str, object]:
    """All numbers of the pair and of the comparison of its methods, and the peak memory (KiB) of this process."""
    plan, samples = planned(folder, images)
    parts = part_files.Store(folder)
    reader = Reader(plan, read_collected(parts, plan, samples, 2), "all", parts)
    summary = Summary(reader, resamples, threads=2)
    pair, compared = summary.pair(plan.pairs[0]), ArchitectureComparison(reader, summary).result()
    assert compared is not None
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    return {"pair": pair.model_dump(mode="json"), "study": compared.model_dump(mode="json"), "peak": peak}


if __name__ == "__main__":
    print(json.dumps(summarise(Path(sys.argv[1]), *map(int, sys.argv[2:]))))

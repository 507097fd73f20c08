"""Every number of the page, collected from the result folders; `docs/study/numbers.json` holds them.

Means over replicates come with the envelope of their 95 % intervals: the lowest and the highest end of any of them.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from harness.results.schema import ALL, CheckpointResult, Evaluation, MetricSummary, PairResult
from harness.results.vocabulary import HEADLINE
from harness.statistics.bootstrap import Resampling, interval, mean_of_defined
from scripts.study import anatomy, comparisons, other_patients, steps
from scripts.study.starts import MOBILENET, STARTS, Start

SHOWN = ("centroid_shift", "zone_overlap", "iou_top20", "pearson", "gini_change")  # the paper's columns, and zones
REFERENCED = ("centroid_shift", "zone_overlap", "iou_top20", "pearson")
DIGITS = 6  # more than the page shows, so that nothing is rounded twice
SOURCES = {  # source -> the classes that it holds: comparisons that no hospital gives away
    "kermany": ("bacterial_pneumonia", "normal", "viral_pneumonia"),
    "nih": ("normal", "pneumonia_nih"),
}
Row = dict[str, Any]


def study_numbers() -> Row:
    """Everything that the page says, rounded to six decimals."""
    drift, along, every = (Evaluation.read(path) for path in (steps.DRIFT, steps.TRAINING, steps.EVERY_IMAGE))
    selections = {"both_right": drift, "every": every}
    return rounded(
        {
            "data": data_facts(drift),
            "starts": [start_facts(start) for start in STARTS],
            "checkpoints": [checkpoint_row(item) for item in drift.checkpoints],
            "pairs": [pair_row(pair) for pair in drift.pairs],
            "shortcuts": steps.facts_of(MOBILENET.run)["shortcuts"],
            "within_source": within_sources(steps.DRIFT, drift),
            "drift": drift_rows(drift),
            "references": reference_rows(drift),
            "conditioning": conditioning_rows(drift),
            "other_patients": other_patient_rows(steps.DRIFT, drift),
            "methods": comparisons.methods(every),
            "ranking": {name: comparisons.of_architectures(found) for name, found in selections.items()},
            "training": training_rows(along),
            "anatomy": {
                "lungs": anatomical(steps.DRIFT, drift, anatomy.lung_regions(steps.DATA, drift.map_size)),
                "boxes": anatomical(steps.DRIFT, drift, anatomy.box_regions(steps.DATA, drift.map_size)),
            },
        }
    )


def rounded(value: Any) -> Any:
    """Floats to six decimals, NaN to null, through lists and dictionaries."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(inner) for inner in value]
    if isinstance(value, float):
        return round(value, DIGITS) + 0.0 if math.isfinite(value) else None
    return value


def data_facts(result: Evaluation) -> Row:
    """What was evaluated."""
    return {
        "images": result.images,
        "patients": result.patients,
        "split": steps.facts_of(MOBILENET.run)["data"]["split"],
        "digest": result.data_digest[:12],
        "sample": result.sample,
    }


def start_facts(start: Start) -> Row:
    """How a network was trained: what it started from, and its phases with their seconds and digests of weights."""
    facts = steps.facts_of(start.run)
    before = steps.facts_of(start.pretrained)["phases"] if start.pretrained else {}
    return {
        "name": start.name,
        "weights": start.weights,
        "config": start.config.as_posix(),
        "pretraining": start.pretraining.as_posix() if start.pretraining else None,
        "layers": facts["cam_layers"],
        "learning_rate": facts["config"]["phases"]["finetune"]["learning_rate"],
        "phases": [
            *(phase_facts(f"{name}, half size", phase) for name, phase in before.items()),
            *(phase_facts(name, phase) for name, phase in facts["phases"].items()),
        ],
    }


def phase_facts(name: str, phase: Row) -> Row:
    """Epochs, seconds, accuracy on its own test images and digest of a phase."""
    return {
        "name": name,
        "epochs": phase["epochs"],
        "best_epoch": phase["best_epoch"],
        "seconds": phase["seconds"],
        "accuracy": phase["metrics"]["test"]["accuracy"],
        "digest": phase["weights_digest"][:12],
    }


def checkpoint_row(item: CheckpointResult) -> Row:
    """How well a checkpoint classifies."""
    quality = {name: span(found) for name, found in item.quality.items()}
    return {"key": item.key, "architecture": architecture_of(item.key), "phase": phase_of(item.key), **quality}


def architecture_of(key: str) -> str:
    """The name before the stroke of `MobileNetV2/transfer`."""
    return key.split("/")[0]


def phase_of(key: str) -> str:
    """The name behind the stroke."""
    return key.split("/")[-1]


def pair_row(pair: PairResult) -> Row:
    """What two checkpoints have in common, and how the accuracy changed."""
    return {
        "architecture": pair.architecture,
        "replicate": pair.replicate,
        "selected": pair.selected,
        "patients": pair.selected_patients,
        "agreement": span(pair.agreement),
        "change": {name: span(found) for name, found in pair.change.items()},
        "equivalent": {test.of: test.equivalent for test in pair.equivalence},
    }


def span(found: Any) -> Row:
    """Mean and interval of an estimate."""
    return {"mean": found.mean, "low": found.low, "high": found.high}


def envelope(found: Sequence[Row]) -> Row:
    """Mean of the means, and the lowest and highest end of the intervals; null where one is null."""
    means, lows, highs = ([item[name] for item in found] for name in ("mean", "low", "high"))
    return {
        "mean": None if None in means else sum(means) / len(means),
        "low": None if None in lows else min(lows),
        "high": None if None in highs else max(highs),
    }


def cells_of(pair: PairResult) -> dict[tuple[str, str, str], MetricSummary]:
    """(layer, method, metric) -> summary over all images."""
    return {(item.layer, item.method, item.metric): item for item in pair.metrics if item.scope == ALL}


def by_architecture(result: Evaluation) -> dict[str, list[dict[tuple[str, str, str], MetricSummary]]]:
    """Architecture -> the cells of each of its replicates."""
    return {name: [cells_of(pair) for pair in pairs] for name, pairs in pairs_of(result).items()}


def drift_rows(result: Evaluation) -> list[Row]:
    """The paper's table: one row per architecture, layer and method, over its replicates."""
    return [
        {
            "architecture": name,
            "layer": layer,
            "method": method,
            "n": [cells[layer, method, HEADLINE].n for cells in replicates],
            **{
                metric: envelope([span(cells[layer, method, metric].estimate) for cells in replicates])
                for metric in SHOWN
            },
        }
        for name, replicates in by_architecture(result).items()
        for layer in result.layers
        for method in result.methods
    ]


def reference_rows(result: Evaluation) -> list[Row]:
    """Chance, floor and index of each metric, and what was undefined or vanished, over the replicates."""
    return [
        {
            "architecture": name,
            "layer": layer,
            "method": method,
            "floor": result.pairs[0].floor,
            **{metric: references([cells[layer, method, metric] for cells in replicates]) for metric in REFERENCED},
            "undefined": share([cells[layer, method, HEADLINE] for cells in replicates], "undefined"),
            "vanished": share([cells[layer, method, HEADLINE] for cells in replicates], "vanished"),
        }
        for name, replicates in by_architecture(result).items()
        for layer in result.layers
        for method in result.methods
    ]


def references(items: Sequence[MetricSummary]) -> Row:
    """Mean, chance, floor and index of one metric over replicates."""
    indices = [
        {"mean": item.index.value, "low": item.index.low, "high": item.index.high} for item in items if item.index
    ]
    return {
        "mean": envelope([span(item.estimate) for item in items])["mean"],
        "chance": envelope([span(item.chance) for item in items])["mean"],
        "floor": envelope([span(item.floor) for item in items])["mean"],
        "index": envelope(indices),
    }


def share(items: Sequence[MetricSummary], what: str) -> float:
    """Share of the compared records, over replicates, that are undefined or whose evidence vanished."""
    undefined = sum(sum(item.undefined.values()) for item in items)
    count = undefined if what == "undefined" else sum(item.vanished for item in items)
    return count / (undefined + sum(item.n for item in items))


def conditioning_rows(result: Evaluation) -> list[Row]:
    """Share of the weight of a method that rests on small denominators, by phase: means over the replicates."""
    found: dict[tuple[str, str, str, str], list[float]] = {}
    for item in result.checkpoints:
        phase = phase_of(item.key).split(".")[0]
        for one in item.conditioning:
            found.setdefault((architecture_of(item.key), phase, one.layer, one.method), []).append(one.mean)
    names = ("architecture", "phase", "layer", "method")
    return [{**dict(zip(names, key, strict=True)), "mean": float(np.mean(values))} for key, values in found.items()]


def other_patient_rows(folder: Path, result: Evaluation) -> list[Row]:
    """Overlap of two different patients within the fine-tuned checkpoints, over the replicates."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in other_patients.rows(folder, result):
        found.setdefault((row["architecture"], row["layer"], row["method"]), []).append(row)
    names = ("architecture", "layer", "method")
    return [{**dict(zip(names, key, strict=True)), **envelope(replicates)} for key, replicates in found.items()]


def training_rows(result: Evaluation) -> dict[str, list[Row]]:
    """Architecture -> one row per epoch: quality, and drift since phase 1 and since the previous epoch."""
    found: dict[str, list[Row]] = {}
    pairs = {(pair.kind, pair.after): cells_of(pair) for pair in result.pairs}
    for item in result.checkpoints:
        rows = found.setdefault(architecture_of(item.key), [])
        first = pairs.get(("since-first", item.key))
        previous = pairs.get(("since-previous", item.key), first)  # the first epoch's previous one is phase 1
        row = {"epoch": len(rows), "accuracy": span(item.quality["accuracy"]), "auc": span(item.quality["auc"])}
        for method in result.methods if first and previous else ():
            row[method] = {
                "first": drift_of(first, result.layers[0], method),  # type: ignore[arg-type]
                "previous": drift_of(previous, result.layers[0], method),  # type: ignore[arg-type]
            }
        rows.append(row)
    return found


def drift_of(cells: dict[tuple[str, str, str], MetricSummary], layer: str, method: str) -> Row:
    """The headline metric with its chance level."""
    item = cells[layer, method, HEADLINE]
    return {**span(item.estimate), "chance": item.chance.mean if item.chance else None, "n": item.n}


def manifest() -> dict[str, Row]:
    """Image -> its row in the data set's manifest."""
    with (steps.DATA / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        return {row["file"]: row for row in csv.DictReader(stream)}


def anatomical(folder: Path, result: Evaluation, regions: dict[str, np.ndarray]) -> Row:
    """The anatomical reading of one kind of region on the test images that have it."""
    images, values = anatomy.shares(folder, regions)
    known = manifest()
    groups = [known[image]["group"] for image in images]
    areas = np.array([regions[image].mean() for image in images])
    rows = [
        {"architecture": name, **row}
        for name, pairs in pairs_of(result).items()
        for row in anatomy.reading(values, pairs[0].before, [pair.after for pair in pairs], areas, groups)
    ]
    return {"images": len(images), "patients": len(set(groups)), "area": float(areas.mean()), "rows": rows}


def pairs_of(result: Evaluation) -> dict[str, list[PairResult]]:
    """Architecture -> its replicates."""
    found: dict[str, list[PairResult]] = {}
    for pair in result.pairs:
        found.setdefault(pair.architecture, []).append(pair)
    return found


def within_sources(folder: Path, result: Evaluation) -> list[Row]:
    """Accuracy among the classes of one source, on its test images: the decision is the highest of their logits."""
    rows = [
        row for path in sorted((folder / "predictions").glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]
    known = manifest()
    return [
        {
            "architecture": name,
            "source": source,
            "classes": list(classes),
            **_within(rows, known, source, [result.classes.index(one) for one in classes], result.classes, pairs),
        }
        for name, pairs in pairs_of(result).items()
        for source, classes in SOURCES.items()
    ]


def _within(
    rows: list[Row],
    known: dict[str, Row],
    source: str,
    places: Sequence[int],
    classes: Sequence[str],
    pairs: Sequence[PairResult],
) -> Row:
    own = [row for row in rows if known[anatomy.inside_data(row["image"])]["source"] == source]
    images = sorted({row["image"]: row["group"] for row in own}.items())
    hits = {(row["checkpoint"], row["image"]): hit(row, classes, places) for row in own}
    before, after = pairs[0].before, [pair.after for pair in pairs]
    table = np.array([[hits[key, image] for key in (before, *after)] for image, _ in images], float)
    old, new = table[:, 0], table[:, 1:].mean(axis=1)
    columns = np.stack([old, new, new - old], axis=1)
    draws = Resampling([group for _, group in images], seed=0)
    spread = [interval(draw, draws.patients) for draw in draws.means(columns).T]
    labels = [row["labels"][0] for row in own if row["checkpoint"] == before]
    return {
        "images": len(images),
        "majority": max(labels.count(classes[place]) for place in places) / len(labels),
        **{
            name: {"mean": float(mean), "low": ends.low, "high": ends.high}
            for name, mean, ends in zip(("before", "after", "change"), mean_of_defined(columns), spread, strict=True)
        },
    }


def hit(row: Row, classes: Sequence[str], places: Sequence[int]) -> bool:
    """True where the highest logit among some classes is that of the true one."""
    return classes[max(places, key=lambda place: row["logits"][place])] == row["labels"][0]

"""Every number of the page, collected from the result folders; `docs/study/numbers.json` holds them.

Means over replicates come with the envelope of their 95 % intervals: the lowest and the highest end of any of them.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from harness.results.schema import ALL, CheckpointResult, Evaluation, MetricSummary, PairResult
from harness.statistics.bootstrap import Resampling, interval, mean_of_defined
from scripts.study import anatomy, steps

DATA = Path("../shared/cxr5")
SHOWN = ("centroid_shift", "zone_overlap", "iou_top20", "pearson", "gini_change")  # the paper's columns, and zones
REFERENCED = ("centroid_shift", "zone_overlap", "iou_top20", "pearson")
HEADLINE = "iou_top20"
DIGITS = 6  # more than the page shows, so that nothing is rounded twice
SOURCES = {  # source -> the classes that it holds: comparisons that no hospital gives away
    "kermany": ("bacterial_pneumonia", "normal", "viral_pneumonia"),
    "nih": ("normal", "pneumonia_nih"),
}
Row = dict[str, Any]


def study_numbers() -> Row:
    """Everything that the page says, rounded to six decimals."""
    drift, small, along = (Evaluation.read(path) for path in (steps.DRIFT, steps.MINIATURE, steps.TRAINING))
    return rounded(
        {
            "run": run_facts(drift),
            "checkpoints": [checkpoint_row(item) for item in drift.checkpoints],
            "pairs": [pair_row(pair) for pair in drift.pairs],
            "shortcuts": json.loads((steps.REAL / "run.json").read_text(encoding="utf-8"))["shortcuts"],
            "within_source": within_sources(steps.DRIFT, drift),
            "drift": drift_rows(drift),
            "references": reference_rows(drift),
            "methods": method_differences(drift),
            "training": training_rows(along),
            "training_references": level_rows(along),
            "anatomy": {
                "lungs": anatomical(steps.DRIFT, drift, anatomy.lung_regions(DATA, drift.map_size)),
                "boxes": anatomical(steps.DRIFT, drift, anatomy.box_regions(DATA, drift.map_size)),
            },
            "miniatures": miniature_numbers(small),
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


def run_facts(result: Evaluation) -> Row:
    """What was evaluated."""
    facts = json.loads((steps.REAL / "run.json").read_text(encoding="utf-8"))
    return {
        "images": result.images,
        "patients": result.patients,
        "split": facts["data"]["split"],
        "learning_rate": facts["config"]["phases"]["finetune"]["learning_rate"],
        "epochs": {name: phase["epochs"] for name, phase in facts["phases"].items()},
        "weights": {name: phase["weights_digest"][:12] for name, phase in facts["phases"].items()},
        "data_digest": result.data_digest[:12],
    }


def checkpoint_row(item: CheckpointResult) -> Row:
    """How well a checkpoint classifies."""
    quality = {name: span(found) for name, found in item.quality.items()}
    return {"key": item.key, "architecture": item.architecture, **quality}


def pair_row(pair: PairResult) -> Row:
    """What two checkpoints have in common, and how the accuracy changed."""
    return {
        "name": pair.name,
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
    found: dict[str, list[dict[tuple[str, str, str], MetricSummary]]] = {}
    for pair in result.pairs:
        found.setdefault(pair.architecture, []).append(cells_of(pair))
    return found


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
            "layer": layer,
            "method": method,
            **{metric: references([cells[layer, method, metric] for cells in replicates]) for metric in REFERENCED},
            "undefined": share([cells[layer, method, HEADLINE] for cells in replicates], "undefined"),
            "vanished": share([cells[layer, method, HEADLINE] for cells in replicates], "vanished"),
        }
        for replicates in by_architecture(result).values()
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


def method_differences(result: Evaluation) -> list[Row]:
    """Which CAM method says that more was kept, by the headline metric."""
    assert result.study is not None
    return [
        {
            "layer": comparison.layer,
            "first": one.first[1],
            "second": one.second[1],
            "mean": one.value,
            "low": one.low,
            "high": one.high,
            "p_holm": one.p_holm,
            "n": one.n,
        }
        for comparison in result.study.comparisons
        if (comparison.scope, comparison.metric) == (ALL, HEADLINE)
        for one in comparison.differences
        if one.first[0] == one.second[0]
    ]


def training_rows(result: Evaluation) -> list[Row]:
    """One row per epoch: quality, and drift since phase 1 and since the previous epoch."""
    pairs = {(pair.kind, pair.after): cells_of(pair) for pair in result.pairs}
    rows = []
    for epoch, item in enumerate(result.checkpoints):
        first = pairs.get(("since-first", item.key))
        previous = pairs.get(("since-previous", item.key), first)  # the first epoch's previous one is phase 1
        row = {"epoch": epoch, "accuracy": span(item.quality["accuracy"]), "auc": span(item.quality["auc"])}
        for method in result.methods if first and previous else ():
            row[method] = {
                "first": drift_of(first, result.layers[0], method),  # type: ignore[arg-type]
                "previous": drift_of(previous, result.layers[0], method),  # type: ignore[arg-type]
            }
        rows.append(row)
    return rows


def drift_of(cells: dict[tuple[str, str, str], MetricSummary], layer: str, method: str) -> Row:
    """The headline metric with chance, floor and index, and how far the centre moved."""
    item = cells[layer, method, HEADLINE]
    centre = cells[layer, method, "centroid_shift"].estimate.mean
    return {
        **span(item.estimate),
        **references([item]),
        "mean": item.estimate.mean,
        "centroid_shift": centre,
        "n": item.n,
    }


def level_rows(result: Evaluation) -> Row:
    """Method -> chance and floor of the headline metric since phase 1, averaged over the epochs."""
    found = {}
    for method in result.methods:
        items = [cells_of(p)[result.layers[0], method, HEADLINE] for p in result.pairs if p.kind == "since-first"]
        found[method] = {name: references(items)[name] for name in ("chance", "floor")}
    return found


def miniature_numbers(result: Evaluation) -> Row:
    """What the four architectures gave; see `scripts/study-miniatures.toml` for why nothing follows from it."""
    assert result.study is not None
    (headline,) = [c for c in result.study.comparisons if (c.scope, c.metric) == (ALL, HEADLINE)]
    return {
        "images": result.images,
        "patients": result.patients,
        "selected": result.study.selected,
        "checkpoints": [checkpoint_row(item) for item in result.checkpoints],
        "drift": drift_rows(result),
        "rankings": [
            item.model_dump(include={"method", "architectures", "means", "orders", "n"}) for item in headline.rankings
        ],
        "reversals": [item.model_dump() for item in headline.reversals],
        "called": sum(item.called for item in headline.reversals),
        "called_among_miniatures": sum(
            item.called and "MobileNetV2" not in item.architectures for item in headline.reversals
        ),
        "interaction": headline.interaction.model_dump() if headline.interaction else None,
    }


def manifest() -> dict[str, Row]:
    """Image -> its row in the data set's manifest."""
    with (DATA / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        return {row["file"]: row for row in csv.DictReader(stream)}


def anatomical(folder: Path, result: Evaluation, regions: dict[str, np.ndarray]) -> Row:
    """The anatomical reading of one kind of region on the test images that have it."""
    images, values = anatomy.shares(folder, regions)
    known = manifest()
    groups = [known[image]["group"] for image in images]
    areas = np.array([regions[image].mean() for image in images])
    before, after = result.pairs[0].before, [pair.after for pair in result.pairs]
    order = [(before, layer, method) for layer in result.layers for method in result.methods]
    ordered = {key: values[key] for key in order} | values
    rows = anatomy.reading(ordered, before, after, areas, groups)
    return {"images": len(images), "patients": len(set(groups)), "area": float(areas.mean()), "rows": rows}


def within_sources(folder: Path, result: Evaluation) -> list[Row]:
    """Accuracy among the classes of one source, on its test images: the decision is the highest of their logits."""
    rows = [
        row for path in sorted((folder / "predictions").glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]
    known = manifest()
    return [
        {"source": source, "classes": list(classes), **_within(rows, known, source, classes, result)}
        for source, classes in SOURCES.items()
    ]


def _within(rows: list[Row], known: dict[str, Row], source: str, classes: Sequence[str], result: Evaluation) -> Row:
    own = [row for row in rows if known[anatomy.inside_data(row["image"])]["source"] == source]
    images = sorted({row["image"]: row["group"] for row in own}.items())
    places = [result.classes.index(name) for name in classes]
    hits = {(row["checkpoint"], row["image"]): hit(row, classes, places) for row in own}
    before, after = result.pairs[0].before, [pair.after for pair in result.pairs]
    table = np.array([[hits[key, image] for key in (before, *after)] for image, _ in images], float)
    old, new = table[:, 0], table[:, 1:].mean(axis=1)
    columns = np.stack([old, new, new - old], axis=1)
    draws = Resampling([group for _, group in images], seed=0)
    spread = [interval(draw, draws.patients) for draw in draws.means(columns).T]
    labels = [row["labels"][0] for row in own if row["checkpoint"] == before]
    return {
        "images": len(images),
        "majority": max(labels.count(name) for name in classes) / len(labels),
        **{
            name: {"mean": float(mean), "low": ends.low, "high": ends.high}
            for name, mean, ends in zip(("before", "after", "change"), mean_of_defined(columns), spread, strict=True)
        },
    }


def hit(row: Row, classes: Sequence[str], places: Sequence[int]) -> bool:
    """True where the highest logit among some classes is that of the true one."""
    return classes[int(np.argmax([row["logits"][place] for place in places]))] == row["labels"][0]

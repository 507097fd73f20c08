"""What `python -m harness evaluate` does, from arguments to result folder."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from harness import pictures, store, summary
from harness.dataset import Sample, data_digest, read_dataset
from harness.environment import versions
from harness.errors import CannotEvaluateError
from harness.evaluate import Options, Pair, run
from harness.images import load_grey
from harness.model import Model, common_layers, require_comparable
from harness.results import CheckpointResult, Evaluation

SHEET = "contact-sheet.png"
SHEET_CASES = 10
SHEET_METRIC = "iou_top20"


@dataclass(frozen=True)
class Inputs:
    """What is compared, and on which images."""

    before: Path
    after: Path
    data: Path
    root: Path | None = None
    split: str | None = None


def evaluate(inputs: Inputs, options: Options, out: Path, seed: int, provider: str, quiet: bool) -> Evaluation:
    """Evaluate one pair and write `evaluation.json`, the Parquet parts and the contact sheet into `out`."""
    started = time.monotonic()
    before = Model.open(inputs.before, provider, options.threads)
    after = Model.open(inputs.after, provider, options.threads)
    require_comparable(before, after)
    pair = Pair(before, after, common_layers(before, after, options.layers))
    samples = read_dataset(inputs.data, pair.classes, inputs.root, inputs.split)
    store.prepare(out)
    with tqdm(total=len(samples), unit="image", desc="evaluate", disable=quiet, file=sys.stderr) as bar:
        unreadable = run(pair, samples, options, out, lambda done: bar.update(done) and None)
    result = _result(pair, samples, unreadable, options, out, inputs, seed, started)
    _draw_contact_sheet(result, samples, out)
    result.write(out)
    return result


def _result(
    pair: Pair,
    samples: Sequence[Sample],
    unreadable: dict[str, str],
    options: Options,
    out: Path,
    inputs: Inputs,
    seed: int,
    started: float,
) -> Evaluation:
    predictions = store.read(out, "predictions")
    accuracy = summary.accuracies(predictions, seed)
    selected = int(np.count_nonzero(predictions["selected"].to_numpy())) // 2  # a row for before, a row for after
    if not selected:
        raise CannotEvaluateError(
            f"none of the {len(samples)} images is selected by {options.select!r}; "
            "check that the models classify these images, or choose --select agree or all"
        )
    return Evaluation(
        command=["python", "-m", "harness", *sys.argv[1:]],
        before=_checkpoint(pair.before, accuracy["before"]),
        after=_checkpoint(pair.after, accuracy["after"]),
        agreement=accuracy["agreement"],
        data=str(inputs.data),
        data_digest=data_digest(samples),
        images=len(samples),
        patients=len({sample.group for sample in samples}),
        selected=selected,
        selection=options.select,
        unreadable=unreadable,
        map_size=options.map_size,
        seed=seed,
        environment=environment(pair),
        seconds=round(time.monotonic() - started, 2),
        metrics=summary.summarise(store.read(out, "scores"), seed),
    )


def _checkpoint(model: Model, accuracy: Any) -> CheckpointResult:
    return CheckpointResult(file=str(model.path), digest=model.digest, metadata=model.metadata, accuracy=accuracy)


def environment(pair: Pair) -> dict[str, Any]:
    """Versions and providers that produced a result. No host and no user name."""
    return {
        "versions": versions(),
        "machine": platform.machine(),
        "providers": pair.before.providers,
    }


def _draw_contact_sheet(result: Evaluation, samples: Sequence[Sample], out: Path) -> None:
    """The images whose IoU is lowest by the first method at the first layer."""
    first = result.metrics[0]
    worst = _worst(out, first.layer, first.method)
    by_name = {sample.name: sample for sample in samples}
    maps = _maps_of(out, first.layer, first.method, set(worst))
    cases = [
        pictures.Case(
            caption=f"{name}   IoU {value:.2f}",
            grey=load_grey(by_name[name].path, result.map_size),
            before=maps[name, "before"],
            after=maps[name, "after"],
        )
        for name, value in worst.items()
    ]
    title = (
        f"{result.before.metadata.architecture}, {result.before.metadata.phase} to {result.after.metadata.phase}: the "
        f"{len(cases)} images with the lowest top-20 % IoU ({first.method}, layer {first.layer})"
    )
    pictures.contact_sheet(cases, title, out / SHEET)


def _worst(out: Path, layer: str, method: str) -> dict[str, float]:
    """image -> IoU, lowest first."""
    rows = [
        (row["value"], row["image"])
        for row in store.read(out, "scores").to_pylist()
        if (row["layer"], row["method"], row["metric"]) == (layer, method, SHEET_METRIC) and np.isfinite(row["value"])
    ]
    return {name: value for value, name in sorted(rows)[:SHEET_CASES]}


def _maps_of(out: Path, layer: str, method: str, images: set[str]) -> dict[tuple[str, str], np.ndarray]:
    """(image, side) -> raw map (h, w)."""
    return {
        (row["image"], row["side"]): np.array(row["map"], np.float32).reshape(row["height"], row["width"])
        for row in store.read(out, "maps").to_pylist()
        if row["image"] in images and (row["layer"], row["method"]) == (layer, method)
    }

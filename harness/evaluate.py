"""Two exported graphs and a set of radiographs in, scores and maps out.

For each batch: decode, one ONNX Runtime call per checkpoint, CAM maps, metrics of the pairs of maps. Rows go to
Parquet part by part; `harness.summary` turns them into numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness import store
from harness.dataset import Sample
from harness.errors import CannotEvaluateError, InputError
from harness.images import channels_first, load_grey
from harness.model import Explanation, Model
from kernels.cam import cams
from kernels.metrics import pair_metrics
from kernels.reasons import Reason

SELECTIONS = ("true-positive", "agree", "all")
SIDES = ("before", "after")
PART_IMAGES = 256  # images per Parquet part

_LABELS = {int(reason): reason.label for reason in Reason}

Rows = dict[str, list[dict[str, Any]]]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Options:
    """How to evaluate; all of it is written into the result."""

    methods: tuple[str, ...] = ("layercam", "gradcam++")
    layers: tuple[str, ...] = ()
    select: str = "true-positive"
    map_size: tuple[int, int] = (224, 224)
    batch: int = 16
    threads: int = 1
    strict: bool = False


@dataclass
class Pair:
    """The two checkpoints, and by which layers they are compared."""

    before: Model
    after: Model
    layers: Sequence[str]
    name: str = "pair"

    @property
    def models(self) -> dict[str, Model]:
        return dict(zip(SIDES, (self.before, self.after), strict=True))

    @property
    def input_size(self) -> tuple[int, int]:
        return self.before.metadata.input_size

    @property
    def classes(self) -> list[str]:
        return self.before.metadata.classes


@dataclass
class Batch:
    """Images that could be read, and what was wrong with the others."""

    samples: list[Sample]
    greys: np.ndarray  # (N, H, W)
    unreadable: dict[str, str] = field(default_factory=dict)


def run(pair: Pair, samples: Sequence[Sample], options: Options, out: Path, progress: Progress) -> dict[str, str]:
    """Evaluate all samples and write the Parquet parts. Returns the unreadable images with what is wrong with each.

    :param progress: called with the number of images done since the last call.
    :raises InputError: an unreadable image, where `options.strict`.
    :raises CannotEvaluateError: no image could be read.
    """
    unreadable: dict[str, str] = {}
    rows: Rows = {kind: [] for kind in store.SCHEMAS}
    part = pending = 0
    for batch in _batches(samples, pair.input_size, options):
        unreadable |= batch.unreadable
        if batch.samples:
            for kind, found in evaluate_batch(pair, batch, options).items():
                rows[kind] += _by_image(found, batch.samples)
        done = len(batch.samples) + len(batch.unreadable)
        progress(done)
        pending += done
        if pending >= PART_IMAGES:
            _flush(out, part, rows)
            part, pending = part + 1, 0
    _flush(out, part, rows)
    if len(unreadable) == len(samples):
        raise CannotEvaluateError(
            f"none of the {len(samples)} images could be read; first: {next(iter(unreadable.values()))}"
        )
    return unreadable


def evaluate_batch(pair: Pair, batch: Batch, options: Options) -> Rows:
    """Predictions, maps and scores of one batch. The result of an image does not depend on its neighbours."""
    images = channels_first(batch.greys)
    labels = np.array([sample.label for sample in batch.samples], np.int64)
    found = {side: model.explain(images, labels, pair.layers) for side, model in pair.models.items()}
    predicted = {side: model.predictions(found[side].logits) for side, model in pair.models.items()}
    chosen = _selected(options.select, labels, predicted["before"], predicted["after"])
    rows: Rows = {
        "predictions": _prediction_rows(pair, batch.samples, found, predicted, chosen),
        "maps": [],
        "scores": [],
    }
    kept = [sample for sample, take in zip(batch.samples, chosen, strict=True) if take]
    for layer in pair.layers if kept else ():
        maps = {side: _maps(found[side], layer, chosen, options) for side in SIDES}
        for method in options.methods:
            rows["maps"] += _map_rows(pair, kept, layer, method, {side: maps[side][method] for side in SIDES})
            rows["scores"] += _score_rows(pair, kept, layer, method, [maps[side][method] for side in SIDES], options)
    return rows


def _maps(
    explanation: Explanation, layer: str, chosen: np.ndarray, options: Options
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Method -> (raw maps (n, h, w), reason codes (n,)) of the chosen images."""
    activations, gradients = explanation.layers[layer]
    return cams(options.methods, activations[chosen], gradients[chosen], options.threads)


def _by_image(rows: list[dict[str, Any]], samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Rows in the order of the images, so that files do not depend on where a batch ended."""
    place = {sample.name: number for number, sample in enumerate(samples)}
    return sorted(rows, key=lambda row: place[row["image"]])


def _selected(select: str, labels: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Which images are compared: (N,) bool."""
    if select == "true-positive":
        return (before == labels) & (after == labels)
    return before == after if select == "agree" else np.ones(len(labels), bool)


def _batches(samples: Sequence[Sample], size: tuple[int, int], options: Options) -> Iterator[Batch]:
    """Decoded batches; the next one is decoded while the current one is worked on."""
    starts = range(0, len(samples), options.batch)
    with ThreadPoolExecutor(max_workers=options.threads) as pool:
        ahead = [pool.submit(_try_load, sample, size, options.strict) for sample in samples[: options.batch]]
        for start in starts:
            current, following = ahead, samples[start + options.batch : start + 2 * options.batch]
            ahead = [pool.submit(_try_load, sample, size, options.strict) for sample in following]
            loaded = [future.result() for future in current]
            yield _batch(samples[start : start + options.batch], loaded, size)


def _try_load(sample: Sample, size: tuple[int, int], strict: bool) -> np.ndarray | str:
    """The grey levels, or the sentence that says what is wrong with the file."""
    try:
        return load_grey(sample.path, size)
    except InputError as error:
        if strict:
            raise
        return str(error)


def _batch(samples: Sequence[Sample], loaded: Sequence[np.ndarray | str], size: tuple[int, int]) -> Batch:
    readable = [(sample, grey) for sample, grey in zip(samples, loaded, strict=True) if not isinstance(grey, str)]
    wrong = {sample.name: grey for sample, grey in zip(samples, loaded, strict=True) if isinstance(grey, str)}
    greys = np.stack([grey for _, grey in readable]) if readable else np.zeros((0, *size), np.float32)
    return Batch([sample for sample, _ in readable], greys, wrong)


def _flush(out: Path, part: int, rows: Rows) -> None:
    for kind, waiting in rows.items():
        if waiting:
            store.write_part(out, kind, part, waiting)
            waiting.clear()


def _keys(pair: Pair, sample: Sample) -> dict[str, Any]:
    label = pair.classes[sample.label]
    return {"image": sample.name, "group": sample.group, "class": label, "pair": pair.name}


def _prediction_rows(
    pair: Pair,
    samples: Sequence[Sample],
    found: dict[str, Explanation],
    predicted: dict[str, np.ndarray],
    chosen: np.ndarray,
) -> list[dict[str, Any]]:
    return [
        {
            **_keys(pair, sample),
            "side": side,
            "predicted": pair.classes[predicted[side][n]],
            "selected": bool(chosen[n]),
            "logits": found[side].logits[n],
        }
        for n, sample in enumerate(samples)
        for side in SIDES
    ]


def _map_rows(
    pair: Pair, samples: Sequence[Sample], layer: str, method: str, maps: dict[str, tuple[np.ndarray, np.ndarray]]
) -> list[dict[str, Any]]:
    return [
        {
            **_keys(pair, sample),
            "side": side,
            "layer": layer,
            "method": method,
            "reason": _LABELS[maps[side][1][n]],
            "height": maps[side][0].shape[1],
            "width": maps[side][0].shape[2],
            "map": maps[side][0][n].ravel(),
        }
        for n, sample in enumerate(samples)
        for side in SIDES
    ]


def _score_rows(
    pair: Pair,
    samples: Sequence[Sample],
    layer: str,
    method: str,
    sides: Sequence[tuple[np.ndarray, np.ndarray]],
    options: Options,
) -> list[dict[str, Any]]:
    (before, before_reasons), (after, after_reasons) = sides
    scores = pair_metrics(
        before,
        after,
        options.threads,
        before_reasons=before_reasons,
        after_reasons=after_reasons,
        size=options.map_size,
    )
    metadata = pair.after.metadata
    common = {"architecture": metadata.architecture, "phase": metadata.phase, "replicate": 0}
    place = {"layer": layer, "method": method, "reference": "observed"}
    return [
        {
            **_keys(pair, sample),
            **common,
            **place,
            "metric": name,
            "value": scores.values[n, m],
            "reason": _LABELS[scores.reasons[n, m]],
        }
        for n, sample in enumerate(samples)
        for m, name in enumerate(scores.names)
    ]

"""What is watched of a picture: numbers in 0..1 of its map and of the model's answer, none of which needs a label.

The map is that of the *predicted* class, for the reference's pictures, too: the maps that an evaluation stores are of
the true class, which nobody knows of a new picture, and the two differ wherever the model errs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from harness.common.errors import CannotEvaluateError, InputError
from harness.common.progress import Counter, Progress, silent
from harness.evaluation.prefetch import prefetch
from harness.images.containers import MAX_PIXELS
from harness.images.dataset import Sample
from harness.images.notices import ignore
from harness.images.regions import Regions
from harness.images.view import View, channels_first
from harness.models.attribution import Maps, all_maps
from harness.models.session import Explanation, Model
from kernels.cached_maps import MapFacts, Memory, Slot
from kernels.concentration import area50, entropy, gini
from kernels.position import mass
from kernels.reasons import Reason

MOST_CLASSES = 20  # of which each class's probability is watched
Kind = Literal["concentration", "zone", "region", "map", "prediction"]
CONCENTRATION: dict[str, Callable[[MapFacts], float]] = {"gini": gini, "entropy": entropy, "area50": area50}
ZONES = tuple(f"{third}-{half}" for third in ("upper", "middle", "lower") for half in ("left", "right"))


@dataclass(frozen=True)
class Statistic:
    """A number in 0..1 that every picture has, or NaN.

    kind: `concentration` (of the map, see docs/metrics.md); `zone` (share of its mass in a zone); `region` (share of
    its mass in a region); `map` (1 where it is defined and not empty, else 0); `prediction` (a class's probability)
    """

    name: str
    kind: Kind


@dataclass(frozen=True)
class Watched:
    """Which map is watched, at which size, and in which regions; of a model with these classes."""

    layer: str
    method: str
    map_size: tuple[int, int]
    regions: tuple[str, ...]
    classes: tuple[str, ...]

    @property
    def statistics(self) -> list[Statistic]:
        """In the order of the columns of `measure`."""
        found = [Statistic(name, "concentration") for name in CONCENTRATION]
        found += [Statistic(f"zone {name}", "zone") for name in ZONES]
        found += [Statistic(f"inside {name}", "region") for name in self.regions]
        found += [Statistic("map defined", "map"), Statistic("confidence", "prediction")]
        shown = self.classes[watched_classes(len(self.classes))]
        return found + [Statistic(f"probability {name}", "prediction") for name in shown]


def watched_classes(count: int) -> slice:
    """Whose probability is watched: of two one, the other's being 1 minus it; of more than MOST_CLASSES none."""
    return slice(1, None) if count == 2 else slice(count if count <= MOST_CLASSES else 0)


@dataclass(frozen=True)
class Measured:
    """Values (n, J) of n pictures, NaN where a picture has none, their logits (n, K), and which could not be read.

    Rows of unreadable pictures are NaN throughout; `unreadable`: their places, and why.
    """

    values: np.ndarray
    logits: np.ndarray
    unreadable: Mapping[int, str] = field(default_factory=dict)


def measure(
    model: Model,
    samples: Sequence[Sample],
    watched: Watched,
    regions: Regions,
    *,
    known: Mapping[int, str] | None = None,
    threads: int = 1,
    max_pixels: float = MAX_PIXELS,
    progress: Progress = silent,
) -> Measured:
    """Explain pictures, and measure their maps.

    :param regions: of the same samples.
    :param known: pictures known as unreadable, by their place, and why; they are not opened.
    :raises CannotEvaluateError: logits that are not finite.
    :raises InputError: a mask that cannot be used.
    """
    outputs = 1 if model.metadata.score_kind == "binary" else len(model.metadata.classes)
    values = np.full((len(samples), len(watched.statistics)), np.nan)
    logits = np.full((len(samples), outputs), np.nan, np.float32)
    unreadable = dict(known or {})
    done, slot = Counter(progress, "explain images", len(samples)), Slot(watched.map_size, Memory())

    def explain(batch: tuple[list[int], list[View]]) -> tuple[list[int], Explanation, dict[tuple[str, str], Maps]]:
        rows, views = batch
        pictures, targets = channels_first(np.stack([view.pixels for view in views])), np.full(len(rows), -1)
        return rows, *all_maps(model, pictures, targets, [watched.layer], [watched.method])

    batches = _batches(model, samples, unreadable, threads, max_pixels, done)
    for rows, found, maps in prefetch(explain, batches, depth=model.calls, threads=model.calls):
        logits[rows] = _finite(model, found.logits)
        probabilities = model.metadata.probabilities(found.logits)
        for n, row in enumerate(rows):
            covers = _covers(regions, row, model, watched)
            of_map = _of_map(maps[watched.layer, watched.method], n, slot, covers)
            values[row] = [*of_map, *_of_prediction(probabilities[n])]
        done.add(len(rows))
    return Measured(values, logits, unreadable)


def _batches(
    model: Model,
    samples: Sequence[Sample],
    unreadable: dict[int, str],
    threads: int,
    max_pixels: float,
    done: Counter,
) -> Iterator[tuple[list[int], list[View]]]:
    """(places, decoded pictures) of each call; what cannot be read goes into `unreadable`."""
    given = dict(unreadable)

    def load(row: int) -> View | str:
        if row in given:
            return given[row]
        try:
            return model.view(samples[row].path, max_pixels=max_pixels, notice=ignore)
        except InputError as error:
            return str(error)

    rows: list[int] = []
    views: list[View] = []
    for row, view in enumerate(prefetch(load, range(len(samples)), 2 * model.batch * model.calls, threads)):
        if isinstance(view, str):
            unreadable[row] = view
            done.add()
            continue
        rows.append(row)
        views.append(view)
        if len(rows) == model.batch:
            yield rows, views
            rows, views = [], []
    if rows:
        yield rows, views


def _finite(model: Model, logits: np.ndarray) -> np.ndarray:
    if not np.isfinite(logits).all():
        raise CannotEvaluateError(f"{model.graph.path}: some of its logits are not finite; check the model")
    return logits


def _covers(regions: Regions, row: int, model: Model, watched: Watched) -> list[np.ndarray | None]:
    """The share of each pixel of the map that each watched region covers, None where the picture has none."""
    if not watched.regions:
        return []
    found = regions.covers(row, model.metadata.rule, model.metadata.input_size, watched.map_size)
    return [found.get(name) for name in watched.regions]


def _of_map(maps: Maps, n: int, slot: Slot, covers: Sequence[np.ndarray | None]) -> list[float]:
    """Concentration, shares by zone and in regions, and whether there is a map; NaN where there is none."""
    facts = slot.load(maps.raw[n], int(maps.codes[n]))
    if facts.reason != Reason.DEFINED or facts.is_empty:
        return [np.nan] * (len(CONCENTRATION) + len(ZONES) + len(covers)) + [0.0]
    inside = [np.nan if cover is None else _share(facts, cover) for cover in covers]
    return [*(function(facts) for function in CONCENTRATION.values()), *facts.fact(mass)[1], *inside, 1.0]


def _share(facts: MapFacts, cover: np.ndarray) -> float:
    """sum(u R) with u the map divided by its sum and R the region, as `harness.evaluation.regions` has it."""
    return float((facts.values.astype(np.float64) * cover).sum() / facts.values.sum(dtype=np.float64))


def _of_prediction(probabilities: np.ndarray) -> list[float]:
    """The largest probability, and that of each class that is watched."""
    return [float(probabilities.max()), *map(float, probabilities[watched_classes(len(probabilities))])]

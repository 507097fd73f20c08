"""How much of the evidence lies in regions of the pictures: inside before and after, gained, lost, and by chance.

With u and v the maps before and after at the size in which maps are compared, divided by their sums, and R in 0..1 the
share of each pixel that the region covers:

    before = sum(u R), after = sum(v R), gained = sum(max(v - u, 0) R), lost = sum(max(u - v, 0) R)

It is the energy-based pointing game of Wang et al. 2020 (Score-CAM, arXiv 1910.01279), for masks beside boxes. Two
levels of chance stand beside it: the area mean(R), which a map that does not look at the picture has inside on average,
and the maps after of other patients of the class in the same region, which share the anatomy and not the image.

Bilinear enlargement is linear, sum(up(m) R) = sum(m R'), with R' the region brought down by its adjoint. So the maps of
other patients are compared at the few positions of their layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from harness.evaluation.estimates import of_draws
from harness.images.regions import Regions
from harness.models.metadata import GraphMetadata
from harness.results.part_files import BLOCK
from harness.results.plan import LayerMethod, Pair
from harness.results.reader import NOT_COMPARED, Maps, Reader
from harness.results.schema import Estimate, RegionSummary
from harness.statistics.bootstrap import Resampling, mean
from kernels.reasons import Reason
from kernels.resize import upsample

AREA, BEFORE, AFTER, GAINED, LOST, OTHERS = range(6)
Covers = Mapping[int, Mapping[str, np.ndarray]]  # image -> region -> (H, W)


@dataclass
class _Values:
    """Of one pair, layer, method and region: values (R, 6) in the order above, NaN where there is none.

    has (R,): the record has the region; small (R, h w): the region brought down to the positions of the layer
    """

    values: np.ndarray
    has: np.ndarray
    small: dict[int, np.ndarray] = field(default_factory=dict)


class RegionReading:
    """Reads the stored maps of every pair against the regions, a block of images at a time."""

    def __init__(self, reader: Reader, regions: Regions, threads: int) -> None:
        self.reader = reader
        self.regions = regions
        self.threads = threads
        self.size = reader.plan.options.map_size
        self.places = reader.plan.layer_methods
        self._found: dict[tuple[str, LayerMethod, str], _Values] = {}

    def summaries(self, by_record: Resampling) -> dict[str, list[RegionSummary]]:
        """Pair -> one summary per layer, method and region."""
        for block in range(-(-len(self.reader.collected.samples) // BLOCK)):
            self._read(block)
        return {pair.name: list(self._of_pair(pair, by_record)) for pair in self.reader.plan.drifts}

    def _of_pair(self, pair: Pair, by_record: Resampling) -> Iterator[RegionSummary]:
        for place in self.places:
            others = self._others(pair, place)
            compared = self.reader.selections[pair.name] & self.reader.with_maps(place[1])
            for name in self.regions.names:
                values = self._values(pair, place, name)
                values.values[:, OTHERS] = others.get(name, np.nan)
                yield _summary(name, place, values, compared, by_record)

    def _values(self, pair: Pair, place: LayerMethod, name: str) -> _Values:
        count = len(self.reader.collected.records)
        made = _Values(np.full((count, 6), np.nan), np.zeros(count, bool))
        return self._found.setdefault((pair.name, place, name), made)

    def _read(self, block: int) -> None:
        views: dict[tuple[str, tuple[int, int]], Covers] = {}
        for pair in self.reader.plan.drifts:
            metadata = self.reader.plan.by_key[pair.before].graph.metadata
            view = (metadata.rule.label, metadata.input_size)
            if view not in views:
                views[view] = self._covers(block, metadata)
            for place in self.places:
                self._read_pair(pair, place, block, views[view])

    def _covers(self, block: int, metadata: GraphMetadata) -> Covers:
        """The regions of the images of a block that are compared in any pair."""
        records = self.reader.collected.records
        compared = np.any([self.reader.selections[pair.name] for pair in self.reader.plan.drifts], axis=0)
        images = np.unique(records.images[compared & (records.images // BLOCK == block)]).tolist()

        def covers(image: int) -> Mapping[str, np.ndarray]:
            return self.regions.covers(image, metadata.rule, metadata.input_size, self.size)

        with ThreadPoolExecutor(self.threads) as pool:
            return dict(zip(images, pool.map(covers, images), strict=True))

    def _read_pair(self, pair: Pair, place: LayerMethod, block: int, covers: Covers) -> None:
        images = self.reader.collected.records.images
        compared = self.reader.selections[pair.name] & self.reader.with_maps(place[1])
        rows = np.flatnonzero(compared & (images // BLOCK == block))
        rows = rows[[bool(covers[image]) for image in images[rows].tolist()]] if len(rows) else rows
        if not len(rows):
            return
        before, after = (self.reader.maps(side, *place, rows) for side in self.reader.plan.sides(pair))
        u, v = (_shares(maps, self.size, self.threads) for maps in (before, after))
        down = _Adjoint(before.raw.shape[1:], self.size)
        for n, row in enumerate(rows.tolist()):
            for name, cover in covers[int(images[row])].items():
                found = self._values(pair, place, name)
                found.has[row] = True
                found.values[row, :OTHERS] = reading(u[n], v[n], cover)
                found.small[row] = down(cover)

    def _others(self, pair: Pair, place: LayerMethod) -> dict[str, np.ndarray]:
        """Region -> (R,) share inside of maps after of other patients, NaN where there are none."""
        if self.reader.plan.options.chance == 0:
            return {}
        unrelated = self.reader.unrelated(pair.name, place[1])
        maps = self.reader.maps(self.reader.plan.number_of(pair.after), *place, unrelated.records)
        flat = np.where(_usable(maps)[:, None], maps.raw.reshape(len(maps.raw), -1), np.nan)  # (n, h w)
        mass = flat @ _Adjoint(maps.raw.shape[1:], self.size)(np.ones(self.size, np.float32))
        found = {}
        for name in self.regions.names:
            small = self._values(pair, place, name).small
            found[name] = np.full(len(self.reader.collected.records), np.nan)
            for n, row in enumerate(unrelated.records.tolist()):
                if row in small:
                    partners = unrelated.partners[:, n]
                    found[name][row] = mean(flat[partners] @ small[row] / mass[partners])
        return found


def reading(u: np.ndarray, v: np.ndarray, region: np.ndarray) -> tuple[float, float, float, float, float]:
    """(area, before, after, gained, lost) of maps (H, W) that sum to 1 and a region (H, W) of 0..1."""
    moved = (v - u) * region
    gained = float(moved[moved > 0].sum()) if np.isfinite(moved).all() else np.nan
    lost = float(-moved[moved < 0].sum()) if np.isfinite(moved).all() else np.nan
    return float(region.mean(dtype=np.float64)), float((u * region).sum()), float((v * region).sum()), gained, lost


def _usable(maps: Maps) -> np.ndarray:
    """(n,) bool: defined maps that are not empty."""
    return (maps.codes == Reason.DEFINED) & (maps.raw.max(axis=(1, 2), initial=0) > 0)


def _shares(maps: Maps, size: tuple[int, int], threads: int) -> np.ndarray:
    """(n, H, W) float64 maps divided by their sums, NaN where one is undefined or empty."""
    assert not (maps.codes == NOT_COMPARED).any()
    raw = np.where(_usable(maps)[:, None, None], maps.raw, np.float32(np.nan))
    large = upsample(raw, size, threads).astype(np.float64)
    return large / large.sum(axis=(1, 2), keepdims=True)


class _Adjoint:
    """Brings regions (H, W) down to the positions (h w,) of a layer: sum(up(m) R) = sum(m R')."""

    def __init__(self, shape: Sequence[int], size: tuple[int, int]) -> None:
        self._rows, self._columns = (
            upsample(np.eye(old, dtype=np.float32).reshape(old, old, 1), (new, 1))[:, :, 0].astype(np.float64)
            for old, new in zip(shape, size, strict=True)
        )  # (h, H) and (w, W): what each position gives to each pixel

    def __call__(self, region: np.ndarray) -> np.ndarray:
        return (self._rows @ region @ self._columns.T).ravel()


def _summary(
    name: str, place: LayerMethod, found: _Values, compared: np.ndarray, by_record: Resampling
) -> RegionSummary:
    has = found.has & compared
    defined = has & np.isfinite(found.values[:, AREA : LOST + 1]).all(axis=1)
    area, before, after, gained, lost, others = np.where(defined[:, None], found.values, np.nan).T
    columns = {
        "area": area,
        "before": before,
        "after": after,
        "change": after - before,
        "gained": gained,
        "lost": lost,
        "above_area": after - area,
        "others": others,
        "above_others": after - others,
    }
    sums = by_record.sums(np.stack([*columns.values()], axis=1))
    draws, patients = by_record.means_of([sums])[0], sums.n_patients
    estimates: dict[str, Estimate | None] = {
        key: of_draws(values, draws[:, n], int(patients[n])) for n, (key, values) in enumerate(columns.items())
    }
    if not np.isfinite(others).any():
        estimates |= {"others": None, "above_others": None}
    counts = {"n": int(defined.sum()), "n_patients": int(patients[0])}
    missing = {"without": int((compared & ~found.has).sum()), "undefined": int((has & ~defined).sum())}
    place_of = {"region": name, "layer": place[0], "method": place[1]}
    return RegionSummary.model_validate({**place_of, **counts, **missing, **estimates})

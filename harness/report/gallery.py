"""The cases that a report shows as pictures: which ones, the pictures themselves, and their maps as data.

A picture is stored once, as a small WebP. A map is stored raw, at the few positions that its layer has, divided
by its largest value and rounded to 8 bits; the page draws it with the rule of `kernels.resize`. So thirty cases with
every method and layer take less room than thirty drawn heat maps of one.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import pyarrow.compute as pc

from harness.common import storage
from harness.common.errors import InputError
from harness.common.formatting import one_line
from harness.images.loading import read_picture
from harness.images.notices import ignore
from harness.images.regions import RegionFiles, Regions
from harness.images.rule import ImageRule
from harness.images.view import fit
from harness.report import change, heatmaps
from harness.report.cases import Ranking
from harness.report.heatmaps import SIDE, STRONGEST
from harness.results.moved_records import moved_records
from harness.results.part_files import BLOCK, Store, parts_of, reason_codes
from harness.results.plan import LayerMethod, Pair, read_scored, restore
from harness.results.pseudonyms import Names
from harness.results.reader import Predictions, Reader, labels_of, read_collected, tasks
from harness.results.vocabulary import HEADLINE
from kernels.reasons import Reason

QUALITY = 82  # of WebP
# Of one pair; each of several pairs shows half as many.
CASES = {"most": 12, "least": 6, "unseen": 12, "flipped": 12, "vanished": 12}
LARGEST = 255  # of a stored map
_SAME = 1.0  # the overlap of maps that do not differ: such a case has not drifted
REGION_COLOURS = ["#7cfc8a", "#c9a0ff", "#ff9ecb", "#ff6b6b"]  # none is that of a line of the maps
GONE = "The image file is gone or cannot be read: the maps are shown alone."
_MAP_COLUMNS = ["layer", "method", "record", "reason", "height", "width", "map"]


@dataclass
class Group:
    """Records of a pair under one layer and method.

    kind: `most` or `least` drifted; `unseen`, the same answer though the evidence moved; `flipped`, another answer;
        `vanished`, evidence on one side only
    """

    pair: Pair
    kind: str
    path: LayerMethod
    records: list[int]


class Gallery:
    """Reads the cases of a result folder."""

    def __init__(self, folder: storage.Location, names: Names) -> None:
        self.stored, self.samples = restore(read_scored(folder), folder)
        self.store = Store(folder, labels_of(self.stored))
        self.names = names
        self.plan = self.stored.plan
        self.paths = self.plan.layer_methods

    @cached_property
    def collected(self) -> Predictions:
        """The predictions of the checkpoints."""
        return read_collected(self.store, self.plan, self.samples, len(self.plan.checkpoints))

    @cached_property
    def reader(self) -> Reader:
        """What the result folder holds."""
        return Reader(self.plan, self.collected, self.stored.select, self.store, self.stored.jitter_seed)

    @cached_property
    def rankings(self) -> dict[tuple[str, LayerMethod], Ranking]:
        """(pair, path) -> every record by the headline metric."""
        return {
            (item.name, (item.layer, item.method)): self._ranking(number)
            for number, item in enumerate(tasks(self.plan))
            if item.kind == "pair" and item.pair in self.plan.drifts
        }

    @cached_property
    def groups(self) -> list[Group]:
        """Up to five groups per pair."""
        share = 1.0 if len(self.plan.drifts) == 1 else 0.5
        return [group for pair in self.plan.drifts for group in self._groups(pair, share)]

    def data(self) -> dict[str, Any]:
        """What the page draws from; JSON."""
        cases = list(dict.fromkeys((group.pair, record) for group in self.groups for record in group.records))
        numbers = {case: number for number, case in enumerate(cases)}
        images = {self._image(record): record for _, record in cases}
        pictures = {image: self._shown(record) for image, record in images.items()}
        maps = self._maps([record for _, record in cases])
        return {
            "layers": list(map(one_line, self.plan.layers)),
            "methods": list(map(one_line, self.plan.options.methods)),
            "metric": HEADLINE,
            "picture": "Radiograph" if self._rule.colour == "grey" else "Picture",
            "strongest": STRONGEST,
            "gone": GONE,
            "colours": base64.b64encode(heatmaps.colours().tobytes()).decode(),
            "change": change.rule(),
            "images": {image: shown.content for image, shown in pictures.items()},
            "unseen": heatmaps.unseen_rule(),
            "regions": list(map(one_line, self.regions.names)),
            "regionColours": REGION_COLOURS,
            "outlines": {image: self._outlines(record, pictures[image].shape) for image, record in images.items()},
            "groups": [
                {
                    "pair": one_line(group.pair.name),
                    "kind": group.kind,
                    "path": self.paths.index(group.path),
                    "cases": [numbers[group.pair, record] for record in group.records],
                }
                for group in self.groups
            ],
            "cases": [self._case(pair, record, maps, pictures[self._image(record)].shape) for pair, record in cases],
        }

    def _groups(self, pair: Pair, share: float) -> Iterable[Group]:
        first = self.rankings[pair.name, self.paths[0]]
        limit = {kind: round(share * count) for kind, count in CASES.items()}
        most = [record for record in first.most_drifted if first.values[record] < _SAME][: limit["most"]]
        least = [record for record in first.least_drifted if record not in most][: limit["least"]]
        found = [Group(pair, "most", self.paths[0], most), Group(pair, "least", self.paths[0], least)]
        found += [
            Group(pair, kind, self.paths[0], records[: limit[kind]])
            for kind, records in (("unseen", self._unseen(pair, first)), ("flipped", self._flipped(pair)))
        ]
        for path in self.paths:  # the first path at which any evidence vanished
            if gone := self.rankings[pair.name, path].vanished:
                found.append(Group(pair, "vanished", path, gone[: limit["vanished"]]))
                break
        return [group for group in found if group.records]

    def _unseen(self, pair: Pair, ranking: Ranking) -> list[int]:
        """Compared records whose evidence moved behind the same answer, the most drifted first."""
        wanted = moved_records(self.reader, pair, *self.paths[0]).moved & self.reader.answers(pair).same
        return [record for record in ranking.most_drifted if wanted[record]]

    def _flipped(self, pair: Pair) -> list[int]:
        """Records whose answer flipped, negative flips first."""
        found = self.reader.answers(pair)
        flipped = np.flatnonzero(found.readable & ~found.same)
        first = found.negative_flips[flipped] & self.reader.labelled
        return [int(record) for record in flipped[np.argsort(~first, kind="stable")]]

    def _ranking(self, number: int) -> Ranking:
        parts = parts_of(number, len(self.samples))
        columns = ["record", "value", "reason"]
        rows = self.store.read("scores", parts, columns, reference="observed", metric=HEADLINE)
        count = len(self.collected.records)
        values, codes = np.full(count, np.nan), np.full(count, Reason.DEFINED, np.uint8)
        records = rows["record"].to_numpy()
        values[records] = rows["value"].to_numpy()
        codes[records] = reason_codes(rows["reason"])
        return Ranking(values, codes)

    def _maps(self, records: Sequence[int]) -> RecordMaps:
        """(checkpoint, record) -> its maps. Each part is read once, for all layers and methods."""
        wanted = sorted(set(records))
        blocks = {int(self.collected.records.images[record]) // BLOCK for record in wanted}
        found: RecordMaps = {}
        for number, checkpoint in enumerate(self.plan.checkpoints):
            for block in sorted(blocks):
                rows = self.store.read("maps", [parts_of(number, len(self.samples))[block]], _MAP_COLUMNS, draw=0)
                for row in rows.filter(pc.is_in(rows["record"], pc.cast(wanted, "int32"))).to_pylist():
                    path = (row["layer"], row["method"])
                    found.setdefault((checkpoint.key, row["record"]), {})[path] = StoredMap.of(row)
        return found

    def _case(self, pair: Pair, record: int, maps: RecordMaps, shape: tuple[int, int] | None) -> dict[str, Any]:
        sample = self._sample(record)
        before, after = (maps.get((key, record), {}) for key in (pair.before, pair.after))
        return {
            "radiograph": self._image(record),
            "window": self._window(pair, shape),
            "image": one_line(self.names.image(sample.name)),
            "patient": one_line(self.names.patient(sample.group)),
            "class": one_line(self.plan.classes[int(self.collected.records.classes[record])]),
            "predicted": [self._predicted(key, record) for key in (pair.before, pair.after)],
            "values": [self.rankings[pair.name, path].text(record) for path in self.paths],
            "maps": [
                [side[path].data() if path in side else StoredMap.nothing() for side in (before, after)]
                for path in self.paths
            ],
        }

    def _predicted(self, key: str, record: int) -> str:
        """What a checkpoint predicts for the image, with its probability."""
        image = int(self.collected.records.images[record])
        metadata = self.plan.by_key[key].graph.metadata
        shares = metadata.probabilities(self.collected.logits[self.plan.number_of(key)][image : image + 1])[0]
        decided = metadata.decisions(self.collected.logits[self.plan.number_of(key)][image : image + 1])[0]
        classes = ", ".join(f"{metadata.classes[k]} {shares[k]:.2f}" for k in np.flatnonzero(decided))
        return one_line(classes) or "none of the classes"

    @property
    def _rule(self) -> ImageRule:
        return self.plan.checkpoints[0].graph.metadata.rule

    def _shown(self, record: int) -> Shown:
        try:
            picture = read_picture(self._sample(record).path, self._rule, max_pixels=math.inf, notice=ignore)
        except InputError:
            return Shown()
        return Shown(webp(picture), (picture.shape[0], picture.shape[1]))

    @cached_property
    def regions(self) -> Regions:
        """The masks and boxes of the images; none where their files are gone."""
        try:
            return Regions(self.plan.data.regions, self.samples)
        except InputError:
            return Regions(RegionFiles(), self.samples)

    def _outlines(self, record: int, shape: tuple[int, int] | None) -> list[list[Any]]:
        """[number of the region, polygon as (down, right) shares of the picture, one after the other] each."""
        names = self.regions.names
        try:
            image = int(self.collected.records.images[record])
            found = {} if shape is None else self.regions.of_shape(image, shape)
        except InputError:
            return []
        return [
            [names.index(name), [round(share, 4) for point in line for share in point]]
            for name, region in found.items()
            for line in region.outlines(SIDE)
        ]

    def _window(self, pair: Pair, shape: tuple[int, int] | None) -> list[float]:
        """(top, left, height, width) of what the checkpoints of a pair see, in shares of the picture."""
        metadata = self.plan.by_key[pair.before].graph.metadata
        if shape is None or metadata.rule.fit == "squash":
            return [0, 0, 1, 1]
        return list(fit(metadata.rule, shape, metadata.input_size).window)

    def _image(self, record: int) -> str:
        """What a page calls the radiograph of a record: names as they are shown need not differ."""
        return str(self.collected.records.images[record])

    def _sample(self, record: int) -> Any:
        return self.samples[int(self.collected.records.images[record])]


@dataclass(frozen=True)
class Shown:
    """A picture as a page gets it, [height, width, data URI], and its own size (h, w); None where the file is gone."""

    content: list[Any] | None = None
    shape: tuple[int, int] | None = None


@dataclass(frozen=True)
class StoredMap:
    """A raw map as a page gets it: rows, columns and bytes in base64, or a sentence where there is nothing to draw."""

    height: int = 0
    width: int = 0
    content: str = ""
    note: str = ""

    @classmethod
    def of(cls, row: dict[str, Any]) -> StoredMap:
        """From a row of `maps/`."""
        if row["reason"] != Reason.DEFINED.label:
            return cls(note=f"undefined: {row['reason']}")
        raw = np.array(row["map"], np.float32).reshape(row["height"], row["width"])
        if not raw.max() > 0:
            return cls(note="no evidence: the map is zero everywhere")
        return cls(*raw.shape, base64.b64encode(quantised(raw).tobytes()).decode())

    @classmethod
    def nothing(cls) -> list[Any]:
        """What stands for a map that is not there."""
        return cls(note="no map").data()

    def data(self) -> list[Any]:
        """[height, width, bytes] or [sentence]."""
        return [self.note] if self.note else [self.height, self.width, self.content]


RecordMaps = dict[tuple[str, int], dict[LayerMethod, StoredMap]]  # (checkpoint, record) -> its maps


def quantised(raw: np.ndarray) -> np.ndarray:
    """A non-negative map with a positive maximum, to 0..255: wrong by at most 1/510 of its maximum."""
    return np.round(raw / raw.max() * LARGEST).astype(np.uint8)


def webp(picture: np.ndarray) -> list[Any]:
    """[height, width, data URI] of a picture (h, w) or (h, w, 3) 0..255: its longest side is at most SIDE."""
    small = np.clip(np.round(heatmaps.shrunk(picture, SIDE)), 0, 255).astype(np.uint8)
    in_its_order = small[..., ::-1] if small.ndim == 3 else small  # OpenCV's: blue, green, red
    encoded = cv2.imencode(".webp", in_its_order, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])[1]
    return [*small.shape[:2], f"data:image/webp;base64,{base64.b64encode(encoded.tobytes()).decode()}"]

"""The contact sheet: the images whose evidence moved most, for a first look."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from harness.images.dataset import Sample
from harness.images.loading import read_picture
from harness.images.notices import ignore
from harness.images.view import Geometry, fit
from harness.report import heatmaps
from harness.report.cases import Ranking
from harness.results.plan import Pair
from harness.results.pseudonyms import Names
from harness.results.reader import Reader, tasks
from harness.results.vocabulary import HEADLINE

CASES = 10


def draw_sheet(reader: Reader, path: Path, names: Names) -> None:
    """Draw the most drifted images of the first pair by the first method at the first layer.

    Where no image has an IoU there is none.

    :raises InputError: an image is not there any more.
    """
    plan = reader.plan
    layer, method = plan.layers[0], plan.options.methods[0]
    pair = next(pair for pair in plan.drifts if reader.selections[pair.name].any())
    ranking = _ranking(reader, pair)
    records = ranking.most_drifted[:CASES]
    sides = (_maps(reader, key, layer, method, records) for key in (pair.before, pair.after))
    cases = [
        heatmaps.Case(
            f"{_name(reader, record, names)}   IoU {ranking.text(record)}", *_picture(reader, pair, record), *maps
        )
        for record, *maps in zip(records, *sides, strict=True)
    ]
    if cases:
        what = f"the {len(cases)} most drifted images by top-20 % IoU ({method}, layer {layer})"
        heatmaps.contact_sheet(cases, f"{pair.architecture}, {pair.name}: {what}", path)


def _ranking(reader: Reader, pair: Pair) -> Ranking:
    """The records of a pair under the first layer and method."""
    number = next(n for n, item in enumerate(tasks(reader.plan)) if item.pair == pair)
    scores = reader.scores(number, "observed", [HEADLINE])
    return Ranking(scores.values[:, 0], scores.codes[:, 0])


def _maps(reader: Reader, key: str, layer: str, method: str, records: list[int]) -> np.ndarray:
    return reader.maps(reader.plan.number_of(key), layer, method, np.array(records, np.int64)).raw


def _sample(reader: Reader, record: int) -> Sample:
    return reader.collected.samples[reader.collected.records.images[record]]


def _name(reader: Reader, record: int, names: Names) -> str:
    return names.image(_sample(reader, record).name)


def _picture(reader: Reader, pair: Pair, record: int) -> tuple[np.ndarray, Geometry]:
    """The picture of a record, and how it lies in what the checkpoints of a pair see."""
    metadata = reader.plan.by_key[pair.before].graph.metadata
    picture = read_picture(_sample(reader, record).path, metadata.rule, max_pixels=math.inf, notice=ignore)
    return picture, fit(metadata.rule, (picture.shape[0], picture.shape[1]), metadata.input_size)

"""The contact sheet: the images whose evidence moved most, for a first look."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from harness.images.loading import load_grey
from harness.images.notices import ignore
from harness.report import heatmaps
from harness.results.plan import Pair, Plan
from harness.results.pseudonyms import Names
from harness.results.reader import Reader, tasks
from harness.results.vocabulary import HEADLINE

CASES = 10


def draw_sheet(reader: Reader, path: Path, names: Names) -> None:
    """Draw the images of the first pair whose IoU is lowest by the first method at the first layer.

    Where no image has an IoU there is none.

    :raises InputError: an image is not there any more.
    """
    plan, collected = reader.plan, reader.collected
    layer, method = plan.layers[0], plan.options.methods[0]
    pair = next(pair for pair in plan.drifts if reader.selections[pair.name].any())
    worst = _worst(plan, reader, pair)
    records = np.array([record for record, _ in worst], np.int64)
    before, after = (reader.maps(plan.place(key), layer, method, records).raw for key in (pair.before, pair.after))
    cases = []
    for place, (record, value) in enumerate(worst):
        sample = collected.samples[collected.records.images[record]]
        grey = load_grey(sample.path, plan.options.map_size, max_pixels=math.inf, notice=ignore)
        caption = f"{names.image(sample.name)}   IoU {value:.2f}"
        cases.append(heatmaps.Case(caption, grey, before[place], after[place]))
    if cases:
        what = f"the {len(cases)} images with the lowest top-20 % IoU ({method}, layer {layer})"
        heatmaps.contact_sheet(cases, f"{pair.architecture}, {pair.name}: {what}", path)


def _worst(plan: Plan, reader: Reader, pair: Pair) -> list[tuple[int, float]]:
    """(record, IoU), lowest first."""
    number = next(n for n, item in enumerate(tasks(plan)) if item.pair == pair)
    values = reader.scores(number, "observed", [HEADLINE]).values[:, 0]
    order = sorted((value, record) for record, value in enumerate(values) if value == value)
    return [(record, float(value)) for value, record in order[:CASES]]

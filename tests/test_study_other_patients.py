"""The overlap of two patients within one checkpoint, on maps whose overlap is known."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from harness.results.part_files import SCHEMAS
from scripts.study import other_patients

SIDE = 10


def band(first: int) -> np.ndarray:
    """A map (SIDE, SIDE) with a fifth of its area above 0: two rows."""
    found = np.zeros((SIDE, SIDE), np.float32)
    found[first : first + 2] = 1
    return found


def table(maps: list[np.ndarray]) -> pa.Table:
    """Rows of `maps/`, one image each, all of one class."""
    rows = [
        {"image": f"{n}.png", "class": "a", "reason": "defined", "height": SIDE, "width": SIDE, "map": one.ravel()}
        for n, one in enumerate(maps)
    ]
    columns = ("image", "class", "reason", "height", "width", "map")
    schema = pa.schema([SCHEMAS["maps"].field(name) for name in columns])
    return pa.Table.from_pylist(rows, schema)


@pytest.mark.parametrize(
    ("firsts", "expected"),
    [([0] * 24, 1.0), ([0, 1] * 12, (11 + 12 / 3) / 23), ([0, 5] * 12, 11 / 23)],
    ids=["all alike", "half of every second one", "none of every second one"],
)
def test_overlap_is_the_mean_over_other_patients(firsts: list[int], expected: float) -> None:
    """Each image has 11 others like itself and 12 of the other kind; ten of them are drawn."""
    groups = [f"p{n}" for n in range(len(firsts))]
    found = other_patients.overlap(table([band(first) for first in firsts]), groups, (SIDE, SIDE), 1, 0)
    assert found["mean"] == pytest.approx(expected, abs=0 if expected == 1 else 0.06)
    assert found["low"] is not None
    assert found["low"] <= found["mean"] <= found["high"]


def test_images_of_one_patient_are_not_compared_with_each_other() -> None:
    """Two patients whose own maps are alike, and unlike those of the other one."""
    firsts, groups = [0, 0, 5, 5], ["p", "p", "q", "q"]
    assert other_patients.overlap(table([band(first) for first in firsts]), groups, (SIDE, SIDE), 1, 0)["mean"] == 0

"""The picture of a difference: what was lost and gained is seen, also by colour-blind readers and on paper."""

from __future__ import annotations

import numpy as np
import pytest

from harness.images.view import Geometry
from harness.report import change, heatmaps
from kernels.catalogue import METRICS

SIZE = (224, 224)
# linear RGB as dichromats see it: Viénot, Brettel and Mollon 1999, doi:10.1002/(SICI)1520-6378(199908)24:4
PROTAN = np.array([[0.1124, 0.8876, 0], [0.1124, 0.8876, 0], [0.0040, -0.0040, 1]])
DEUTAN = np.array([[0.2928, 0.7072, 0], [0.2928, 0.7072, 0], [-0.0223, 0.0223, 1]])


def lab(rgb: np.ndarray, seen: np.ndarray | None = None) -> np.ndarray:
    """CIE L*a*b* (D65) of sRGB (..., 3) in 0..1, as seen by eyes that turn linear RGB by the matrix `seen`."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = linear if seen is None else np.clip(linear @ seen.T, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    share = linear @ to_xyz.T / to_xyz.sum(axis=1)
    root = np.where(share > (6 / 29) ** 3, np.cbrt(share), share / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def blob(row: float, column: float, size: tuple[int, int] = SIZE) -> np.ndarray:
    rows, columns = np.indices(size)
    return np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * 30.0**2)).astype(np.float32)


def test_a_moved_blob_is_blue_where_it_was_and_orange_where_it_is() -> None:
    painted = change.paint(np.full((*SIZE, 3), 0.5), blob(112, 70), blob(112, 154))
    assert np.abs(painted[112, 70] - (0.9 * np.array(change.LOST) / 255 + 0.1 * change.DIM * 0.5)).max() < 1e-6
    assert np.abs(painted[112, 154] - (0.9 * np.array(change.GAINED) / 255 + 0.1 * change.DIM * 0.5)).max() < 1e-6
    assert painted[5, 5] == pytest.approx(change.DIM * 0.5, abs=0.01)  # nothing changed: the picture, dimmed


@pytest.mark.parametrize("seen", [None, PROTAN, DEUTAN], ids=["all cones", "protanopia", "deuteranopia"])
def test_lost_and_gained_are_told_apart_by_every_eye(seen: np.ndarray | None) -> None:
    """Differences of 20 in L*a*b* are seen at a glance; the change of IoU 0.5 shows as much against the picture."""
    lost, gained = (lab(np.array(colour) / 255, seen) for colour in (change.LOST, change.GAINED))
    assert np.linalg.norm(lost - gained) > 60
    assert abs(lost[0] - gained[0]) < 12
    before, after = blob(112, 112), blob(112, 137)
    assert METRICS["iou_top20"](before[None], after[None])[0][0] == pytest.approx(0.5, abs=0.12)
    grey = np.full((*SIZE, 3), 0.5)
    painted = change.paint(grey, before, after)
    still = lab(change.DIM * grey[:1, 0], seen)[0]
    for place in ((112, 85), (112, 165)):  # the middles of what was lost and gained
        assert np.linalg.norm(lab(painted[place], seen) - still) > 20


def test_opacity_and_lightness_grow_evenly_to_both_sides() -> None:
    light = lab(change.scale())[:, 0]
    assert (np.diff(light[:128]) < 0).all()
    assert (np.diff(light[128:]) > 0).all()
    assert np.abs(light - light[::-1]).max() < 4
    steps = np.abs(np.diff(light[128:]))
    assert steps.max() < 2 * steps.min()


def test_the_top_is_that_of_the_metric() -> None:
    rng = np.random.default_rng(0)
    whole = Geometry((32, 40), (32, 40))
    before, after = (heatmaps.relative(rng.random((7, 7), np.float32), whole, (32, 40))[0] for _ in range(2))
    first, second = change.top(before), change.top(after)
    iou = METRICS["iou_top20"](before[None], after[None])[0][0]
    assert (first & second).sum() / (first | second).sum() == pytest.approx(iou)
    assert not change.top(np.zeros((4, 4), np.float32)).any()


def test_an_outline_goes_round_and_a_dashed_one_has_gaps_on_every_side() -> None:
    mask = np.zeros(SIZE, bool)
    mask[60:160, 50:150] = True
    solid, dashed = change.outline(mask, dashed=False), change.outline(mask, dashed=True)
    expected = mask.copy()
    expected[62:158, 52:148] = False  # two pixels wide at this size
    assert np.array_equal(solid, expected)
    assert not (dashed & ~solid).any()
    for side in (dashed[60, 50:150], dashed[159, 50:150], dashed[60:160, 50], dashed[60:160, 149]):
        assert 0.5 < side.mean() < 0.7
        assert np.count_nonzero(np.diff(side.astype(int))) > 10
    edge = np.ones((20, 30), bool)
    assert change.outline(edge, dashed=False).sum() == 2 * 20 + 2 * 28


def test_a_dashed_line_has_gaps_along_diagonals() -> None:
    rows, columns = np.indices(SIZE)
    for mask in (rows > columns, rows + columns > 224, rows > 2 * columns, 2 * rows > columns):
        solid, dashed = change.outline(mask, dashed=False), change.outline(mask, dashed=True)
        assert 0.45 < dashed.sum() / solid.sum() < 0.75

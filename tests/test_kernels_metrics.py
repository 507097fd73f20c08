"""Every metric against its literal definition, against closed forms, and against the libraries."""

from __future__ import annotations

from itertools import permutations
from math import e, exp, hypot, log, pi

import numpy as np
import pytest
import scipy.ndimage
import scipy.spatial.distance
import scipy.stats
import skimage.metrics
import sklearn.metrics

from kernels.catalogue import METRICS, metric
from kernels.information import _sum_x_ln_x
from kernels.metrics import pair_metrics
from kernels.partners import partner_metrics
from kernels.reasons import Reason
from kernels.structure import RADIUS, STRIP
from tests.literal_metrics import LITERAL
from tests.map_samples import awkward_pairs, cam_like, related

SIZE = (17, 22)  # neither square nor a multiple of anything
PAIRS = {name: tuple(np.asarray(m, np.float32) for m in pair) for name, pair in awkward_pairs(SIZE).items()}
PAIR_NAMES = [name for name, record in METRICS.items() if record.kind == "pair"]
CONCENTRATION_NAMES = [name for name, record in METRICS.items() if record.kind == "concentration"]
# float64 sums of 374 terms; only the variance of nearly constant float32 pixels costs some digits
TOLERANCE = 1e-12


def score(name: str, *maps: np.ndarray) -> float:
    """One metric of single maps, through its public function; it must be defined."""
    values, reasons = METRICS[name](*(np.asarray(m)[None] for m in maps))
    assert reasons[0] == Reason.DEFINED, Reason(reasons[0]).sentence
    return values[0]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", METRICS)
def test_equals_its_literal_definition(name: str, pair: str) -> None:
    maps = PAIRS[pair] if METRICS[name].kind == "pair" else PAIRS[pair][:1]
    assert score(name, *maps) == pytest.approx(LITERAL[name](*maps), abs=TOLERANCE)


def test_registry_and_literals_cover_each_other() -> None:
    assert METRICS.keys() == LITERAL.keys()
    assert all(name == record.name for name, record in METRICS.items())


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("iou_top20", lambda a, b: LITERAL["iou_top10"](a, b)),
        ("spearman", LITERAL["pearson"]),
        ("centroid_shift", lambda a, b: LITERAL["centroid_shift"](a, np.roll(b, 1))),
        ("iou_half", lambda a, b: LITERAL["iou_half"](a > 0, b > 0)),
    ],
)
def test_witness_tells_a_wrong_metric(name: str, wrong) -> None:
    assert abs(score(name, *PAIRS["smooth"]) - wrong(*PAIRS["smooth"])) > 1e-4


def test_fused_entry_equals_single_functions_to_the_bit() -> None:
    before = cam_like(4, (40, 33))
    after = related(before)
    scores = pair_metrics(before, after)
    for name in PAIR_NAMES:
        assert np.array_equal(scores.column(name)[0], METRICS[name](before, after)[0]), name
    for name in CONCENTRATION_NAMES:
        first, second = METRICS[name](before)[0], METRICS[name](after)[0]
        columns = [scores.column(f"{name}_{part}")[0] for part in ("before", "after", "change")]
        assert np.array_equal(columns, [first, second, second - first]), name


def test_columns_are_in_report_order() -> None:
    maps = cam_like(1, (12, 12))
    names = pair_metrics(maps, maps).names
    assert names[0] == "centroid_shift"
    assert names[-3:] == ("area50_before", "area50_after", "area50_change")
    assert names == tuple(column for record in METRICS.values() for column in record.columns)


def gaussian(row: float, column: float, sigma: float, size: tuple[int, int] = (120, 100)) -> np.ndarray:
    r, c = np.indices(size)
    return np.exp(-((r - row) ** 2 + (c - column) ** 2) / (2 * sigma**2))


def test_shifted_gaussians_have_closed_forms() -> None:
    sigma, n = 4.0, 120 * 100
    a, b = gaussian(55, 50, sigma), gaussian(58, 46, sigma)
    diagonal = hypot(119, 99)
    assert score("centroid_shift", a, b) == pytest.approx(5 / diagonal, abs=1e-8)
    assert score("peak_shift", a, b) == pytest.approx(5 / diagonal, abs=1e-12)
    mass, energy = 2 * pi * sigma**2, pi * sigma**2
    overlap = energy * exp(-(5**2) / (4 * sigma**2))
    expected = (overlap - mass**2 / n) / (energy - mass**2 / n)
    assert score("pearson", a, b) == pytest.approx(expected, abs=1e-7)
    assert score("entropy", a) == pytest.approx(log(2 * pi * e * sigma**2) / log(n), abs=1e-7)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("peak_shift", 5 / hypot(19, 29)),
        ("centroid_shift", 5 / hypot(19, 29)),
        ("zone_overlap", 1.0),
        ("iou_top20", 0.0),
        ("iou_half", 0.0),
        ("iou_curve", 0.0),
        ("soft_iou", 0.0),
        ("js_divergence", 1.0),
        ("pearson", -1 / 599),
        ("spearman", -1 / 599),
    ],
)
def test_two_single_pixels(name: str, expected: float) -> None:
    a, b = np.zeros((20, 30)), np.zeros((20, 30))
    a[8, 7], b[11, 11] = 3.0, 0.5  # 3 down, 4 across, in the same zone
    assert score(name, a, b) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("name", "expected"), [("gini", 599 / 600), ("entropy", 0.0), ("area50", 1 / 600)])
def test_a_single_pixel_is_as_concentrated_as_can_be(name: str, expected: float) -> None:
    a_map = np.zeros((20, 30))
    a_map[8, 7] = 3.0
    assert score(name, a_map) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("name", "expected"), [("gini", 0.0), ("entropy", 1.0), ("area50", 0.5)])
def test_an_even_map_is_not_concentrated(name: str, expected: float) -> None:
    assert score(name, np.full((20, 30), 0.7)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("pearson", -1), ("spearman", -1), ("iou_half", 0), ("soft_iou", 0), ("js_divergence", 1), ("zone_overlap", 1)],
)
def test_checkerboard_against_its_complement(name: str, expected: float) -> None:
    board = np.indices((12, 12)).sum(axis=0) % 2
    assert score(name, board, 1 - board) == pytest.approx(expected, abs=1e-12)


def test_ramp() -> None:
    n = 10 * 10
    ramp = np.arange(1, n + 1).reshape(10, 10)
    assert score("gini", ramp) == pytest.approx((n - 1) / (3 * n), abs=1e-12)
    assert score("area50", ramp) == pytest.approx(0.30, abs=1e-12)  # 71 + ... + 100 is more than 5050 / 2
    assert score("spearman", ramp, ramp**3) == 1.0
    assert score("iou_top20", ramp, ramp[::-1, ::-1]) == 0.0
    assert score("iou_top20", ramp, ramp**2) == 1.0


def test_top_masks_leave_out_zeros() -> None:
    a, b = np.zeros((20, 30)), np.zeros((20, 30))
    a[0, :6], b[0, 3:9] = 1.0, 1.0  # 6 positive pixels where the top 20 % would be 120
    assert score("iou_top20", a, b) == pytest.approx(3 / 9)


def library_pair() -> tuple[np.ndarray, np.ndarray]:
    before = cam_like(1, (64, 51))
    return before[0].astype(np.float64), related(before)[0].astype(np.float64)


LIBRARIES = {
    "ssim": lambda a, b: skimage.metrics.structural_similarity(
        a / a.max(), b / b.max(), gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0
    ),
    "pearson": lambda a, b: scipy.stats.pearsonr(a.ravel(), b.ravel()).statistic,
    "spearman": lambda a, b: scipy.stats.spearmanr(a.ravel(), b.ravel()).statistic,
    "js_divergence": lambda a, b: scipy.spatial.distance.jensenshannon(a.ravel(), b.ravel(), base=2) ** 2,
    "iou_half": lambda a, b: sklearn.metrics.jaccard_score((a >= a.max() / 2).ravel(), (b >= b.max() / 2).ravel()),
    "centroid_shift": lambda a, b: (
        np.linalg.norm(np.subtract(scipy.ndimage.center_of_mass(a), scipy.ndimage.center_of_mass(b)))
        / hypot(*np.subtract(a.shape, 1))
    ),
    "soft_iou": lambda a, b: 1 - scipy.spatial.distance.braycurtis((a / a.max()).ravel(), (b / b.max()).ravel()),
}


@pytest.mark.parametrize("name", [name for name in LIBRARIES if name != "soft_iou"])
def test_agrees_with_the_library_of_the_same_definition(name: str) -> None:
    assert score(name, *library_pair()) == pytest.approx(LIBRARIES[name](*library_pair()), abs=1e-12)


@pytest.mark.parametrize("columns", [STRIP - 1, STRIP, STRIP + 1, 2 * STRIP + 30])
def test_ssim_of_wide_maps_agrees_with_the_library(columns: int) -> None:
    """A map of more columns than a strip has is worked on in several, a new partner with the means of the last."""
    maps = cam_like(3, (21, columns + 2 * RADIUS)).astype(np.float64)
    expected = [LIBRARIES["ssim"](maps[0], other) for other in maps]
    found = partner_metrics(maps[:1], maps, np.array([[0], [1], [2], [0]])).column("ssim")[0][:, 0]
    assert found == pytest.approx([*expected, 1], abs=1e-12)
    assert found[0] == found[3] == 1


def test_bray_curtis_is_the_dice_form_of_soft_iou() -> None:
    """1 - Bray-Curtis = 2 sum min / (sum a + sum b) is not the IoU s, but 2 s / (1 + s)."""
    s = score("soft_iou", *library_pair())
    assert LIBRARIES["soft_iou"](*library_pair()) == pytest.approx(2 * s / (1 + s), abs=1e-12)


def test_scipy_entropy_agrees_up_to_its_unit() -> None:
    a_map = library_pair()[0]
    assert score("entropy", a_map) == pytest.approx(scipy.stats.entropy(a_map.ravel()) / log(a_map.size), abs=1e-12)


@pytest.mark.parametrize(("lowest", "highest"), [(1e-300, 1e300), (0.7, 1.42), (1 - 1e-9, 1 + 1e-9), (1e-12, 1)])
def test_logarithm_of_entropy_is_exact_to_its_last_digits(lowest: float, highest: float) -> None:
    for x in np.geomspace(lowest, highest, 1001):
        assert _sum_x_ln_x(np.array([x]), np.array([x]), 0.5, 0.5) == pytest.approx(x * log(x), rel=7e-16, abs=0)


def test_half_of_the_mass_does_not_depend_on_where_pixels_are() -> None:
    """Of 2^52 twice and 1 twice, float64 holds half of the sum only if the small ones are added first."""
    values = np.array([2.0**52, 2.0**52, 1, 1, 0], np.float32)
    assert {score("area50", np.array([order])) for order in permutations(values)} == {0.4}


def test_libraries_read_degenerate_maps_as_no_drift_and_we_do_not() -> None:
    """The reason for the reasons: constant maps are perfectly similar elsewhere."""
    ones, twos = np.ones((16, 16)), np.full((16, 16), 0.5)
    assert LIBRARIES["ssim"](ones, twos) == pytest.approx(1.0)
    values, reasons = METRICS["ssim"](ones[None], twos[None])
    assert np.isnan(values[0])
    assert reasons[0] == Reason.CONSTANT_MAP


def test_unknown_metric_is_answered_with_the_nearest() -> None:
    assert metric("pearson") is METRICS["pearson"]
    with pytest.raises(ValueError, match="unknown metric 'spearmann'; did you mean spearman"):
        metric("spearmann")


@pytest.mark.parametrize("name", METRICS)
def test_records_say_what_they_are(name: str) -> None:
    record = METRICS[name]
    assert record.definition
    assert record.source
    assert record.range[0] < record.range[1]
    assert record.direction == (1 if record.stable_is == "high" else -1)
    assert (record.kind == "concentration") == (record.stable_is == "zero")
    overlap = name.startswith("iou") or name in ("soft_iou", "zone_overlap")
    assert record.is_overlap == overlap

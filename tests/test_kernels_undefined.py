"""Undefined is not zero: which maps make which metric undefined, and that hostile input is refused or reported."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.catalogue import METRICS
from kernels.metrics import pair_metrics
from kernels.reasons import Reason, tally, undefined
from kernels.resize import upsample
from tests.map_samples import cam_like, related

SIZE = (24, 20)
ORDINARY = cam_like(1, SIZE)[0]
EMPTY, CONSTANT = np.zeros(SIZE, np.float32), np.full(SIZE, 0.3, np.float32)
OVERLAP = [name for name, record in METRICS.items() if record.is_overlap]
VARIATION = ["peak_shift", "pearson", "spearman", "ssim"]
MASS = ["centroid_shift", "js_divergence"]


def of_pair(name: str, before: np.ndarray, after: np.ndarray) -> tuple[float, Reason]:
    values, reasons = METRICS[name](before[None], after[None])
    return values[0], Reason(reasons[0])


@pytest.mark.parametrize("name", OVERLAP)
def test_vanished_evidence_scores_zero_and_is_flagged(name: str) -> None:
    assert of_pair(name, ORDINARY, EMPTY) == (0.0, Reason.VANISHED)
    assert of_pair(name, EMPTY, ORDINARY) == (0.0, Reason.VANISHED)


@pytest.mark.parametrize("name", OVERLAP)
def test_two_empty_maps_do_not_overlap_perfectly(name: str) -> None:
    value, reason = of_pair(name, EMPTY, EMPTY)
    assert np.isnan(value)
    assert reason == Reason.EMPTY_UNION


@pytest.mark.parametrize("name", MASS + VARIATION)
def test_one_empty_map_is_enough_elsewhere(name: str) -> None:
    for pair in ((ORDINARY, EMPTY), (EMPTY, ORDINARY), (EMPTY, EMPTY), (EMPTY, CONSTANT)):
        value, reason = of_pair(name, *pair)
        assert np.isnan(value)
        assert reason == Reason.EMPTY_MAP


@pytest.mark.parametrize("name", VARIATION)
def test_constant_map_where_variation_is_needed(name: str) -> None:
    for pair in ((ORDINARY, CONSTANT), (CONSTANT, ORDINARY), (CONSTANT, CONSTANT)):
        value, reason = of_pair(name, *pair)
        assert np.isnan(value)
        assert reason == Reason.CONSTANT_MAP


@pytest.mark.parametrize("name", MASS + OVERLAP)
def test_constant_map_is_defined_where_it_has_an_answer(name: str) -> None:
    assert of_pair(name, CONSTANT, ORDINARY)[1] == Reason.DEFINED


@pytest.mark.parametrize("name", ["gini", "entropy", "area50"])
def test_concentration_of_nothing(name: str) -> None:
    values, reasons = METRICS[name](np.stack([EMPTY, ORDINARY]))
    assert np.isnan(values).tolist() == [True, False]
    assert reasons.tolist() == [Reason.EMPTY_MAP, Reason.DEFINED]


def test_change_of_concentration_needs_both_sides() -> None:
    scores = pair_metrics(ORDINARY[None], EMPTY[None])
    assert [scores.column(f"gini_{part}")[1][0] for part in ("before", "after", "change")] == [
        Reason.DEFINED,
        Reason.EMPTY_MAP,
        Reason.EMPTY_MAP,
    ]
    assert np.isnan(scores.column("gini_change")[0][0])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (np.nan, Reason.NON_FINITE),
        (-np.nan, Reason.NON_FINITE),
        (np.inf, Reason.NON_FINITE),
        (-np.inf, Reason.NON_FINITE),
        (-1e-3, Reason.NEGATIVE),
        (-1e-45, Reason.NEGATIVE),
    ],
)
def test_one_bad_pixel_makes_everything_undefined(bad: float, reason: Reason) -> None:
    broken = ORDINARY.copy()
    broken[7, 9] = bad
    for pair in ((broken, ORDINARY), (ORDINARY, broken), (broken, EMPTY)):
        scores = pair_metrics(pair[0][None], pair[1][None])
        touched = [n for n in scores.names if not n.endswith(("_before", "_after"))]
        for name in touched:
            assert scores.column(name)[1][0] in (reason, Reason.EMPTY_MAP), name
            assert np.isnan(scores.column(name)[0][0])
    assert (pair_metrics(broken[None], broken[None]).reasons == reason).all()


def test_infinity_and_its_negative_do_not_cancel() -> None:
    broken = ORDINARY.copy()
    broken[0, :2] = np.inf, -np.inf
    assert (pair_metrics(broken[None], broken[None]).reasons == Reason.NON_FINITE).all()


def test_a_value_beyond_float32_is_reported_not_clipped() -> None:
    large = ORDINARY.astype(np.float64)
    large[3, 3] = 1e300
    assert (pair_metrics(large[None], large[None]).reasons == Reason.NON_FINITE).all()


def test_negative_zero_is_zero() -> None:
    signed = np.where(ORDINARY == 0, np.float32(-0.0), ORDINARY)
    assert np.signbit(signed).any()
    plain = pair_metrics(ORDINARY[None], related(ORDINARY[None]))
    assert np.array_equal(pair_metrics(signed[None], related(ORDINARY[None])).values, plain.values)
    assert of_pair("soft_iou", -EMPTY, EMPTY)[1] == Reason.EMPTY_UNION


@pytest.mark.parametrize("name", METRICS)
def test_one_pixel_map(name: str) -> None:
    pixel = np.full((1, 1, 1), 2.0)
    record = METRICS[name]
    values, reasons = record(pixel, pixel) if record.kind == "pair" else record(pixel)
    expected = {
        "centroid_shift": Reason.TOO_SMALL, "peak_shift": Reason.TOO_SMALL, "entropy": Reason.TOO_SMALL,
        "ssim": Reason.TOO_SMALL, "pearson": Reason.CONSTANT_MAP, "spearman": Reason.CONSTANT_MAP,
    }.get(name, Reason.DEFINED)  # fmt: skip
    assert reasons[0] == expected
    assert np.isnan(values[0]) == expected.is_undefined


@pytest.mark.parametrize(("size", "reason"), [((11, 11), 0), ((10, 40), 8), ((40, 10), 8)])
def test_ssim_needs_its_window(size: tuple[int, int], reason: int) -> None:
    maps = cam_like(2, size)
    assert METRICS["ssim"](maps[:1], maps[1:])[1][0] == Reason(reason)


@pytest.mark.parametrize("unit", [1e-45, 1e-38, 1e30, 3e38])
def test_any_magnitude(unit: float) -> None:
    """From the smallest denormal to the largest float, masks give the same numbers."""
    masks = np.random.default_rng(0).random((2, *SIZE)) > 0.4
    scores, scaled = pair_metrics(masks[:1], masks[1:]), pair_metrics(unit * masks[:1], unit * masks[1:])
    assert (scaled.reasons == Reason.DEFINED).all()
    assert scaled.values == pytest.approx(scores.values, abs=1e-12)


def variants(maps: np.ndarray) -> dict[str, np.ndarray]:
    """The same numbers in every form in which an array may come."""
    wide = np.zeros((len(maps), SIZE[0], 2 * SIZE[1]), np.float32)
    wide[:, :, ::2] = maps
    frozen = maps.copy()
    frozen.flags.writeable = False
    return {
        "fortran": np.asfortranarray(maps),
        "strided": wide[:, :, ::2],
        "reversed twice": maps[:, ::-1].copy()[:, ::-1],
        "read-only": frozen,
        "float64": maps.astype(np.float64),
        "big-endian": maps.astype(">f4"),
        "list": maps.tolist(),
    }


@pytest.mark.parametrize("form", list(variants(ORDINARY[None])))
def test_form_of_the_array_changes_no_bit(form: str) -> None:
    before = cam_like(2, SIZE)
    after = related(before)
    plain = pair_metrics(before, after)
    assert np.array_equal(pair_metrics(variants(before)[form], variants(after)[form]).values, plain.values)


@pytest.mark.parametrize("kind", [np.float16, np.uint8, np.int64, bool])
def test_other_number_types(kind: type) -> None:
    before = (4 * cam_like(2, SIZE)).astype(kind)
    after = (4 * related(cam_like(2, SIZE))).astype(kind)
    expected = pair_metrics(before.astype(np.float32), after.astype(np.float32))
    assert np.array_equal(pair_metrics(before, after).values, expected.values, equal_nan=True)


def test_reason_of_the_cam_stage_is_passed_on() -> None:
    maps = np.stack([ORDINARY, np.full(SIZE, np.nan, np.float32)])
    codes = np.array([0, Reason.SINGULAR_ALPHA], np.uint8)
    scores = pair_metrics(maps, cam_like(2, SIZE), before_reasons=codes)
    assert set(scores.column("pearson")[1].tolist()) == {Reason.DEFINED, Reason.SINGULAR_ALPHA}
    assert scores.column("gini_before")[1][1] == Reason.SINGULAR_ALPHA
    assert scores.column("gini_after")[1][1] == Reason.DEFINED


def test_raw_maps_with_a_size_equal_upsampled_maps() -> None:
    before, after = cam_like(3, (7, 7)), cam_like(3, (14, 9), seed=2)
    direct = pair_metrics(before, after, size=(40, 44))
    assert np.array_equal(direct.values, pair_metrics(upsample(before, (40, 44)), upsample(after, (40, 44))).values)


def test_no_pairs_are_no_error() -> None:
    nothing = np.empty((0, *SIZE))
    columns = sum(len(record.columns) for record in METRICS.values())
    assert pair_metrics(nothing, nothing, threads=2).values.shape == (0, columns)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((ORDINARY, ORDINARY), ValueError, r"before must have the shape \(N, H, W\), not \(24, 20\)"),
        ((ORDINARY[None], ORDINARY[None, :9]), ValueError, r"give size=\(H, W\)"),
        ((ORDINARY[None], np.stack([ORDINARY] * 2)), ValueError, "before holds 1 maps and after 2"),
        ((ORDINARY[None] + 1j, ORDINARY[None]), TypeError, "before must hold real numbers, not complex64"),
        ((np.empty((1, 0, 3)), np.empty((1, 0, 3))), ValueError, "no empty axis"),
        ((ORDINARY[None], ORDINARY[None], 0), ValueError, "threads must be at least 1, not 0"),
        ((ORDINARY[None], ORDINARY[None], 1.5), TypeError, "threads must be a whole number, not 1.5"),
    ],
)
def test_refusals(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pair_metrics(*arguments)


def test_refusals_of_keywords() -> None:
    maps = ORDINARY[None]
    with pytest.raises(ValueError, match=r"before_reasons must have the shape \(1,\), not \(2,\)"):
        pair_metrics(maps, maps, before_reasons=np.zeros(2, np.uint8))
    with pytest.raises(ValueError, match=r"size must be a pair \(H, W\)"):
        pair_metrics(maps, maps, size=224)
    with pytest.raises(TypeError, match=r"pearson takes 2 batch\(es\)"):
        METRICS["pearson"](maps)
    with pytest.raises(ValueError, match="no column 'gini'; there are centroid_shift"):
        pair_metrics(maps, maps).column("gini")


def test_reasons_have_names_sentences_and_counts() -> None:
    assert Reason.SINGULAR_ALPHA.label == "singular_alpha"
    assert [r for r in Reason if not r.is_undefined] == [Reason.DEFINED, Reason.VANISHED]
    assert all(len(r.sentence) > 10 for r in Reason)
    codes = np.array([[0, 4, 4], [6, 1, 0]], np.uint8)
    assert tally(codes) == {Reason.EMPTY_MAP: 1, Reason.VANISHED: 2, Reason.NON_FINITE: 1}
    assert undefined(codes).tolist() == [[False, False, False], [True, True, False]]

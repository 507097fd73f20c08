"""The causal check: regions, occlusion, statistics, and the whole on tiny graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.common.errors import InputError
from harness.evaluation.causal import judge
from harness.evaluation.occlusion import SETS, Effects, drawn_symmetries
from harness.images.occlusion import FILLS, fills, occluded, symmetries
from harness.models.score_kinds import margins
from harness.report.text_tables import drift_table, markdown
from harness.results.schema import ALL, CausalResult, CausalScope, Evaluation
from harness.statistics.causal import change_of_kept, double_difference, joint_p, spread, verdict
from kernels.regions import GAINED, KEPT, LOST, regions
from tests import marker_graphs, tiny_graphs
from tests.made_results import CLASSES, LAYER, METHOD, estimate

# Regions


def test_regions_are_the_largest_differences_of_maps_scaled_to_their_maxima() -> None:
    before, after = np.zeros((2, 1, 10, 10))
    before[0, 0, :10] = 2.0  # the first row is lost
    before[0, 5, :] = after[0, 5, :] = 1.0
    before[0, 5, 0] = after[0, 5, 0] = 2.0
    after[0, 9, :] = 2.0  # the last is gained
    found = regions(before, after)[0]
    for region, row in ((GAINED, 9), (LOST, 0), (KEPT, 5)):
        assert found[region].sum() == 10
        assert found[region, row].all()


def test_a_factor_of_a_map_moves_no_region() -> None:
    before, after = np.random.default_rng(0).random((2, 3, 12, 9))
    assert np.array_equal(regions(before, after), regions(7 * before, 0.1 * after))


def test_equal_maps_have_kept_evidence_only_and_undefined_ones_nothing() -> None:
    maps = np.random.default_rng(0).random((3, 8, 8))
    other = maps.copy()
    maps[1] = 0
    maps[2, 3, 3] = np.nan
    found = regions(maps, other)
    assert found[0].sum(axis=(1, 2)).tolist() == [0, 0, 7]  # a tenth of 64, rounded up
    assert not found[1:].any()


# Occlusion


def test_occlusion_changes_the_masked_pixels_and_leaves_what_is_far_away() -> None:
    pixels = np.random.default_rng(0).uniform(0, 255, (112, 112)).astype(np.float32)
    mask = np.zeros((112, 112), bool)
    mask[20:50, 20:50] = True
    made = occluded(pixels, mask, fills(pixels)["mean"])
    assert made[35, 35] == pytest.approx(pixels.mean(), abs=1)
    assert np.array_equal(made[70:, 70:], pixels[70:, 70:])
    assert np.array_equal(occluded(pixels, np.zeros_like(mask), fills(pixels)["blur"]), pixels)
    colour = np.dstack([pixels, pixels, pixels])
    for fill in FILLS:
        grey = occluded(pixels, mask, fills(pixels)[fill])
        np.testing.assert_allclose(occluded(colour, mask, fills(colour)[fill])[..., 1], grey, atol=1e-3)


@pytest.mark.parametrize(("shape", "count"), [((6, 6), 7), ((6, 8), 3)])
def test_symmetries_move_a_mask_and_keep_its_size_and_distance(shape: tuple[int, int], count: int) -> None:
    mask = np.zeros(shape, bool)
    mask[0, 1] = mask[1, 1] = True
    middle = (np.array(shape) - 1) / 2

    def distances(moved: np.ndarray) -> list[float]:
        return sorted(np.linalg.norm(np.argwhere(moved) - middle, axis=1))

    found = [move(mask) for move in symmetries(shape)]
    assert len({moved.tobytes() for moved in found} - {mask.tobytes()}) == len(found) == count
    assert all(moved.shape == mask.shape for moved in found)
    assert all(distances(moved) == pytest.approx(distances(mask)) for moved in found)


def test_elsewhere_is_drawn_by_name_and_never_twice_the_same() -> None:
    mask = np.arange(25).reshape(5, 5)
    for name in map(str, range(20)):
        one, other = (move(mask) for move in drawn_symmetries((5, 5), name, 0))
        assert not np.array_equal(one, other)
        assert np.array_equal(one, drawn_symmetries((5, 5), name, 0)[0](mask))


# Statistics


def test_margins_are_against_the_best_other_class() -> None:
    logits = np.array([[1.0, 4.0, 2.5], [3.0, 0.0, -1.0]])
    assert margins(logits, np.array([2, 0]), "softmax").tolist() == [-1.5, 3.0]
    assert margins(logits, np.array([2, 0]), "multilabel").tolist() == [2.5, 3.0]
    assert margins(np.array([[2.0], [2.0]]), np.array([0, 1]), "binary").tolist() == [-2.0, 2.0]


def test_double_difference_and_change_of_kept() -> None:
    effects = np.zeros((2, 1, 1, 3))
    effects[0, 0, 0] = [1, 5, 2]  # before: gained 1, lost 5, kept 2
    effects[1, 0, 0] = [4, 2, 7]
    assert double_difference(effects)[0, 0] == (4 - 2) - (1 - 5)
    assert change_of_kept(effects)[0, 0] == 5


def test_spread_is_the_standard_deviation_within_classes() -> None:
    classes = np.array([0, 1, 0, 1, 1])
    margins = np.array([[1.0, 10, 3, 13, 16], [1, 110, 3, 113, 116]])  # squares of 1 + 1 and 9 + 0 + 9, 5 - 2 degrees
    assert spread(margins, classes) == pytest.approx(np.sqrt([20 / 3, 20 / 3]))
    one = classes == 1
    assert spread(margins[:, one], classes[one]) == pytest.approx(margins[:, one].std(axis=1, ddof=1))


def test_spread_is_undefined_where_nothing_varies_within_a_class() -> None:
    assert np.isnan(spread(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([0, 1]))).all()  # one image of each
    assert np.isnan(spread(np.full((2, 3), 0.1), np.zeros(3, int))).all()
    assert spread(np.zeros((2, 0)), np.zeros(0, int)).shape == (2,)


def made_effects(raised: float = 0.0) -> Effects:
    """20 images each of two classes. After, the margins of the second are higher by `raised`; all else is as before.

    In both checkpoints lost regions have an effect, and gained ones have none.
    """
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1], 20)
    own = rng.normal(5, 1, 40)
    falls = rng.normal(0, 0.1, (1, 40, len(FILLS), SETS, 3)) + np.array([0.0, 1.0, 2.0])
    after = own + raised * classes
    return Effects(
        np.arange(0, 40, 2), {(LAYER, METHOD): np.repeat(falls[:, ::2], 2, 0)}, np.arange(40), np.stack([own, after]),
        classes, 0,
    )  # fmt: skip


@pytest.mark.parametrize("scope", ["first", "all"])
def test_a_class_whose_margin_rose_makes_no_use_in_others(scope: str) -> None:
    """The margins of one class went up by 30, its marker; the effects of occlusion are the same in both checkpoints."""
    chosen = np.arange(40) < (20 if scope == "first" else 40)
    records, effects = made_effects(raised=30).within((LAYER, METHOD), chosen)
    assert records.tolist() == list(range(0, 20 if scope == "first" else 40, 2))
    assert np.abs(double_difference(effects.mean(axis=2))).max() < 1e-9
    assert np.array_equal(records, made_effects().within((LAYER, METHOD), chosen)[0])
    np.testing.assert_allclose(effects, made_effects().within((LAYER, METHOD), chosen)[1])


def test_effects_are_in_standard_deviations_of_the_scope() -> None:
    made, chosen = made_effects(), np.arange(40) < 20
    _, effects = made.within((LAYER, METHOD), chosen)
    expected = made.falls[LAYER, METHOD][:, :10] / made.margins[0, :20].std(ddof=1)
    np.testing.assert_allclose(effects, expected)


def made_check(method: str, p: dict[str, float | None]) -> CausalResult:
    """Everything estimated as 0.3 (0.28 to 0.32); p: the p values of each scope."""
    values = dict.fromkeys(CausalScope.model_fields, estimate(0.3))
    scopes = [
        CausalScope.model_construct(**values | {"scope": name, "n": 60, "n_patients": 50, "p_used": own, "p_kept": own})
        for name, own in p.items()
    ]
    return CausalResult.model_construct(pair="a -> b", layer=LAYER, method=method, passes=0, scopes=scopes)


def test_classes_are_one_family_of_tests_and_all_images_another() -> None:
    calm, storm = CLASSES
    checks = [made_check("layercam", {ALL: 0.02, calm: 0.01, storm: 0.02}),
              made_check("hirescam", {ALL: 0.03, calm: 0.04, storm: None})]  # fmt: skip
    judge(checks)
    found = {(check.method, scope.scope): scope for check in checks for scope in check.scopes}
    assert found["layercam", ALL].p_used == pytest.approx(2 * 0.02)
    assert found["hirescam", ALL].p_used == pytest.approx(2 * 0.02)  # Holm is monotone
    assert found["layercam", calm].p_used == pytest.approx(3 * 0.01)
    assert found["layercam", storm].p_kept == pytest.approx(2 * 0.02)
    assert found["hirescam", calm].p_kept == pytest.approx(0.04)
    assert found["hirescam", storm].p_used is None
    assert found["layercam", calm].verdict == "moved and used"
    assert found["hirescam", storm].verdict == "not judged"


def test_both_the_mean_and_the_contrast_must_hold() -> None:
    rng, groups = np.random.default_rng(0), np.arange(40)
    used = 1 + 0.1 * rng.normal(size=40)
    assert joint_p(used, 0 * used, groups, 0) < 0.001
    assert joint_p(used, used + 0.3 * rng.normal(size=40), groups, 0) > 0.05  # no more than elsewhere
    assert joint_p(0.3 * rng.normal(size=40), -np.ones(40), groups, 0) > 0.05  # elsewhere falls, here is nothing
    assert joint_p(used, used + 1, groups, 0) == 1  # less than elsewhere
    assert np.isnan(joint_p(used[:0], used[:0], groups[:0], 0))
    assert np.isnan(joint_p(used[:2], used[:2], np.zeros(2), 0))


@pytest.mark.parametrize(
    ("moved", "used", "p_used", "kept", "p_kept", "words"),
    [
        (True, 0.3, 0.01, (0, 0), 1.0, "moved and used"),
        (True, 0.3, 0.06, (0, 0), 1.0, "moved, not shown to be used"),
        (True, -0.3, 0.01, (1, 1), 0.01, "moved, not shown to be used"),
        (False, 0.3, 0.01, (0, 0), 1.0, "not moved"),
        (False, 0.0, 1.0, (0.4, 0.3), 0.01, "not moved but use changed"),
        (False, 0.0, 1.0, (-0.4, -0.3), 0.01, "not moved but use changed"),
        (False, 0.0, 1.0, (0.4, 0.01), 0.01, "not moved"),  # certain, and too small to matter
        (False, 0.0, 1.0, (0.4, 0.3), 0.2, "not moved"),
        (None, 0.3, 0.01, (0, 0), 1.0, "not judged"),
        (True, np.nan, np.nan, (0, 0), 1.0, "not judged"),
        (False, 0.3, 0.01, (np.nan, np.nan), np.nan, "not moved"),
    ],
)
def test_words(moved: bool | None, used: float, p_used: float, kept: tuple, p_kept: float, words: str) -> None:
    assert verdict(moved, used, p_used, kept, p_kept) == words


# The whole

N = 40


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    folder = tmp_path_factory.mktemp("causal")
    for name, nudge in (("before", 0.0), ("after", 0.6)):
        tiny_graphs.write_graph(folder / f"{name}.onnx", 11, nudge=nudge, balanced=True)
    tiny_graphs.label_as(folder / "before.onnx", tiny_graphs.write_images(folder / "images", exposure=0.6))
    data = ["--data", folder / "images" / "manifest.csv", "--map-size", 32, "--select", "all"]
    return ["--before", folder / "before.onnx", "--after", folder / "after.onnx", *data]


@pytest.fixture(scope="module")
def checked(asked: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("checked") / "out"
    with tiny_graphs.in_brief():
        tiny_graphs.evaluate(out, *asked, "--method", "layercam", "--method", "hirescam", "--causal", N)
    return out


def test_a_check_has_as_many_passes_as_it_says(checked: Path) -> None:
    result = Evaluation.read(checked)
    assert [(item.layer, item.method) for item in result.causal] == [("early", "layercam"), ("early", "hirescam")]
    assert {item.passes for item in result.causal} == {2 * N * (1 + 2 * len(FILLS) * SETS * 3)}
    scopes = {scope.scope: scope for scope in result.causal[0].scopes}
    assert scopes["all"].n == N
    assert scopes["all"].n_patients >= 20
    assert scopes["all"].n == sum(scopes[name].n for name in tiny_graphs.CLASSES)
    assert scopes["all"].verdict != "not judged"
    assert {scopes[name].verdict for name in tiny_graphs.CLASSES} == {"not judged"}  # too few patients


def test_estimates_belong_together(checked: Path) -> None:
    for item in Evaluation.read(checked).causal:
        scope = item.scopes[0]
        assert scope.contrast.mean == pytest.approx(scope.used.mean - scope.elsewhere.mean)
        assert scope.used.mean == pytest.approx((scope.blur.mean + scope.mean.mean) / 2)
    first = Evaluation.read(checked).causal[0].scopes[0].used
    assert first.low < first.mean < first.high


def test_a_checkpoint_against_itself_has_not_moved(asked: list[object], tmp_path: Path) -> None:
    before = asked[1]
    same = ["--before", before, "--after", before, *asked[4:]]
    with tiny_graphs.in_brief():
        result = tiny_graphs.evaluate(tmp_path / "out", *same, "--method", "layercam", "--causal", 30)
    scope = result.causal[0].scopes[0]
    assert scope.verdict == "not moved"
    assert scope.kept.mean == 0
    assert scope.n == 0  # nothing was gained, nothing was lost


@pytest.fixture(scope="module")
def with_marker(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CausalScope]:
    """By scope: two networks, one of which uses a marker that all pictures of one class have."""
    folder = tmp_path_factory.mktemp("marker")
    before, after = marker_graphs.write_pair(folder)
    data = marker_graphs.write_pictures(folder / "images")
    with tiny_graphs.in_brief():
        result = tiny_graphs.evaluate(
            folder / "out", "--before", before, "--after", after, "--data", data, "--map-size", 32, "--causal", 60
        )
    return {scope.scope: scope for scope in result.causal[0].scopes}


def test_a_planted_marker_is_used(with_marker: dict[str, CausalScope]) -> None:
    marked = with_marker[marker_graphs.MARKED]
    assert marked.verdict == "moved and used"
    assert marked.p_used < 0.01
    assert marked.partner.low > 0  # it is at the same place in all pictures of the class
    assert marked.elsewhere.mean < marked.used.mean / 2


def test_a_class_without_the_marker_is_not_moved(with_marker: dict[str, CausalScope]) -> None:
    other = with_marker["bright"]
    assert other.n == 30  # its maps did change a little
    assert other.verdict == "not moved"
    assert abs(other.used.mean) < 0.1


def test_tables_say_what_was_found(checked: Path) -> None:
    result = Evaluation.read(checked)
    for text in (drift_table(result), drift_table(result, wide=True), markdown(result)):
        shown = " ".join(text.split())
        assert result.causal[0].scopes[0].verdict in shown
        assert "regions mirrored or turned" in shown


def test_the_check_is_off_unless_asked_for_and_needs_models(asked: list[object], checked: Path, tmp_path: Path) -> None:
    with tiny_graphs.in_brief():
        result = tiny_graphs.evaluate(tmp_path / "out", *asked, "--method", "layercam")
    assert result.causal == []
    with pytest.raises(InputError, match="--causal cannot be given beside --from"):
        tiny_graphs.evaluate(tmp_path / "again", "--from", checked, "--causal", 8)
    from harness.api.evaluation import evaluate_again

    with pytest.raises(InputError, match="the causal check runs the models"):
        evaluate_again(checked, causal=8)

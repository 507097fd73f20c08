"""Comparisons of architectures and methods on constructed studies, against loops and closed forms."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from harness.common.errors import InputError
from harness.statistics.bootstrap import Resampling
from harness.statistics.hypothesis_tests import holm, sign_flip
from harness.statistics.rankings import (
    NULL_PROBABILITY,
    Cell,
    Comparison,
    Difference,
    Reversal,
    _moments,
    _share,
    _Study,
    compare,
)

Cells = dict[Cell, np.ndarray]


def constructed(
    means: dict[Cell, float], patients: int = 60, replicates: int = 1, seed: int = 0, sd: float = 0.1
) -> Cells:
    """One image per patient: a value of the image, shared by all cells, plus noise of each cell and replicate."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 0.2, (patients, 1))
    return {cell: mean + image + rng.normal(0, sd, (patients, replicates)) for cell, mean in means.items()}


def compared(cells: Cells, resamples: int = 2_000, direction: int = 1, seed: int = 0) -> Comparison:
    n = len(next(iter(cells.values())))
    return compare(cells, Resampling(np.arange(n), seed, resamples), direction, seed)


def grid(architectures: str, methods: str, **means: float) -> dict[Cell, float]:
    """Cells named by letters, mean 0.5 where none is given: grid("ab", "xy", ax=0.7)."""
    return {(a, m): means.get(a + m, 0.5) for a in architectures for m in methods}


def exact(z1: float, z2: float, n: int = 80) -> Cells:
    """a - b under x and y: uncorrelated differences, exactly z1 and z2 standard errors from 0 in the sample."""
    raw = np.random.default_rng(0).normal(size=(n, 2))
    raw -= raw.mean(axis=0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(raw.T @ raw / n)).T  # mean 0, variance 1, no correlation
    d = white + np.array([z1, z2]) / math.sqrt(n)
    zero = np.zeros((n, 1))
    other = np.where(np.arange(n) % 2, 0.02, -0.02)[:, None]  # of mean 0: b does not differ, but is no single map
    return {("a", "x"): d[:, :1], ("b", "x"): zero, ("a", "y"): d[:, 1:] + other, ("b", "y"): other}


def only(result: Comparison) -> Reversal:
    (reversal,) = result.reversals
    return reversal


def difference_of(result: Comparison, first: Cell, second: Cell) -> Difference:
    (found,) = [d for d in result.differences if (d.first, d.second) == (first, second)]
    return found


# Differences


def test_every_pair_of_architectures_and_of_methods_is_a_difference() -> None:
    found = [(d.first, d.second) for d in compared(constructed(grid("abc", "xy"))).differences]
    assert found[:3] == [(("a", "x"), ("b", "x")), (("a", "x"), ("c", "x")), (("b", "x"), ("c", "x"))]
    assert found[6:] == [((a, "x"), (a, "y")) for a in "abc"]
    assert len(found) == 9


def test_differences_agree_with_a_loop_over_images_and_replicates() -> None:
    cells = constructed(grid("ab", "x", ax=0.55), replicates=2)
    cells["a", "x"][3, 0] = np.nan
    cells["b", "x"][5] = np.inf
    groups = np.arange(60) // 2
    found = compare(cells, Resampling(groups, 0), direction=1, seed=4).differences[0]
    rows = [i for i in range(60) if i not in (3, 5)]
    each = [sum(cells["a", "x"][i]) / 2 - sum(cells["b", "x"][i]) / 2 for i in rows]
    assert found.value == pytest.approx(sum(each) / 58)
    assert (found.n, found.n_patients, found.reason) == (58, 30, None)
    assert found.p == sign_flip(np.array(each)[:, None], groups[rows], seed=4)[0]
    rng = np.random.default_rng(5)
    members = [np.array(each)[groups[rows] == patient] for patient in range(30)]
    draws = [np.concatenate([members[i] for i in rng.integers(0, 30, 30)]).mean() for _ in range(10_000)]
    low, high = np.percentile(draws, [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_holm_runs_over_all_differences() -> None:
    result = compared(constructed(grid("abc", "xy", ax=0.56, by=0.54)))
    np.testing.assert_allclose(
        [d.p_holm for d in result.differences], holm(np.array([d.p for d in result.differences]))
    )


def test_direction_does_not_turn_differences() -> None:
    cells = constructed(grid("ab", "x", ax=0.6))
    assert compared(cells, direction=1).differences == compared(cells, direction=-1).differences


def test_images_of_other_cells_do_not_matter() -> None:
    cells = constructed(grid("ab", "xy"))
    whole = difference_of(compared(cells), ("a", "x"), ("b", "x"))
    cells["b", "y"][:40] = np.nan
    part = compared(cells)
    again = difference_of(part, ("a", "x"), ("b", "x"))
    assert (again.value, again.n, again.p) == (whole.value, 60, whole.p)
    assert (again.low, again.high) == pytest.approx((whole.low, whole.high))
    assert difference_of(part, ("a", "y"), ("b", "y")).n == 20


def test_few_patients_have_a_value_and_a_p_but_no_interval() -> None:
    result = compared(constructed(grid("ab", "xy", ax=0.9), patients=19))
    found = result.differences[0]
    assert found.reason == only(result).reason == result.rankings[0].reason == "few_patients"
    assert found.value > 0.2
    assert found.p < 0.01
    assert result.interaction is not None
    assert result.interaction.value > 0
    assert result.rankings[0].orders == ()
    for number in (found.low, found.high, result.interaction.low, only(result).probability):
        assert math.isnan(number)
    assert all(math.isnan(p) for p in result.rankings[0].most_stable.values())


def test_no_common_image_leaves_everything_undefined() -> None:
    cells = constructed(grid("ab", "xy"))
    cells["a", "x"][:30], cells["b", "x"][30:] = np.nan, np.nan
    result = compared(cells)
    found = difference_of(result, ("a", "x"), ("b", "x"))
    assert (found.n, found.n_patients, found.reason) == (0, 0, "no_images")
    assert all(math.isnan(x) for x in (found.value, found.low, found.high, found.p, found.p_holm))
    assert only(result).reason == "no_images"
    assert not only(result).called
    assert result.interaction is not None
    assert result.interaction.reason == "no_images"
    assert result.rankings[0].reason == "no_images"
    assert result.rankings[1].reason is None


# Replicates


def test_three_replicates_are_resampled_and_two_are_not() -> None:
    """Replicates that differ much widen the interval of three; a draw has a third of their variance."""
    values = np.tile([0.0, 1.0, 2.0], (50, 1))
    cells = {("a", "x"): values, ("b", "x"): np.tile([0.0, 5.0], (50, 1))}
    result = compared(cells, resamples=20_000)
    assert result.resampled == ("a",)
    draws = _Study(cells, Resampling(np.arange(50), 0, 20_000), 0).draws(list(cells))
    assert draws[:, 0].var() == pytest.approx(values[0].var() / 3, rel=0.03)
    assert draws[:, 1].std() == pytest.approx(0.0, abs=1e-9)
    assert result.differences[0].value == pytest.approx(1.0 - 2.5)
    assert (result.differences[0].low, result.differences[0].high) == pytest.approx((-2.5, -0.5))


def test_the_draw_of_replicates_is_the_same_for_all_methods() -> None:
    """The second method is the first plus a constant, so their difference never varies."""
    values = np.random.default_rng(0).normal(size=(50, 4))
    found = compared({("a", "x"): values, ("a", "y"): values + 0.25}).differences[0]
    assert (found.value, found.low, found.high) == pytest.approx((-0.25, -0.25, -0.25))


def test_architectures_draw_their_replicates_independently() -> None:
    """The variance of a difference is the sum of both; with the same draws for both it would be 0 here."""
    cells = dict.fromkeys([("a", "x"), ("b", "x")], np.tile([0.0, 1.0, 2.0], (50, 1)))
    draws = _Study(cells, Resampling(np.arange(50), 0, 20_000), 0).draws(list(cells))
    assert (draws[:, 0] - draws[:, 1]).var() == pytest.approx(2 * np.var([0, 1, 2]) / 3, rel=0.03)
    found = compared(cells, resamples=20_000).differences[0]
    assert (found.low, found.high) == pytest.approx((-4 / 3, 4 / 3))  # 1.0 % of draws beyond, 3.8 % from there on


# Rankings


def test_ranking_goes_from_most_to_least_stable() -> None:
    cells = constructed(grid("abc", "x", ax=0.3, bx=0.9, cx=0.6))
    up, down = (compared(cells, direction=direction).rankings[0] for direction in (1, -1))
    assert up.architectures == ("b", "c", "a")
    assert down.architectures == ("a", "c", "b")
    assert up.means == tuple(reversed(down.means))
    assert up.means[0] == pytest.approx(cells["b", "x"].mean())
    assert [(order.architectures, order.probability) for order in up.orders] == [(("b", "c", "a"), 1.0)]
    assert up.most_stable == {"a": 0.0, "b": 1.0, "c": 0.0}
    assert down.most_stable == {"a": 1.0, "b": 0.0, "c": 0.0}


def test_probability_of_an_order_agrees_with_its_closed_form() -> None:
    """a - b is one standard error above 0: a is more stable in a share Phi(1) of the draws."""
    ranking = compared(exact(1.0, 0.0), resamples=20_000).rankings[0]
    assert ranking.most_stable["a"] == pytest.approx(stats.norm.cdf(1.0), abs=0.015)
    assert ranking.most_stable["b"] == pytest.approx(1 - ranking.most_stable["a"])
    assert [order.architectures for order in ranking.orders] == [("a", "b"), ("b", "a")]


def test_probabilities_of_orders_are_counted_over_the_draws() -> None:
    cells = constructed(grid("abcd", "x", ax=0.51, bx=0.5, cx=0.52), seed=3)
    ranking = compared(cells).rankings[0]
    study = _Study(cells, Resampling(np.arange(60), 0, 2_000), 0)
    draws = study.draws(list(cells))
    for order in ranking.orders:
        literal = [sorted("abcd", key=lambda name, row=row: -row["abcd".index(name)]) for row in draws]
        assert order.probability == pytest.approx(literal.count(list(order.architectures)) / 2_000)
    assert sum(order.probability for order in ranking.orders) == pytest.approx(1.0)
    assert [o.probability for o in ranking.orders] == sorted((o.probability for o in ranking.orders), reverse=True)


def test_equal_architectures_share_the_probability() -> None:
    values = np.random.default_rng(0).random((60, 1))
    cells = {(name, "x"): values.copy() for name in "abc"}
    ranking = compared(cells, resamples=6_000).rankings[0]
    assert ranking.architectures == ("a", "b", "c")
    assert {order.architectures for order in ranking.orders} == set(permutations("abc"))
    assert list(ranking.most_stable.values()) == pytest.approx([1 / 3] * 3, abs=0.03)


def test_equal_architectures_share_the_probability_whatever_rounding_does() -> None:
    """Three equal replicates have the mean of one, but not to the last digit."""
    values = np.random.default_rng(0).random((60, 1))
    cells = {("a", "x"): values, ("b", "x"): np.tile(values, 3), ("a", "y"): values, ("b", "y"): np.tile(values, 3)}
    result = compared(cells, resamples=6_000)
    assert result.rankings[0].most_stable["a"] == pytest.approx(0.5, abs=0.03)
    assert only(result).probability == 0.5


def test_at_most_24_orders_are_listed() -> None:
    values = np.random.default_rng(0).random((60, 1))
    ranking = compared({(name, "x"): values for name in "abcde"}).rankings[0]
    assert len(ranking.orders) == 24
    assert sum(ranking.most_stable.values()) == pytest.approx(1.0)


# Reversals


@pytest.mark.parametrize(("z1", "z2"), [(1.0, -0.5), (2.0, 1.0), (0.0, 0.0), (0.3, 5.0)])
def test_reversal_probability_agrees_with_its_closed_form(z1: float, z2: float) -> None:
    """Bootstrap means of uncorrelated differences are independent and normal: Phi(z1) Phi(-z2) + Phi(-z1) Phi(z2)."""
    up1, up2 = stats.norm.cdf([z1, z2])
    found = only(compared(exact(z1, z2), resamples=20_000)).probability
    assert found == pytest.approx(up1 * (1 - up2) + (1 - up1) * up2, abs=0.015)


def test_two_null_differences_give_a_reversal_probability_of_about_a_half() -> None:
    found = [only(compared(constructed(grid("ab", "xy"), seed=seed), resamples=200, seed=seed)) for seed in range(100)]
    probabilities = [reversal.probability for reversal in found]
    assert np.mean(probabilities) == pytest.approx(NULL_PROBABILITY, abs=4 * np.std(probabilities) / 10)
    assert not any(reversal.called for reversal in found)


def test_a_clear_reversal_is_called() -> None:
    found = only(compared(constructed(grid("ab", "xy", ax=0.7, ay=0.3))))
    assert found.called
    assert found.probability == 1.0
    assert found.first > 0 > found.second
    assert (found.architectures, found.methods) == (("a", "b"), ("x", "y"))


@pytest.mark.parametrize(
    ("means", "probability"), [({"ax": 0.7, "ay": 0.7}, 0.0), ({"bx": 0.7, "by": 0.9}, 0.0), ({"ax": 0.9}, None)]
)
def test_agreement_or_one_clear_difference_is_not_a_reversal(
    means: dict[str, float], probability: float | None
) -> None:
    found = only(compared(constructed(grid("ab", "xy", **means))))
    assert not found.called
    assert probability is None or found.probability == probability


@pytest.mark.parametrize(("largest", "reason"), [(0.0009, "identical"), (0.0011, None)])
def test_identical_cells_are_not_tested_and_leave_the_family(largest: float, reason: str | None) -> None:
    """Grad-CAM and HiResCAM are one map behind global pooling, but for rounding at the edge of the masks."""
    rng = np.random.default_rng(0)
    x, z = rng.uniform(0, 0.9, (80, 1)), rng.uniform(0, 1, (80, 1))
    x[0] = 1  # the scale
    y = x.copy()
    y[5] += largest
    result = compared({("a", "x"): x, ("a", "y"): y, ("a", "z"): z})
    found = difference_of(result, ("a", "x"), ("a", "y"))
    others = [one for one in result.differences if one is not found]
    assert found.reason == reason
    assert (math.isnan(found.p), math.isnan(found.p_holm)) == (bool(reason), bool(reason))
    assert [one.reason for one in others] == [None, None]
    family = [one.p for one in (others if reason else result.differences)]
    assert [one.p_holm for one in others] == holm(np.array(family))[-2:].tolist()


@pytest.mark.parametrize(("edges", "same"), [(1, True), (2, False), (80, False)])
def test_a_small_difference_of_many_images_is_one(edges: int, same: bool) -> None:
    """A method that is a thousandth higher everywhere is another method, and significantly so."""
    x = np.random.default_rng(0).uniform(0, 1, (80, 1))
    y = x.copy()
    y[:edges] += 0.0005
    (found,) = compared({("a", "x"): x, ("a", "y"): y}).differences
    assert (found.reason == "identical") == same
    if edges == 80:
        assert found.p < 0.001


def test_no_image_at_all_is_not_identical() -> None:
    nothing = np.full((30, 1), np.nan)
    result = compared({("a", "x"): nothing, ("a", "y"): nothing})
    assert result.differences[0].reason == "no_images"


@pytest.mark.parametrize(("z1", "z2"), [(2.1, -6.0), (6.0, -2.1)])
def test_a_reversal_is_not_called_when_holm_takes_one_difference_away(z1: float, z2: float) -> None:
    """Both differences have p below 0.05, but one of them is above after Holm."""
    result = compared(exact(z1, z2))
    ps = [difference_of(result, ("a", m), ("b", m)) for m in "xy"]
    assert all(d.p < 0.05 for d in ps)
    assert max(d.p_holm for d in ps) > 0.05 > min(d.p_holm for d in ps)
    assert only(result).probability > 0.9
    assert not only(result).called


def test_differences_of_zero_count_one_half() -> None:
    values = np.random.default_rng(0).random((60, 1))
    found = only(compared({(a, m): values.copy() for a in "ab" for m in "xy"}))
    assert found.probability == 0.5
    assert not found.called


def test_every_pair_of_architectures_and_methods_has_a_reversal() -> None:
    found = compared(constructed(grid("abc", "xyz"))).reversals
    assert len({(reversal.architectures, reversal.methods) for reversal in found}) == 9


# Interaction


def slow_interaction(values: np.ndarray) -> float:
    """Values (n, A, M), one cell of one image at a time: sums of squares of the two-way layout within images."""
    n, A, M = values.shape
    z = values - values.reshape(n, -1).mean(axis=1)[:, None, None]
    total = interaction = 0.0
    grand = z.mean()
    for i in range(n):
        for a in range(A):
            for m in range(M):
                total += z[i, a, m] ** 2
                interaction += (z[:, a, m].mean() - z[:, a].mean() - z[:, :, m].mean() + grand) ** 2
    return interaction / total


def as_grid(cells: Cells, architectures: str, methods: str) -> np.ndarray:
    """(n, A, M) means over replicates."""
    return np.stack([np.stack([cells[a, m].mean(axis=1) for m in methods], axis=1) for a in architectures], axis=1)


@pytest.mark.parametrize("replicates", [1, 2, 3])
def test_interaction_agrees_with_a_loop(replicates: int) -> None:
    cells = constructed(grid("abc", "xy", ax=0.6, cy=0.4), replicates=replicates)
    cells["a", "x"][4] = np.nan
    found = compared(cells).interaction
    assert found is not None
    assert found.value == pytest.approx(slow_interaction(np.delete(as_grid(cells, "abc", "xy"), 4, axis=0)))
    assert found.low < found.value < found.high
    assert found.n == 59


def test_every_draw_of_the_interaction_is_the_value_of_the_drawn_images_and_replicates() -> None:
    """Witness: repeat the drawn images, average the drawn replicates, and start from there."""
    cells = constructed(grid("ab", "xy", ax=0.6), patients=25, replicates=3)
    for m in "xy":
        cells["b", m] = cells["b", m][:, :2]
    resampling = Resampling(np.arange(25) // 2, 1, 20)
    study = _Study(cells, resampling, 1)
    shares = np.hstack([study.shares[a] for a in "ab"])
    found = _share(resampling.means(_moments(study, np.arange(25))), shares, study)
    weights = np.concatenate([chunk for _, chunk in resampling.image_weights()])
    for r in range(20):
        images = np.repeat(np.arange(25), weights[r].astype(int))
        drawn = {cell: (values @ study.shares[cell[0]][r])[images, None] for cell, values in cells.items()}
        assert found[r] == pytest.approx(slow_interaction(as_grid(drawn, "ab", "xy")))


def test_interaction_is_one_where_only_the_combination_matters_and_zero_where_cells_add_up() -> None:
    image = np.random.default_rng(0).random((40, 1))
    crossed = {("a", "x"): image + 1, ("a", "y"): image - 1, ("b", "x"): image - 1, ("b", "y"): image + 1}
    added = {("a", "x"): image, ("a", "y"): image + 1, ("b", "x"): image + 2, ("b", "y"): image + 3}
    full, none = compared(crossed).interaction, compared(added).interaction
    assert full is not None
    assert none is not None
    assert (full.value, full.low, full.high) == pytest.approx((1.0, 1.0, 1.0))
    assert (none.value, none.low, none.high) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)


def test_interaction_of_a_null_study_is_biased_upwards_as_stated() -> None:
    values = [
        compared(constructed(grid("abc", "xy"), patients=25, seed=seed), resamples=2).interaction for seed in range(300)
    ]
    found = [interaction.value for interaction in values if interaction]
    assert np.mean(found) == pytest.approx(2 * 1 / (25 * 5), abs=4 * np.std(found) / math.sqrt(300))


def test_interaction_of_equal_cells_is_undefined() -> None:
    values = np.random.default_rng(0).random((60, 1))
    found = compared({(a, m): values for a in "ab" for m in "xy"}).interaction
    assert found is not None
    assert found.reason == "no_variation"
    assert math.isnan(found.value)


# Whole


def test_parts_that_need_two_are_empty() -> None:
    one = compared(constructed(grid("a", "x")))
    assert (one.differences, one.rankings, one.reversals, one.interaction) == ((), (), (), None)
    methods = compared(constructed(grid("a", "xy")))
    assert (len(methods.differences), methods.rankings, methods.reversals, methods.interaction) == (1, (), (), None)
    architectures = compared(constructed(grid("ab", "x")))
    assert (len(architectures.differences), len(architectures.rankings), architectures.reversals) == (1, 1, ())


def test_same_seed_same_result_and_the_order_of_images_does_not_matter() -> None:
    cells = constructed(grid("abc", "xy", ax=0.52), replicates=3)
    groups = np.arange(60) // 2
    order = np.random.default_rng(0).permutation(60)
    first, again = (compare(cells, Resampling(groups, 7, 500), 1, 7) for _ in range(2))
    assert first == again
    turned = {cell: values[order] for cell, values in cells.items()}
    shuffled = compare(turned, Resampling(groups[order], 7, 500), 1, 7)
    for d, e in zip(first.differences, shuffled.differences, strict=True):
        assert (d.value, d.low, d.high, d.p) == pytest.approx((e.value, e.low, e.high, e.p))
    assert [r.most_stable for r in first.rankings] == [r.most_stable for r in shuffled.rankings]


def test_images_that_are_nan_leave_everything_unchanged() -> None:
    cells = constructed(grid("ab", "xy", ax=0.52), replicates=3)
    longer = {cell: np.vstack([values, np.full((3, 3), np.nan)]) for cell, values in cells.items()}
    first = compare(cells, Resampling(np.arange(60), 7, 500), 1, 7)
    second = compare(longer, Resampling(np.append(np.arange(60), [0, 1, 2]), 7, 500), 1, 7)
    for d, e in zip(first.differences, second.differences, strict=True):
        assert (d.value, d.low, d.high, d.p) == pytest.approx((e.value, e.low, e.high, e.p))
    assert first.rankings == second.rankings
    assert first.interaction is not None
    assert second.interaction is not None
    assert first.interaction.low == pytest.approx(second.interaction.low)


@pytest.mark.parametrize(
    ("cells", "direction", "message"),
    [
        ({}, 1, "there are no cells to compare"),
        ({("a", "x"): np.zeros((9, 1))}, 1, r"values of a under x have shape \(9, 1\), and there are 30 images"),
        ({("a", "x"): np.zeros(30)}, 1, "one column per replicate"),
        ({("a", "x"): np.zeros((30, 1)), ("b", "y"): np.zeros((30, 1))}, 1, "a has no values under y"),
        (
            {("a", "x"): np.zeros((30, 1)), ("a", "y"): np.zeros((30, 2))},
            1,
            "a has more replicates under one method than another",
        ),
        ({("a", "x"): np.zeros((30, 1))}, 0, "the direction is 0: give 1 where high is stable"),
    ],
)
def test_input_that_does_not_fit_is_refused(cells: Cells, direction: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(cells, Resampling(np.arange(30), 0, 10), direction, seed=0)

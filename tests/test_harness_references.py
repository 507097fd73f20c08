"""References by budget: one noisy copy per record, checkpoints in turns, and ten neighbours on a circle."""

from __future__ import annotations

import pickle
import shutil
import time
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.common.errors import InputError
from harness.evaluation import run
from harness.evaluation.jobs import Scoring
from harness.evaluation.score import Scorer
from harness.images.jitter import SHIFTS, draw_of
from harness.results import part_files, references
from harness.results.plan import read_stored, restore
from harness.results.reader import Reader, read_collected, tasks
from harness.results.schema import Evaluation
from harness.statistics.chance import PARTNERS, neighbours, partners_of, sampled, turns
from kernels.metrics import pair_metrics
from kernels.partners import NOBODY, partner_metrics
from tests import tiny_graphs
from tests.map_samples import cam_like, related
from tests.tiny_graphs import evaluate, maps_of, metric, read_rows

PATIENTS, EACH = 44, 2
BUDGET = 50  # of 88 records
METRIC = "iou_top20"
ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=40)  # (class, patient)

pytestmark = pytest.mark.usefixtures("in_brief")


def names(count: int) -> list[str]:
    return [f"image{n:03d}" for n in range(count)]


# What is drawn


@settings(max_examples=150, deadline=None)
@given(ROWS, st.integers(0, 3), st.integers(1, 12))
def test_neighbours_are_of_the_class_and_never_of_the_patient(rows: list, seed: int, wanted: int) -> None:
    classes, groups = np.array(rows).T
    order, partners = neighbours(names(len(rows)), classes, groups, wanted, seed)
    assert sorted(order) == list(range(len(rows)))
    classes, groups = classes[order], groups[order]
    for i, column in enumerate(partners.T):
        others = (classes == classes[i]) & (groups != groups[i])
        met = column[column != NOBODY]
        assert (len(met) > 0) == others.any()
        assert others[met].all()


@settings(max_examples=150, deadline=None)
@given(ROWS)
def test_every_record_is_a_partner_as_often_as_it_has_partners(rows: list) -> None:
    """But where one patient has more than half of a class, and his images get random ones of somebody else."""
    classes, groups = np.array(rows).T
    order, partners = neighbours(names(len(rows)), classes, groups)
    for label in np.unique(classes):
        own = np.flatnonzero(classes[order] == label)
        n, largest = len(own), np.unique(groups[classes == label], return_counts=True)[1].max()
        if 2 * largest <= n:
            met = Counter(partners[:, own][partners[:, own] != NOBODY].tolist())
            assert set(met.values()) == {min(PARTNERS, n - 2 * largest + 1)}
            assert sorted(met) == own.tolist()


def test_those_who_follow_each_other_have_all_partners_but_one_in_common() -> None:
    _, partners = neighbours(names(60), [0] * 60, np.arange(60) // 2)
    for one, other in pairwise(partners.T):
        assert len({*one} & {*other}) == PARTNERS - 1


def test_neighbours_depend_neither_on_row_order_nor_on_other_classes() -> None:
    classes, groups, images = np.repeat([0, 1], 30), np.arange(60) // 2, np.array(names(60))

    def met(rows: np.ndarray) -> dict[str, list[str]]:
        order, partners = neighbours(images[rows], classes[rows], groups[rows], seed=3)
        ordered = images[rows][order]
        return {ordered[i]: ordered[column].tolist() for i, column in enumerate(partners.T)}

    whole = met(np.arange(60))
    assert met(np.random.default_rng(0).permutation(60)) == whole
    assert met(np.arange(30)) == {name: whole[name] for name in images[:30]}
    order, partners = neighbours(images, classes, groups, seed=4)
    assert images[order][partners].T.tolist() != list(whole.values())


def test_turns_are_balanced_in_every_class_and_do_not_follow_the_order_of_the_rows() -> None:
    classes, images = np.repeat([0, 1, 2], [31, 8, 1]), np.array(names(40))
    found = turns(images, classes, seed=2)
    assert [np.bincount(found[classes == label]).tolist() for label in range(3)] == [[16, 15], [4, 4], [1]]
    moved = np.random.default_rng(0).permutation(40)
    assert np.array_equal(turns(images[moved], classes[moved], seed=2), found[moved])
    assert not np.array_equal(turns(images, classes, seed=3), found)


def test_every_shift_is_drawn_about_equally_often() -> None:
    drawn = Counter(draw_of(name, 0) for name in names(800))
    assert set(drawn) == set(range(1, len(SHIFTS) + 1))
    assert all(abs(count - 200) < 4 * np.sqrt(800 * 0.25 * 0.75) for count in drawn.values())


@pytest.mark.parametrize("threads", [1, 3])
def test_maps_that_are_kept_score_as_those_that_are_not(threads: int) -> None:
    """150 maps are three runs of a thread; a shift of a pixel for every third."""
    before = cam_like(150, (12, 12))
    after, (order, partners) = related(before), neighbours(names(150), [0] * 150, range(150), 3)
    shifts = np.zeros((*partners.shape, 2))
    shifts[:, ::3] = 1 / 12
    found = partner_metrics(before[order], after[order], partners, threads, shifts=shifts, near=True)
    expected = partner_metrics(before[order], after[order], partners, shifts=shifts)
    assert np.array_equal(found.values, expected.values)
    assert not np.array_equal(found.values, partner_metrics(before[order], after[order], partners).values)


# Evaluations


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three graphs along a training, and 88 images of three classes of which one is rare."""
    folder = tmp_path_factory.mktemp("references")
    for name, nudge in (("before", 0.0), ("after", 0.3), ("later", -0.3)):
        tiny_graphs.write_graph(folder / f"{name}.onnx", 0, nudge=nudge, balanced=True)
    manifest = tiny_graphs.write_images(folder / "images", PATIENTS, EACH, exposure=0.6)
    rare = [tiny_graphs.CLASSES[2 if n % 12 == 0 else n % 5 // 3] for n in range(PATIENTS * EACH)]
    tiny_graphs.relabel(manifest, rare)
    return folder


def asked(place: Path, *options: object) -> list[object]:
    graphs = ["--before", place / "before.onnx", "--after", place / "after.onnx"]
    data = ["--data", place / "images" / "manifest.csv"]
    return [*graphs, *data, "--select", "all", "--map-size", 16, "--method", "layercam", *options]


@pytest.fixture(scope="module")
def whole(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    out = tmp_path_factory.mktemp("whole") / "out"
    return evaluate(out, *asked(place)), out


@pytest.fixture(scope="module")
def part(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    """On a sample, in parts of 20 images."""
    out = tmp_path_factory.mktemp("part") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part_files, "BLOCK", 20)
        return evaluate(out, *asked(place, "--reference-budget", BUDGET)), out


def rows_of(out: Path, kind: str) -> list[str]:
    return sorted(map(repr, read_rows(out, kind)))


def scores(out: Path, reference: str, **equal: object) -> dict[str, float]:
    rows = read_rows(out, "scores", reference=reference, metric=METRIC, **equal)
    return {row["image"]: row["value"] for row in rows}


def described(out: Path) -> tuple[list[str], list[str], list[str]]:
    """Names, classes and patients of the compared images."""
    rows = read_rows(out, "scores", reference="observed", metric=METRIC)
    return [row["image"] for row in rows], [row["class"] for row in rows], [row["group"] for row in rows]


def turn_of(images: list[str], classes: list[str]) -> dict[str, str]:
    """Image -> the checkpoint whose turn it is."""
    sides = turns(images, [tiny_graphs.CLASSES.index(name) for name in classes])
    return {image: ("before", "after")[side] for image, side in zip(images, sides, strict=True)}


def floor_of(out: Path, images: list[str], classes: list[str]) -> dict[str, float]:
    """Image -> its floor: of the checkpoint whose turn it is, or of the other where that one's map alone is empty."""
    values = {key: scores(out, "jitter", pair=key) for key in ("before", "after")}
    empty = {key: without_map(out, key) for key in values}
    found = {}
    for image, key in turn_of(images, classes).items():
        other = {"before": "after", "after": "before"}[key]
        passed_on = image in empty[key] - empty[other] and np.isnan(values[key][image])
        found[image] = values[other][image] if passed_on else values[key][image]
    return found


def without_map(out: Path, checkpoint: str) -> set[str]:
    return {image for (image, _), one in maps_of(out, checkpoint=checkpoint, draw=0).items() if not one.any()}


def test_every_record_has_one_noisy_copy_and_the_checkpoints_take_turns(whole: tuple[Evaluation, Path]) -> None:
    """Where the map of the checkpoint whose turn it is is empty and that of the other is not, that one looks, too."""
    result, out = whole
    images, classes, _ = described(out)
    noisy = [row for row in read_rows(out, "maps") if row["draw"] > 0]
    assert all(row["draw"] == draw_of(row["image"], 0) for row in noisy)
    owners = defaultdict(set)
    for row in noisy:
        owners[row["image"]].add(row["checkpoint"])
    empty = {key: without_map(out, key) for key in ("before", "after")}
    for image, key in turn_of(images, classes).items():
        other = {"before": "after", "after": "before"}[key]
        assert owners[image] == ({"before", "after"} if image in empty[key] - empty[other] else {key})
    assert empty["before"] & empty["after"]
    assert 0 < sum(len(keys) == 2 for keys in owners.values()) < len(images)
    assert (result.jitter_draws, result.chance_draws, result.reference_budget) == (None, None, 1500)
    assert result.references == "by budget of 1500 images"


@pytest.mark.parametrize(("images", "partners"), [(1, 10), (315, 10), (431, 7), (630, 5), (1500, 3), (10_000, 3)])
def test_many_images_have_fewer_partners_each(images: int, partners: int) -> None:
    assert partners_of(images) == partners


def test_the_numbers_are_means_of_what_is_stored(whole: tuple[Evaluation, Path]) -> None:
    """Witness: chance from the stored maps and the drawn neighbours, the floor from the rows of both checkpoints."""
    result, out = whole
    images, classes, groups = described(out)
    order, partners = neighbours(images, [tiny_graphs.CLASSES.index(name) for name in classes], groups)
    before, after = (
        {image: one for (image, _), one in maps_of(out, checkpoint=key, draw=0).items()} for key in ("before", "after")
    )
    chance = scores(out, "chance")
    for place, column in zip(order, partners.T, strict=True):
        met = np.stack([after[images[order[j]]] for j in column if j != NOBODY])
        own = np.repeat(before[images[place]][None], len(met), axis=0)
        values = pair_metrics(own, met, size=(16, 16)).column(METRIC)[0]
        defined = values[np.isfinite(values)]
        expected = defined.mean() if len(defined) else np.nan
        assert chance[images[place]] == pytest.approx(expected, nan_ok=True)
    observed = scores(out, "observed")
    floor = floor_of(out, images, classes)
    assert len(floor) == len(observed) == len(chance) == PATIENTS * EACH
    found, complete = (
        metric(result, METRIC),
        [n for n in images if np.isfinite([observed[n], chance[n], floor[n]]).all()],
    )
    means = [np.mean([of[name] for name in complete]) for of in (observed, chance, floor)]
    assert [found.index.observed, found.index.chance, found.index.floor] == pytest.approx(means)
    assert found.index.sampled is None
    assert found.floor.mean == pytest.approx(np.nanmean(list(floor.values())))


def test_above_the_budget_a_balanced_sample_stands_for_all(part: tuple[Evaluation, Path]) -> None:
    """Both references are of the same images; means over classes are weighted by what each stands for."""
    result, out = part
    images, classes, groups = described(out)
    rows = sampled(images, [tiny_graphs.CLASSES.index(name) for name in classes], groups, 0, BUDGET)
    expected = {images[row] for row in rows}
    chance = scores(out, "chance")
    of_sample = [(name, of) for name, of, row in zip(images, classes, range(len(images)), strict=True) if row in rows]
    floor = floor_of(out, *map(list, zip(*of_sample, strict=True)))
    assert set(chance) == set(floor) == expected
    assert len(expected) < len(images) == len(scores(out, "observed"))
    of_class = dict(zip(images, classes, strict=True))
    counts, drawn = Counter(classes), Counter(of_class[name] for name in expected)
    assert len({counts[name] / drawn[name] for name in counts}) > 1  # the check can fail
    found = metric(result, METRIC)
    for estimate, values in ((found.chance, chance), (found.floor, floor)):
        known = {name: value for name, value in values.items() if np.isfinite(value)}
        weights = [counts[of_class[name]] / drawn[of_class[name]] for name in known]
        assert estimate.mean == pytest.approx(np.average(list(known.values()), weights=weights))
    assert found.index.sampled == len(expected)
    assert result.reference_budget == BUDGET


def test_a_pair_has_the_same_numbers_whatever_else_is_compared(place: Path, whole: tuple, tmp_path: Path) -> None:
    files = [place / f"{name}.onnx" for name in ("before", "after", "later")]
    options = asked(place)[4:]
    result = evaluate(tmp_path / "out", "--checkpoints", *files, *options)
    alone, among = whole[0].pairs[0], result.pairs[0]
    assert (among.before, among.after) == (alone.before, alone.after)
    assert [item.model_dump() for item in among.metrics] == [item.model_dump() for item in alone.metrics]
    noisy = defaultdict(set)
    for row in read_rows(tmp_path / "out", "maps"):
        if row["draw"]:
            noisy[row["checkpoint"]].add(row["image"])
    assert len(noisy["after"]) > len(noisy["before"])


def test_noise_is_not_made_where_replicates_are_the_floor(place: Path, tmp_path: Path) -> None:
    result = evaluate(tmp_path / "out", *asked(place)[:4], "--after", place / "later.onnx", *asked(place)[4:])
    assert {pair.floor for pair in result.pairs} == {"replicate"}
    assert all(metric(result, METRIC).index is not None for _ in result.pairs)
    assert {row["draw"] for row in read_rows(tmp_path / "out", "maps")} == {0}


@pytest.mark.parametrize("options", [["--batch", 3, "--threads", 2], ["--batch", 1]])
def test_batch_and_threads_change_no_number(place: Path, whole: tuple, tmp_path: Path, options: list) -> None:
    result = evaluate(tmp_path / "out", *asked(place, *options))
    assert [pair.model_dump() for pair in result.pairs] == [pair.model_dump() for pair in whole[0].pairs]


def test_threads_that_look_for_the_turns_at_the_same_time_find_all_of_them(
    part: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From maps alone nothing has looked for them before the first parts are scored, several at a time."""

    def slowly(*arguments: Any) -> np.ndarray:
        time.sleep(0.2)
        return turns(*arguments)

    monkeypatch.setattr(part_files, "BLOCK", 20)
    monkeypatch.setattr(references, "turns", slowly)
    again = evaluate(tmp_path / "out", "--from", part[1], "--threads", 8)
    assert [pair.model_dump() for pair in again.pairs] == [pair.model_dump() for pair in part[0].pairs]
    assert rows_of(tmp_path / "out", "scores") == rows_of(part[1], "scores")


@pytest.mark.parametrize("at_once", [True, False])
def test_the_sample_of_a_task_is_read_once(part: tuple, monkeypatch: pytest.MonkeyPatch, at_once) -> None:
    """By all threads together, and by a worker that is given one part after the other, pickled before."""
    monkeypatch.setattr(part_files, "BLOCK", 20)
    stored, samples = restore(read_stored(part[1]), part[1])
    store = part_files.Store(part[1])
    reader = Reader(stored.plan, read_collected(store, stored.plan, samples, 2), stored.select, store)
    number = next(n for n, task in enumerate(tasks(stored.plan)) if task.kind == "chance")
    items = [(number, block) for block in range(len(reader.parts(number)))]
    read, maps = list[int](), Reader.maps
    monkeypatch.setattr(part_files.Store, "write", lambda *_: None)
    monkeypatch.setattr(Reader, "maps", lambda self, *place: read.append(place[0]) or maps(self, *place))
    scorer = Scorer(reader, 4)
    scorer._sample = pickle.loads(pickle.dumps(scorer._sample))
    job = Scoring(scorer)
    assert len(items) > 3
    if at_once:
        assert len(list(job.each(items, lambda _: None))) == len(items)
    else:
        for item in items:
            job.do(item, lambda _: None)
    assert read == [0, 1]


def test_a_run_goes_on_from_any_part(place: Path, part: tuple, tmp_path: Path, monkeypatch) -> None:
    """Without half of the noise, half of the chance, and all that came after."""
    monkeypatch.setattr(part_files, "BLOCK", 20)
    line = asked(place, "--reference-budget", BUDGET)
    evaluate(tmp_path / "out", *line)
    noise = sorted((tmp_path / "out" / "maps").iterdir())[-6:]
    chance = sorted((tmp_path / "out" / "scores").iterdir())[-4:]
    for path in (*noise[::2], *chance[::2], tmp_path / "out" / "evaluation.json"):
        path.unlink()
    again = evaluate(tmp_path / "out", *line, "--resume")
    assert [pair.model_dump() for pair in again.pairs] == [pair.model_dump() for pair in part[0].pairs]
    for kind in ("maps", "scores"):
        assert repr(read_rows(tmp_path / "out", kind)) == repr(read_rows(part[1], kind))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--jitter", 2], r"the maps hold jitter by budget; evaluate anew with --jitter 2"),
        (
            ["--select", "agree"],
            r"by budget, for what 'all' selects; give --jitter 0, or evaluate anew with --select agree",
        ),
        (["--reference-budget", 60], r"jitter for a budget of 1500 images; give --jitter 0, or evaluate anew"),
    ],
)
def test_from_maps_refuses_what_their_noise_cannot_give(whole: tuple, tmp_path: Path, options: list, sentence) -> None:
    with pytest.raises(InputError, match=sentence):
        evaluate(tmp_path / "out", "--from", whole[1], *options)
    assert not (tmp_path / "out").exists()


def test_from_maps_draws_other_partners_for_the_same_images(part: tuple, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(part_files, "BLOCK", 20)
    result = evaluate(tmp_path / "out", "--from", part[1], "--seed", 5)
    assert set(scores(tmp_path / "out", "chance")) == set(scores(part[1], "chance"))
    one, other = metric(result, METRIC), metric(part[0], METRIC)
    assert one.floor.mean == other.floor.mean
    assert one.chance.mean != other.chance.mean
    asked_for = evaluate(tmp_path / "asked", "--from", part[1], "--chance", 3)
    assert (asked_for.jitter_draws, asked_for.chance_draws) == (None, 3)
    assert len(scores(tmp_path / "asked", "chance")) == PATIENTS * EACH
    assert metric(asked_for, METRIC).index.sampled == len(scores(part[1], "chance"))


def test_an_image_that_is_gone_before_its_noise_is_seen_is_named(place: Path, tmp_path: Path, monkeypatch) -> None:
    shutil.copytree(place, tmp_path / "copy")
    images = tmp_path / "copy" / "images"
    original = run._explain_noise

    def removed(*arguments: object) -> None:
        (images / "image-000.png").unlink()
        original(*arguments)

    monkeypatch.setattr(run, "_explain_noise", removed)
    with pytest.raises(InputError, match=r"image-000\.png"):
        evaluate(tmp_path / "out", *asked(tmp_path / "copy"))


@pytest.mark.parametrize("option", [49, 10**6 + 1])
def test_a_budget_out_of_range_is_refused(place: Path, tmp_path: Path, option: int) -> None:
    with pytest.raises(InputError, match="reference_budget: Input should be"):
        evaluate(tmp_path / "out", *asked(place, "--reference-budget", option))

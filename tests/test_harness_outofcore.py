"""Studies that do not fit into memory: chance on a sample, scores a few metrics at a time, sums over patients."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness.evaluation.score import Scorer
from harness.evaluation.summarise import groups_of
from harness.gate.judge import judge
from harness.gate.policy import parse_policy
from harness.results import part_files
from harness.results.plan import read_stored, restore
from harness.results.reader import Reader, read_collected, tasks
from harness.results.schema import Evaluation, MetricSummary, PairResult
from harness.results.vocabulary import COLUMNS, STABILITY
from harness.statistics.chance import derangements, sampled
from kernels.metrics import pair_metrics
from tests import made_results, tiny_graphs, vast_studies
from tests.conftest import ROOT
from tests.tiny_graphs import evaluate, maps_of, metric, read_rows

PATIENTS, EACH = 66, 2
LIMIT = 60  # of 132 records
OPTIONS = ["--map-size", 16, "--chance", 3, "--jitter", 1, "--method", "layercam", "--method", "gradcam"]
HEADLINE = "iou_top20"

pytestmark = pytest.mark.usefixtures("in_brief")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair of graphs, and 132 images of three classes of which one is rare."""
    folder = tmp_path_factory.mktemp("outofcore")
    for name, nudge in (("before", 0.0), ("after", 0.3)):
        tiny_graphs.write_graph(folder / f"{name}.onnx", 0, nudge=nudge, balanced=True)
    manifest = tiny_graphs.write_images(folder / "images", PATIENTS, EACH, exposure=0.6)
    rare = [tiny_graphs.CLASSES[2 if n % 12 == 0 else n % 5 // 3] for n in range(PATIENTS * EACH)]
    tiny_graphs.relabel(manifest, rare)
    return folder


def asked(place: Path, manifest: str = "manifest.csv") -> list[object]:
    graphs = ["--before", place / "before.onnx", "--after", place / "after.onnx"]
    return [*graphs, "--data", place / "images" / manifest, "--select", "all", *OPTIONS]


@pytest.fixture(scope="module")
def whole(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    """Chance on all records."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return evaluate(out, *asked(place)), out


@pytest.fixture(scope="module")
def part(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    """Chance on a sample, in parts of 20 images."""
    out = tmp_path_factory.mktemp("part") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.results.references.SAMPLE", LIMIT)
        patch.setattr("harness.results.part_files.BLOCK", 20)
        return evaluate(out, *asked(place)), out


def scores(out: Path, reference: str, name: str = HEADLINE, method: str = "layercam") -> dict[str, float]:
    return {row["image"]: row["value"] for row in score_rows(out, reference, method) if row["metric"] == name}


@cache
def score_rows(out: Path, reference: str, method: str = "layercam") -> list[dict[str, Any]]:
    """All metrics of one reference and method, in a folder that no test changes."""
    return read_rows(out, "scores", reference=reference, method=method)


def described(out: Path) -> dict[str, tuple[str, str]]:
    """Image -> (class, patient), in the order of the manifest."""
    rows = [row for row in score_rows(out, "observed") if row["metric"] == HEADLINE]
    return {row["image"]: (row["class"], row["group"]) for row in rows}


# Chance on a sample


def test_only_the_sample_has_chance_rows(part: tuple[Evaluation, Path]) -> None:
    _, out = part
    images = described(out)
    classes, patients = zip(*images.values(), strict=True)
    codes = [tiny_graphs.CLASSES.index(name) for name in classes]
    expected = {list(images)[row] for row in sampled(list(images), codes, patients, 0, LIMIT)}
    assert set(scores(out, "chance")) == expected
    assert len(expected) == LIMIT - 1  # 24, 24 and all 11 of the rare class
    assert len(scores(out, "observed")) == PATIENTS * EACH


def test_chance_of_the_sample_is_that_of_derangements_within_it(part: tuple[Evaluation, Path]) -> None:
    """Witness: the stored maps, one derangement after the other."""
    _, out = part
    images = described(out)
    own = {name: images[name] for name in scores(out, "chance")}
    names = list(own)
    classes, patients = zip(*own.values(), strict=True)
    partners = derangements(names, [tiny_graphs.CLASSES.index(name) for name in classes], patients, 3)
    before, after = (
        {image: one for (image, _), one in maps_of(out, checkpoint=key, method="layercam", draw=0).items()}
        for key in ("before", "after")
    )
    draws = [
        pair_metrics(
            np.stack([before[name] for name in names]), np.stack([after[names[j]] for j in draw]), size=(16, 16)
        ).column("soft_iou")[0]
        for draw in partners
    ]
    found = scores(out, "chance", "soft_iou")
    expected = [
        np.mean(values[np.isfinite(values)]) if np.isfinite(values).any() else np.nan for values in np.transpose(draws)
    ]
    np.testing.assert_allclose([found[name] for name in names], expected, rtol=1e-6)


def test_sample_and_scores_depend_neither_on_blocks_nor_on_the_order_of_the_images(
    place: Path, part: tuple[Evaluation, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, out = part
    header, *rows = (place / "images" / "manifest.csv").read_text().splitlines()
    turned = place / "images" / "turned.csv"
    turned.write_text("\n".join([header, *rows[::-1]]))
    monkeypatch.setattr("harness.results.references.SAMPLE", LIMIT)
    again = evaluate(tmp_path / "out", *asked(place, "turned.csv"))
    for reference in ("observed", "chance"):
        for name in STABILITY:
            np.testing.assert_equal(scores(tmp_path / "out", reference, name), scores(out, reference, name))
    assert metric(again, HEADLINE).index.value == pytest.approx(metric(result, HEADLINE).index.value)


def test_a_part_can_be_computed_alone(part: tuple[Evaluation, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _, out = part
    monkeypatch.setattr("harness.results.references.SAMPLE", LIMIT)
    monkeypatch.setattr("harness.results.part_files.BLOCK", 20)
    stored, samples = restore(read_stored(out), out)
    folder = part_files.Store(out)
    for number, task in enumerate(tasks(stored.plan)):
        collected = read_collected(folder, stored.plan, samples, 2)
        reader = Reader(stored.plan, collected, stored.select, folder)
        scorer = Scorer(reader, 1)
        for block in (4, 1):
            tables = list(scorer.score(task, block))
            rows = [row for table in tables for row in table.to_pylist()]
            assert repr(rows) == repr(folder.read("scores", [reader.parts(number)[block]]).to_pylist())


def test_a_sampled_mean_weighs_the_classes_as_all_compared_images_do(part: tuple[Evaluation, Path]) -> None:
    """Witness: one image at a time. Two large classes are drawn from, the rare one is whole."""
    result, out = part
    classes = {image: name for image, (name, _) in described(out).items()}
    chance, observed, floor = scores(out, "chance"), scores(out, "observed"), floor_of(out)
    compared, drawn = Counter(classes.values()), Counter(classes[image] for image in chance)
    weights = {image: compared[classes[image]] / drawn[classes[image]] for image in chance}
    assert sorted(drawn.values()) == [11, 24, 24]
    for scope in ("all", *drawn):
        own = [image for image in chance if scope in ("all", classes[image])]
        found = metric(result, HEADLINE, scope=scope)
        np.testing.assert_allclose(np.float64(found.chance.mean), weighted(own, chance, weights), rtol=1e-9)
        complete = [image for image in own if np.isfinite([of[image] for of in (observed, chance, floor)]).all()]
        means = [weighted(complete, of, weights) for of in (observed, chance, floor)]
        indexed = [found.index.observed, found.index.chance, found.index.floor]
        np.testing.assert_allclose(np.array(indexed, float), means, rtol=1e-9)
        assert found.index.n == len(complete)
        assert found.index.sampled == (None if drawn[scope] == compared[scope] != 0 else len(own))
    unweighted = weighted(list(chance), chance, dict.fromkeys(chance, 1.0))
    assert metric(result, HEADLINE).chance.mean != pytest.approx(unweighted, rel=1e-3)  # the check can fail


def weighted(images: list[str], values: dict[str, float], weights: dict[str, float]) -> float:
    defined = [image for image in images if np.isfinite(values[image])]
    total = sum(weights[image] for image in defined)
    return sum(weights[image] * values[image] for image in defined) / total if total else np.nan


def floor_of(out: Path) -> dict[str, float]:
    rows = [row for row in score_rows(out, "jitter") if row["metric"] == HEADLINE]
    found: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        found[row["image"]] += [row["value"]] if np.isfinite(row["value"]) else []
    return {image: float(np.mean(values)) if values else np.nan for image, values in found.items()}


def test_sampled_chance_is_near_the_chance_of_all(
    whole: tuple[Evaluation, Path], part: tuple[Evaluation, Path]
) -> None:
    for name in ("iou_top20", "soft_iou", "pearson", "js_divergence"):
        one, other = (metric(result, name) for result, _ in (whole, part))
        spread = np.nanstd(list(scores(whole[1], "chance", name).values()))
        assert other.chance.mean == pytest.approx(one.chance.mean, abs=4 * spread / np.sqrt(LIMIT))
        assert other.estimate == one.estimate
        assert other.floor == one.floor
        assert one.index.sampled is None


@pytest.mark.parametrize(("n", "sampled", "code"), [(4090, 4096, 0), (3900, 4096, 3), (4090, None, 3)])
def test_a_gate_counts_what_the_sample_lost_and_not_what_was_not_drawn(n: int, sampled: int | None, code: int) -> None:
    """At most 1 % may be undefined: 6 of 4,096 drawn images are, 196 are too many, and so are 5,910 of 10,000."""
    index = made_results.summary().index.model_copy(update={"n": n, "sampled": sampled})
    result = made_results.evaluation([made_results.summary(n=10_000, index=index)])
    text = (
        f'format = 1\n[[rule]]\nmetric = "{HEADLINE}"\nmethod = "{made_results.METHOD}"\n'
        f'layer = "{made_results.LAYER}"\nstatistic = "index"\nmin = 0.1\n'
    )
    assert judge(result, parse_policy(text, "policy.toml")).exit_code == code


# A few metrics at a time


@pytest.mark.slow
def test_reading_some_metrics_at_a_time_changes_no_number(
    part: tuple[Evaluation, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the last digit of bootstrap draws, whose matrix product is of another width."""
    result, out = part
    monkeypatch.setattr("harness.results.references.SAMPLE", LIMIT)
    monkeypatch.setattr("harness.results.part_files.BLOCK", 20)
    for name in ("summarise", "compare_architectures"):
        monkeypatch.setattr(f"harness.evaluation.{name}.HELD", 5 * PATIENTS * EACH)
    again = evaluate(tmp_path, "--from", out)
    assert list(groups_of(range(7), PATIENTS * EACH)) == [(0, 1, 2, 3, 4), (5, 6)]
    one, other = (json.loads(of.model_dump_json(include={"pairs", "study", "checkpoints"})) for of in (result, again))
    for found in (one, other):
        for checkpoint in found["checkpoints"]:
            del checkpoint["file"]
    require_close(one, other)


def require_close(one: object, other: object, where: str = "") -> None:
    """The same keys, texts and, but for the last digits, numbers."""
    if isinstance(one, dict) and isinstance(other, dict):
        assert list(one) == list(other), where
        for key in one:
            require_close(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list) and isinstance(other, list):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            require_close(*pair, f"{where}[{number}]")
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-9, abs=1e-12), where
    else:
        assert one == other, where


def test_scores_of_some_metrics_are_columns_of_those_of_all(part: tuple[Evaluation, Path]) -> None:
    _, out = part
    stored, samples = restore(read_stored(out), out)
    collected = read_collected(part_files.Store(out), stored.plan, samples, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.results.part_files.BLOCK", 20)
        reader = Reader(stored.plan, collected, stored.select, part_files.Store(out))
        number = next(n for n, task in enumerate(tasks(stored.plan)) if task.kind == "pair")
        for reference in ("observed", "chance"):
            every, some = reader.scores(number, reference), reader.scores(number, reference, ["ssim", "peak_shift"])
            places = [every.names.index(name) for name in some.names]
            np.testing.assert_array_equal(some.values, every.values[:, places])
            np.testing.assert_array_equal(some.codes, every.codes[:, places])


# Ten million rows

VAST = 84_001  # images: 26 numbers observed and 34 of the floor for each of two methods


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_ten_million_rows_are_summarised_within_two_gigabytes(tmp_path: Path) -> None:
    """0.7 GB were measured. Every number that has a closed form, or can be taken from the sample, is the right one."""
    vast_studies.write(tmp_path, VAST)
    parts = (tmp_path / "scores").iterdir()
    assert sum(pq.read_metadata(part).num_rows for part in parts) > 10_000_000
    line = [sys.executable, "-m", "tests.vast_studies", str(tmp_path), str(VAST), "300"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    found = json.loads(done.stdout)
    print(f"{found['peak'] / 1e6:.2f} GB")
    assert 1e5 < found["peak"] < 2e6  # KiB
    pair = PairResult.model_validate(found["pair"])
    for method in ("layercam", "gradcam++"):
        for name in ("iou_top20", "centroid_shift", "area50_shift"):
            require_vast(next(i for i in pair.metrics if (i.scope, i.metric, i.method) == ("all", name, method)))
    compared = {item["metric"]: item["differences"][0] for item in found["study"]["comparisons"]}
    assert compared["ssim"]["value"] == pytest.approx(0, abs=1e-12)
    assert compared["ssim"]["low"] < 0 < compared["ssim"]["high"]
    assert compared["ssim"]["n"] == VAST


def require_vast(item: MetricSummary) -> None:
    """Mean, spread and quantiles of an even grid on 0..1, and the interval of the mean of patients' sums."""
    plan, samples = vast_studies.planned(Path(), VAST)
    task = next(task for task in tasks(plan) if task.kind == "pair" and task.method == item.method)
    assert (item.n, item.n_patients, item.undefined) == (VAST, VAST // 2 + 1, {})
    assert item.estimate.mean == pytest.approx(0.5)
    assert item.sd == pytest.approx(math.sqrt((VAST**2 - 1) / 12) / VAST * math.sqrt(VAST / (VAST - 1)))
    for share, value in ((0.05, item.q05), (0.25, item.q25), (0.5, item.median), (0.95, item.q95)):
        assert value == pytest.approx((share * (VAST - 1) + 0.5) / VAST)
    own = vast_studies.values(np.arange(VAST), VAST, task, "observed")[:, COLUMNS.index(item.metric)]
    sums = np.add.reduceat(own - 0.5, np.arange(0, VAST, 2))  # of patients
    error = math.sqrt((sums**2).sum()) / VAST
    assert (item.estimate.low, item.estimate.high) == pytest.approx((0.5 - 1.96 * error, 0.5 + 1.96 * error), abs=error)
    assert item.floor.mean == pytest.approx(0.875)
    drawn = vast_studies.drawn_for_chance(samples)
    chance = vast_studies.values(drawn, VAST, task, "chance")[:, STABILITY.index(item.metric)]
    floor = vast_studies.values(drawn, VAST, task, "jitter")[:, STABILITY.index(item.metric)]
    observed, chance, floor = (by_class(drawn, values) for values in (own[drawn], chance, floor))
    assert item.chance.mean == pytest.approx(chance)
    assert item.index.sampled == len(drawn)
    if item.stable_is == "high":
        assert item.index.value == pytest.approx((observed - chance) / (floor - chance))


def by_class(drawn: np.ndarray, values: np.ndarray) -> float:
    """The mean over the classes (record modulo 5), each as often as it is among all."""
    sizes = np.bincount(np.arange(VAST) % 5)
    return float(sum(sizes[k] * values[drawn % 5 == k].mean() for k in range(5)) / VAST)

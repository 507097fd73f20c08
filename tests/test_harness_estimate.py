"""`evaluate --dry-run`: counts that a run confirms, and nothing written."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.common.errors import InputError
from harness.evaluation.estimate import Estimate, Measured, Work, duration, work_of
from harness.images.dataset import Sample
from harness.results import part_files
from harness.results.vocabulary import STABILITY
from tests import made_studies, tiny_graphs
from tests.tiny_graphs import evaluate, read_rows

pytestmark = pytest.mark.usefixtures("in_brief")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("estimate")
    for name, nudge in (("before", 0.0), ("after", 0.3)):
        tiny_graphs.write_graph(folder / f"{name}.onnx", 0, nudge=nudge, balanced=True)
    tiny_graphs.write_images(folder / "images", 24, 2, exposure=0.6)
    return folder


def asked(place: Path, *options: object) -> list[str]:
    line = ["--before", place / "before.onnx", "--after", place / "after.onnx"]
    line += ["--data", place / "images" / "manifest.csv", "--select", "all", "--map-size", 16, *options]
    return list(map(str, line))


def dry_run(*line: object) -> str:
    found = CliRunner().invoke(cli, ["evaluate", "--dry-run", *map(str, line)], catch_exceptions=False)
    assert found.exit_code == 0
    return found.output


def counts(text: str) -> dict[str, int]:
    lines = [line.strip().split("  ", 1) for line in text.splitlines() if line.startswith("  ") and "(" not in line]
    return {name: int(rest.split()[0].replace(",", "")) for name, rest in lines}


def test_more_threads_than_a_block_has_images_for_measure_the_same_maps(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_files, "BLOCK", 16)
    one, many = (dry_run(*asked(place, "--threads", threads)) for threads in (1, 64))
    assert re.findall(r"[\d.]+ MB", one) == re.findall(r"[\d.]+ MB", many) != []


@pytest.mark.parametrize("options", [[], ["--jitter", 2, "--chance", 3], ["--jitter", 0, "--method", "gradcam"]])
def test_the_counts_are_those_of_a_run_in_which_every_image_is_compared(
    place: Path, tmp_path: Path, options: list
) -> None:
    text = dry_run(*asked(place, *options, "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert text.startswith("48 images of 24 patients, 2 checkpoints, 1 pair, 1 layer")
    evaluate(tmp_path / "out", *asked(place, *options))
    methods = 1 if "gradcam" in options else 2
    passes = Counter(row["draw"] > 0 for row in read_rows(tmp_path / "out", "maps"))
    compared = Counter(
        row["reference"] for row in read_rows(tmp_path / "out", "scores") if row["metric"] == STABILITY[0]
    )
    partners = 3 if 3 in options else 10
    if not options:  # by budget: one copy per image, and another where a map is empty
        assert passes[True] // methods > 48
        passes[True] = 48 * methods
    expected = {
        "passes of images": passes[False] // methods,
        "passes of noisy copies": passes[True] // methods,
        "comparisons of pairs": compared["observed"],
        "comparisons with noisy copies": passes[True],
        "comparisons with unrelated images": compared["chance"] * partners,
    }
    assert counts(text) == {name: number for name, number in expected.items() if number}


@pytest.mark.parametrize("methods", [("layercam", "ablation"), ("ablation",)])
def test_methods_of_several_passes_are_counted_on_their_sample(
    place: Path, tmp_path: Path, methods: tuple[str, ...]
) -> None:
    asked_for = [argument for name in methods for argument in ("--method", name)]
    line = asked(place, *asked_for, "--sample", 9, "--jitter", 1, "--chance", 2)
    found = counts(dry_run(*line, "--out", tmp_path / "out"))
    evaluate(tmp_path / "out", *line)
    maps = Counter((row["method"], row["draw"]) for row in read_rows(tmp_path / "out", "maps"))
    compared = Counter(
        row["reference"] for row in read_rows(tmp_path / "out", "scores") if row["metric"] == STABILITY[0]
    )
    assert found["maps of ablation"] == maps["ablation", 0] + maps["ablation", 1] == 2 * 9 * 2
    assert found["comparisons of pairs"] == compared["observed"]
    assert found["comparisons with noisy copies"] == compared["jitter"]
    assert found["comparisons with unrelated images"] == 2 * compared["chance"]


def test_a_finished_part_is_one_that_resuming_keeps(place: Path, tmp_path: Path) -> None:
    line = asked(place)
    evaluate(tmp_path / "out", *line)
    (tmp_path / "out" / "evaluation.json").unlink()
    next((tmp_path / "out" / "scores").glob("part-*")).unlink()
    before = sorted(tmp_path.rglob("*"))
    text = dry_run(*line, "--resume", "--out", tmp_path / "out")
    assert "--resume keeps 4 of 4 parts of maps" in text
    assert "--resume keeps 7 of 8 parts of scores" in text
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(InputError, match="was begun with another options: jitter"):
        evaluate(tmp_path / "out", *line, "--resume", "--dry-run", "--jitter", 3)


def test_it_is_refused_beside_from(place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--dry-run cannot be given beside --from"):
        evaluate(tmp_path / "out", "--from", place, "--dry-run")


def test_a_plan_of_several_pairs_counts_every_noisy_copy_once(tmp_path: Path) -> None:
    """By budget a checkpoint in two pairs may see all images, one in a single pair sees half of them."""
    plan = made_studies.made_plan(tmp_path, 2, ["x", "y"], jitter=1)
    plan = replace(plan, options=plan.options.changed(jitter=None, chance=None))
    samples = [sample(n) for n in range(4000)]
    work = {item.what: item for item in work_of(plan, samples, Measured([1.0] * 4, 0.5, 0.25, 100))}
    assert work["passes of noisy copies"].times == 2 * 1500
    assert work["comparisons with unrelated images"].times == 2 * len(plan.layers) * len(plan.options.methods) * 4_500
    assert work["comparisons with unrelated images"].seconds == 0.25 * work["comparisons with unrelated images"].times


def sample(number: int) -> Sample:
    return Sample(f"{number}.png", Path(f"{number}.png"), (number % 2,), str(number))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "< 1 s"), (1, "1 s"), (89.4, "89 s"), (120, "2 min"), (5399, "90 min"), (5400, "1.5 h")]
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_total_is_the_sum() -> None:
    found = Estimate("head", [Work("a", 10, 60.0), Work("b", 5, 60.0)], 3_000_000)
    assert list(found.lines())[-1] == "about 2 min on this machine, beside start, summary and report; 3.0 MB"

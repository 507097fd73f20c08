"""Evaluations that meet bad luck: too little data, degenerate maps, odd names, full disks, absent providers; memory."""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import harness.cli
from harness.common.errors import CannotEvaluateError, InputError
from harness.evaluation import explain
from harness.images.loading import load_view
from harness.images.view import View
from harness.report import heatmaps
from harness.report.text_tables import markdown
from harness.results import part_files
from harness.results.schema import SCHEMA, Evaluation
from harness.results.vocabulary import STABILITY
from tests import tiny_graphs
from tests.json_schema import validator
from tests.tiny_graphs import evaluate, metric, read_rows

BRIEF = ["--map-size", 16, "--chance", 2, "--jitter", 1, "--method", "layercam", "--select", "all"]
NUMBERS = {
    "mean", "low", "high", "value", "observed", "chance", "floor", "difference", "low90", "high90", "p", "p_holm",
    "first", "second", "probability",
}  # fmt: skip


@pytest.fixture
def _in_brief() -> Iterator[None]:
    with tiny_graphs.in_brief():
        yield


def slow(case: object) -> object:
    """A case for the long suite only."""
    return pytest.param(case, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Graphs with all kinds of maps, and images."""
    folder = tmp_path_factory.mktemp("faults")
    kinds: dict[str, dict[str, Any]] = {
        "before": {"balanced": True},
        "after": {"balanced": True, "nudge": 0.3, "phase": "finetune"},
        "bright": {"head": 0.5},
        "brighter": {"head": 0.5, "nudge": 0.3},
        "zero": {"head": -0.5},
        "constant": {"head": 0.5, "scale": 0.0},
        "nan": {"bias": float("nan")},
        "point": {"tensors": ["pooled"], "head": 0.5},
    }
    for name, fields in kinds.items():
        tiny_graphs.write_graph(folder / f"{name}.onnx", 0, **fields)
    manifest = tiny_graphs.write_images(folder / "images", patients=24, each=1, exposure=0.6)
    tiny_graphs.label_as(folder / "before.onnx", manifest)
    return folder


def asked(place: Path, data: Path | None = None, before: str = "before", after: str = "after") -> list[object]:
    """The arguments that name two graphs and their images."""
    named = ["--before", place / f"{before}.onnx", "--after", place / f"{after}.onnx"]
    return [*named, "--data", data or place / "images" / "manifest.csv"]


def listed(folder: Path, place: Path, rows: list[dict[str, str]], name: str = "manifest.csv") -> list[object]:
    """A manifest of images of `place`."""
    manifest = tiny_graphs.write_manifest(folder / name, rows)
    return ["--data", manifest, "--root", place / "images"]


def images(count: int, **fields: Callable[[int], str]) -> list[dict[str, str]]:
    return [{"file": f"image-{n:03d}.png", **{name: of(n) for name, of in fields.items()}} for n in range(count)]


def outcome(
    arguments: list[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `python -m harness evaluate`, in this process."""
    monkeypatch.setattr(sys, "argv", ["harness", "evaluate", *map(str, arguments), "--quiet"])
    with pytest.raises(SystemExit) as ended:
        harness.cli.main()
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def require_reasons(out: Path) -> None:
    """`evaluation.json` is strict, fits its schema, and every number that is null has a reason beside it."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in evaluation.json")

    content = json.loads((out / "evaluation.json").read_text(), parse_constant=refuse)
    missing = list(_without_reason(content, "result"))
    assert not missing, missing[:5]
    validator(SCHEMA.read_text(encoding="utf-8")).validate(content)


def _without_reason(value: object, where: str) -> Iterator[str]:
    if isinstance(value, dict):
        null = [name for name in NUMBERS & value.keys() if value[name] is None and "reason" in value]
        if null and not value["reason"]:
            yield f"{where}.{null[0]}"
        if "sd" in value:
            yield from _without_count(value, where)
        for name, inner in value.items():
            yield from _without_reason(inner, f"{where}.{name}")
    if isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _without_reason(inner, f"{where}[{number}]")


def _without_count(item: dict[str, Any], where: str) -> Iterator[str]:
    """A spread needs two images and a quantile one; where they are missing, `undefined` says why."""
    if (item["sd"] is None) != (item["n"] < 2):
        yield f"{where}.sd"
    if any((item[name] is None) != (item["n"] == 0) for name in ("q05", "q25", "median", "q75", "q95")):
        yield f"{where}.median"


# Too little data


@pytest.mark.usefixtures("_in_brief")
def test_one_patient_has_neither_chance_nor_intervals(place: Path, tmp_path: Path) -> None:
    data = listed(tmp_path, place, images(6, **{"class": lambda _: "dark", "group": lambda _: "p"}))
    result = evaluate(tmp_path / "out", *asked(place)[:4], *data, *BRIEF)
    assert result.patients == 1
    for item in result.pairs[0].metrics:
        assert item.estimate.low is None
        assert item.estimate.reason == ("few_patients" if item.n else "no_images")
        if item.metric in STABILITY:
            assert item.chance is not None
            assert item.index is not None
            assert item.chance.mean is None
            assert (item.index.value, item.index.n) == (None, 0)
    assert {row["reason"] for row in read_rows(tmp_path / "out", "scores", reference="chance")} == {"no_partner"}
    require_reasons(tmp_path / "out")


@pytest.mark.usefixtures("_in_brief")
def test_a_class_with_one_image_is_no_obstacle(place: Path, tmp_path: Path) -> None:
    rows = images(22, **{"class": lambda n: "left" if n == 7 else "bright" if n % 2 else "dark"})
    result = evaluate(tmp_path / "out", *asked(place)[:4], *listed(tmp_path, place, rows), *BRIEF)
    alone = metric(result, "iou_top20", scope="left")
    assert alone.n + sum(alone.undefined.values()) == 1
    assert alone.sd is None
    assert alone.chance is not None
    assert alone.chance.mean is None
    assert metric(result, "iou_top20").estimate.mean is not None
    assert result.checkpoints[0].consistency[-1].reason == "too_few_maps"
    require_reasons(tmp_path / "out")


@pytest.mark.usefixtures("_in_brief")
def test_without_chance_and_jitter_there_is_no_index(place: Path, tmp_path: Path) -> None:
    result = evaluate(tmp_path, *asked(place), *BRIEF, "--chance", 0, "--jitter", 0)
    assert result.chance_draws == 0
    assert {row["reference"] for row in read_rows(tmp_path, "scores")} == {"observed"}
    assert all(item.chance is None and item.floor is None and item.index is None for item in result.pairs[0].metrics)
    require_reasons(tmp_path)


def test_nothing_selected_can_be_repaired_as_the_sentence_says(place: Path, tmp_path: Path) -> None:
    """The sentence says: choose --select all. Doing that into the same folder must work."""
    data = listed(tmp_path, place, images(6, **{"class": lambda _: "left"}))
    line = [*asked(place)[:4], *data, *BRIEF[:-2]]
    with pytest.raises(CannotEvaluateError, match=r"none of the 6 images is selected .* choose --select agree or all"):
        evaluate(tmp_path / "out", *line)
    with tiny_graphs.in_brief():
        assert evaluate(tmp_path / "out", *line, "--select", "all").pairs[0].selected == 6


# Degenerate maps


def test_maps_that_are_zero_everywhere_are_counted_and_drawn(place: Path, tmp_path: Path) -> None:
    result = evaluate(tmp_path, *asked(place, before="zero", after="zero"), *BRIEF, "--layer", "late")
    found = metric(result, "iou_top20")
    assert (found.n, found.undefined) == (0, {"empty_union": 24})
    assert metric(result, "pearson").undefined == {"empty_map": 24}
    assert found.estimate.mean is None
    require_reasons(tmp_path)


def test_evidence_that_vanished_counts_as_drift(place: Path, tmp_path: Path) -> None:
    with tiny_graphs.in_brief():
        result = evaluate(tmp_path, *asked(place, before="bright", after="zero"), *BRIEF, "--layer", "late")
    found = metric(result, "iou_top20")
    assert (found.n, found.vanished, found.estimate.mean, found.undefined) == (24, 24, 0.0, {})
    assert metric(result, "centroid_shift").undefined == {"empty_map": 24}
    require_reasons(tmp_path)


@pytest.mark.parametrize(("graph", "layer"), [("constant", "late"), ("point", "pooled")])
def test_constant_maps_and_layers_of_one_position(place: Path, tmp_path: Path, graph: str, layer: str) -> None:
    """They overlap wholly with themselves; what needs variation is undefined; nothing stands out from chance."""
    line = [*asked(place, before=graph, after=graph), *BRIEF, "--layer", layer]
    with tiny_graphs.in_brief():
        result = evaluate(tmp_path, *line)
    assert metric(result, "soft_iou").estimate.mean == pytest.approx(1)
    assert metric(result, "pearson").undefined == {"constant_map": 24}
    assert metric(result, "peak_shift").undefined == {"constant_map": 24}
    index = metric(result, "soft_iou").index
    assert index is not None
    assert (index.value, index.reason) == (None, "floor_not_separated")
    require_reasons(tmp_path)


def test_undefined_means_do_not_blame_the_number_of_patients(place: Path, tmp_path: Path) -> None:
    """24 patients are enough: the mean is undefined because every map is empty."""
    with tiny_graphs.in_brief():
        result = evaluate(tmp_path, *asked(place, before="zero", after="zero"), *BRIEF, "--layer", "late")
    estimate = metric(result, "iou_top20").estimate
    assert estimate.mean is None
    assert estimate.reason not in (None, "few_patients")


@pytest.mark.parametrize("after", ["nan", "before"])
def test_a_model_whose_logits_are_nan_cannot_be_evaluated(place: Path, tmp_path: Path, after: str) -> None:
    """NaN logits are no prediction of the first class, and no images that could not be read."""
    before = "before" if after == "nan" else "nan"
    line = [*asked(place, before=before, after=after), *BRIEF[:-2]]
    with tiny_graphs.in_brief(), pytest.raises((CannotEvaluateError, InputError), match=r"NaN|finite"):
        evaluate(tmp_path, *line)


# Names


ODD = [
    "a,b.png",
    'quo"te.png',
    "tab\tinside.png",
    "=SUM(A1).png",
    "$x$.png",
    "$\\frac$.png",
    "<script>alert(1).png",
    "100% {}.png",
    "t\u00fcr \u00c6.png",
    "-leading.png",
]


def test_odd_file_names_come_through_to_every_file(place: Path, tmp_path: Path) -> None:
    rows = []
    for number, name in enumerate(ODD):
        source = place / "images" / f"image-{number:03d}.png"
        (tmp_path / name).write_bytes(source.read_bytes())
        rows.append({"file": name, "class": "dark", "group": f"={name}"})
    manifest = tiny_graphs.write_manifest(tmp_path / "manifest.csv", rows)
    files = asked(place, manifest, before="bright", after="brighter")
    result = evaluate(tmp_path / "out", *files, *BRIEF, "--layer", "late")
    assert (result.images, result.unreadable, result.patients) == (len(ODD), {}, len(ODD))
    for kind in ("predictions", "scores", "maps"):
        assert {row["image"] for row in read_rows(tmp_path / "out", kind)} == set(ODD)
    assert (tmp_path / "out" / "contact-sheet.png").stat().st_size > 10_000


def tables_of(text: str) -> Iterator[list[str]]:
    """The tables of a Markdown text, each as its lines."""
    table: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            table.append(line)
        elif table:
            yield table
            table = []


def cells(line: str) -> int:
    return line.replace("\\|", "").count("|")


MARKUP = ["<script>x</script>", "a|b", "new\nline"]


@pytest.fixture(scope="module")
def marked_up(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A result folder and what was printed, of networks, files and classes with markup in their names."""
    folder = tmp_path_factory.mktemp("markup")
    files: list[object] = []
    for option, name in (("--before", "a|b.onnx"), ("--after", "new\nline.onnx")):
        graph = tiny_graphs.write_graph(folder / name, 0, architecture="<script>x</script>\nNet", classes=MARKUP)
        files += [option, graph]
    rows = images(24, **{"class": lambda n: str(n % 3), "group": str})  # by index: no cell may hold a line break
    data = listed(folder, place, rows)
    with tiny_graphs.in_brief(), redirect_stdout(StringIO()) as printed:
        evaluate(folder / "out", *files, *data, *BRIEF)
    return folder / "out", printed.getvalue()


def test_classes_with_markup_come_through(marked_up: tuple[Path, str]) -> None:
    result = Evaluation.read(marked_up[0])
    assert result.classes == MARKUP
    assert {item.scope for item in result.pairs[0].metrics} == {"all", *MARKUP}
    assert {row["class"] for row in read_rows(marked_up[0], "scores")} == set(MARKUP)
    require_reasons(marked_up[0])


def test_line_breaks_in_names_do_not_tear_the_table_on_the_terminal(marked_up: tuple[Path, str]) -> None:
    lines = marked_up[1].splitlines()
    assert not any(line.startswith(("Net", "line")) for line in lines)
    assert any("new line" in line for line in lines)


def test_bars_in_names_do_not_tear_the_tables_of_the_report(marked_up: tuple[Path, str]) -> None:
    tables = list(tables_of(markdown(Evaluation.read(marked_up[0]))))
    assert len(tables) >= 2
    for table in tables:
        assert len({cells(line) for line in table}) == 1, table[:3]


def test_names_are_no_markup_in_the_report(marked_up: tuple[Path, str]) -> None:
    assert "<script>" not in markdown(Evaluation.read(marked_up[0]))


# Images that cannot be read


@pytest.mark.usefixtures("_in_brief")
def test_unreadable_images_among_readable_ones_have_no_numbers(place: Path, tmp_path: Path) -> None:
    rows = images(24, **{"class": lambda _: "dark"})
    for number in (0, 9):
        rows[number]["file"] = f"gone-{number}.png"
    result = evaluate(tmp_path / "out", *asked(place)[:4], *listed(tmp_path, place, rows), *BRIEF)
    assert set(result.unreadable) == {"gone-0.png", "gone-9.png"}
    assert all("no such file" in sentence for sentence in result.unreadable.values())
    assert result.pairs[0].selected == 22
    for row in read_rows(tmp_path / "out", "predictions"):
        assert (row["logits"] is None) == (row["error"] is not None) == (row["image"] in result.unreadable)
    assert not {row["image"] for row in read_rows(tmp_path / "out", "scores")} & set(result.unreadable)
    require_reasons(tmp_path / "out")


def unread_from(checkpoint: int, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From then on, the checkpoints cannot read the image."""
    looks = itertools.count()

    def read(path: Path, *how: Any, **asked: Any) -> View:
        if path.name == image and next(looks) >= checkpoint:
            raise InputError(f"{path}: vanished")
        return load_view(path, *how, **asked)

    monkeypatch.setattr(explain, "load_view", read)


@pytest.mark.usefixtures("_in_brief")
@pytest.mark.parametrize(
    ("select", "image"),
    [("all", "image-004.png"), ("true-positive", "image-001.png"), ("true-positive", "image-002.png")],
)
def test_an_image_that_only_the_second_checkpoint_could_not_read_has_no_numbers_at_all(
    place: Path, tmp_path: Path, select: str, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for checkpoint in (0, 1):
        unread_from(checkpoint, image, monkeypatch)
        results.append(evaluate(tmp_path / str(checkpoint), *asked(place), *BRIEF[:-1], select))
    throughout, later = results
    assert list(later.unreadable) == [image] == list(throughout.unreadable)
    assert later.pairs == throughout.pairs
    assert [item.quality for item in later.checkpoints] == [item.quality for item in throughout.checkpoints]
    assert repr(read_rows(tmp_path / "1", "scores")) == repr(read_rows(tmp_path / "0", "scores"))


@pytest.mark.usefixtures("_in_brief")
def test_maps_that_lost_an_image_are_refused(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    evaluate(out, *asked(place), *BRIEF)
    part = out / "maps" / "part-00001.parquet"
    table = pq.read_table(part, schema=part_files.SCHEMAS["maps"])
    pq.write_table(table.filter(pc.not_equal(table["record"], 4)), part)
    with pytest.raises(InputError, match=r"out: its maps hold none of 'image-004.png', which was read; evaluate anew"):
        evaluate(out, "--from", out, "--seed", 7)


def test_no_readable_image_at_all(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"file": f"gone-{n}.png", "class": "dark", "group": n} for n in range(5)]
    line = [*asked(place)[:4], *listed(tmp_path, place, rows), *BRIEF, "--out", tmp_path / "out"]
    code, out, err = outcome(line, monkeypatch, capsys)
    assert (code, out) == (3, "")
    assert "none of the 5 images could be read; first: " in err
    assert "gone-0.png: no such file" in err
    assert len(err.strip().splitlines()) == 1


def test_a_folder_of_real_dicom_files(shared: Path, place: Path, tmp_path: Path) -> None:
    pytest.importorskip("gdcm")
    with tiny_graphs.in_brief():
        result = evaluate(tmp_path, *asked(place, shared / "dicom"), *BRIEF)
    assert (result.images, result.unreadable) == (2, {})  # the third is the first once more, in another compression
    assert result.pairs[0].selected == 2
    assert {item.scope for item in result.pairs[0].metrics} <= {"all", *tiny_graphs.CLASSES}
    require_reasons(tmp_path)


# Providers, disks, folders


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_an_absent_provider_touches_nothing(
    place: Path, tmp_path: Path, provider: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with tiny_graphs.in_brief():
        evaluate(tmp_path / "out", *asked(place), *BRIEF)
    held = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    capsys.readouterr()
    line = [*asked(place), *BRIEF, "--provider", provider, "--out", tmp_path / "out"]
    code, out, err = outcome(line, monkeypatch, capsys)
    assert (code, out) == (3, "")
    assert f"provider '{provider}' was asked for, but" in err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == held


FULL = Path("/dev/full")
ROOM = "make room and run the same command with --resume"


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.usefixtures("_in_brief")
@pytest.mark.parametrize(
    "partial",
    [
        "maps/part-00001.parquet.partial",
        slow("predictions/part-00001.parquet.partial"),
        slow("scores/part-00002.parquet.partial"),
        "evaluation.json.partial",
        slow("evaluation.json.partial"),
    ],
)
def test_a_full_disk_is_a_sentence_and_the_run_can_go_on(
    place: Path, tmp_path: Path, partial: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is written through the link meets the real error of the system: no space left on device."""
    evaluate(tmp_path / "whole", *asked(place), *BRIEF)
    out = tmp_path / "out"
    evaluate(out, *asked(place), *BRIEF)
    (out / "evaluation.json").unlink()
    for kind in part_files.SCHEMAS:
        part = out / kind / Path(partial).with_suffix("").name
        part.unlink(missing_ok=True)
    (out / partial).symlink_to(FULL)
    capsys.readouterr()
    line = [*asked(place), *BRIEF, "--resume", "--out", out]
    code, printed, err = outcome(line, monkeypatch, capsys)
    assert (code, printed) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert "no space left on" in err.lower()
    assert ROOM in err
    (out / partial).unlink(missing_ok=True)
    result = evaluate(out, *asked(place), *BRIEF, "--resume")
    assert result.pairs == Evaluation.read(tmp_path / "whole").pairs


@pytest.mark.usefixtures("_in_brief")
def test_a_disk_that_is_full_when_the_contact_sheet_is_drawn(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All numbers are there by then: a sentence that says how to go on, like for every other file."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(heatmaps, "contact_sheet", full)
    code, _, err = outcome([*asked(place), *BRIEF, "--out", tmp_path], monkeypatch, capsys)
    assert "Traceback" not in err
    assert code == 0 or ROOM in err


@pytest.mark.parametrize("where", ["under a file", "on /proc"])
def test_a_folder_that_cannot_be_made(
    place: Path, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("precious")
    out = Path("/proc/drift") if where == "on /proc" else tmp_path / "file" / "drift"
    code, printed, err = outcome([*asked(place), *BRIEF, "--out", out], monkeypatch, capsys)
    assert (code, printed) == (2, "")
    assert str(out) in err
    assert where == "on /proc" or f"{tmp_path / 'file'} is a file; give another folder with --out" in err
    assert len(err.strip().splitlines()) == 1
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("kind", ["maps", slow("scores"), slow("predictions")])
def test_folders_that_only_bear_our_names_are_not_deleted(place: Path, tmp_path: Path, kind: str) -> None:
    """A folder `maps` without plan.json beside it was written by somebody else."""
    precious = tmp_path / kind / "holiday.png"
    precious.parent.mkdir()
    precious.write_text("precious")
    with pytest.raises(InputError, match="which no evaluation wrote"):
        evaluate(tmp_path, *asked(place), *BRIEF)
    assert precious.read_text() == "precious"


def test_a_foreign_report_is_not_deleted(place: Path, tmp_path: Path) -> None:
    (tmp_path / "report.md").write_text("my thesis")
    with pytest.raises(InputError, match="which no evaluation wrote"):
        evaluate(tmp_path, *asked(place), *BRIEF)
    assert (tmp_path / "report.md").read_text() == "my thesis"


def test_foreign_files_beside_a_result_are_named(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    code, _, err = outcome([*asked(place), *BRIEF, "--out", tmp_path], monkeypatch, capsys)
    assert code == 2
    assert "holds 'thesis.txt', which no evaluation wrote; give an empty folder with --out" in err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


# Memory


def resident(process: int) -> int:
    """Resident memory of a process in KiB, 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)


def twenty_thousand(folder: Path) -> Path:
    """A manifest of 20,000 names of 200 files."""
    drawn = np.random.default_rng(0)
    rows = []
    (folder / "files").mkdir(parents=True)
    for number in range(200):
        coarse = drawn.uniform(0, 255, (5, 5)).astype(np.float32)
        assert cv2.imwrite(str(folder / "files" / f"{number}.png"), cv2.resize(coarse, (32, 32)).astype(np.uint8))
    for number in range(20_000):
        os.link(folder / "files" / f"{number % 200}.png", folder / f"{number}.png")
        rows.append({"file": f"{number}.png", "class": tiny_graphs.CLASSES[number % 2], "group": f"p{number // 4}"})
    return tiny_graphs.write_manifest(folder / "manifest.csv", rows)


def first_rows(manifest: Path, count: int) -> Path:
    lines = manifest.read_text().splitlines()[: count + 1]
    path = manifest.with_name(f"first-{count}.csv")
    path.write_text("\n".join(lines))
    return path


def watched(folder: Path, arguments: list[object], comparisons: int, images: int) -> dict[str, float]:
    """MiB that an evaluation holds: after 1,000 images, and the most in each of its stages."""
    line = tiny_graphs.command_line("evaluate", *arguments, "--out", "drift", "--quiet")
    folder.mkdir()
    blocks = -(-images // part_files.BLOCK)
    found: dict[str, float] = {}
    with subprocess.Popen(
        line, cwd=folder, env=tiny_graphs.process_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        while process.poll() is None:
            size = resident(process.pid) / 1024
            done = {kind: len(list((folder / "drift" / kind).glob("part-*.parquet"))) for kind in part_files.SCHEMAS}
            if done["predictions"] * part_files.BLOCK >= 1000:
                found.setdefault("after 1,000 images", size)
            stage = "collect" if not done["scores"] else "compare"
            stage = "summarise" if done["scores"] == comparisons * blocks else stage
            found[stage] = max(found.get(stage, 0), size)
            time.sleep(0.05)
        assert process.stderr is not None
        assert process.returncode == 0, process.stderr.read()
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_of_5000_and_of_20000_images_is_alike(place: Path, tmp_path: Path) -> None:
    """Within the large run, collecting stays flat; each stage takes about what it takes for 5,000 images.

    Both are more than the 4,096 images whose maps are held for the chance level.
    """
    manifest = twenty_thousand(tmp_path / "images")
    options = [*BRIEF, "--chance", 1]
    assert tiny_graphs.run(tmp_path, "env", "--warm").returncode == 0
    small, large = (
        watched(tmp_path / str(count), [*asked(place, first_rows(manifest, count)), *options], 3, count)
        for count in (5_000, 20_000)
    )
    for name, held in (("5,000", small), ("20,000", large)):
        print(f"MiB of {name} images:", {stage: round(size) for stage, size in held.items()})
    assert large["collect"] - large["after 1,000 images"] < 100
    for stage in ("collect", "compare", "summarise"):
        assert large[stage] - small[stage] < 100, stage

"""Whole commands on what strangers bring: other headers, colour, files that never end, pictures of too many pixels."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import harness.cli
from harness.common.errors import CannotEvaluateError, InputError
from harness.results.schema import Evaluation
from tests import tiny_graphs
from tests.test_harness_pictures import black_png
from tests.tiny_graphs import read_rows

BRIEF = ["--map-size", 20, "--chance", 0, "--jitter", 0, "--method", "layercam", "--select", "all"]

pytestmark = pytest.mark.usefixtures("in_brief")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two graphs and twelve images."""
    folder = tmp_path_factory.mktemp("foreign")
    for name, seed in (("before", 0), ("after", 1)):
        tiny_graphs.write_graph(folder / f"{name}.onnx", seed)
    tiny_graphs.write_images(folder / "images", patients=6)
    return folder


def graphs(place: Path) -> list[object]:
    return ["--before", place / "before.onnx", "--after", place / "after.onnx"]


def evaluated(
    place: Path, out: Path, data: Path, capsys: pytest.CaptureFixture[str], *more: object
) -> tuple[Evaluation, list[str]]:
    """A result, and what was printed on stderr."""
    arguments = [*graphs(place), "--data", data, "--root", place / "images", *BRIEF, *more]
    return tiny_graphs.evaluate(out, *arguments), capsys.readouterr().err.splitlines()


def code_and_error(
    arguments: list[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Exit code and stderr of `python -m harness`, in this process."""
    monkeypatch.setattr(sys, "argv", ["harness", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        harness.cli.main()
    return int(ended.value.code or 0), capsys.readouterr().err


def foreign(place: Path, folder: Path) -> Path:
    """The manifest as somebody else would write it: other headers, semicolons, no suffix, classes by index."""
    with (place / "images" / "manifest.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    lines = ["\ufeffid;Label;Patient ID;fold"]
    for number, row in enumerate(rows):
        label = tiny_graphs.CLASSES.index(row["class"])
        lines.append(f"{Path(row['file']).stem};{label};{row['group']};{'test' if number < 8 else 'train'}")
    (folder / "foreign.csv").write_text("\r\n".join(lines), encoding="utf-8")
    return folder / "foreign.csv"


COLUMNS = "file={id}.png,class=Label,group=Patient ID,split=fold"


def test_a_foreign_manifest_gives_the_numbers_of_ours(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, said = evaluated(place, tmp_path / "ours", place / "images" / "manifest.csv", capsys)
    assert said == []
    data = foreign(place, tmp_path)
    found, said = evaluated(place, tmp_path / "a", data, capsys, "--columns", COLUMNS)
    assert (found.images, found.patients, found.data_digest) == (ours.images, ours.patients, ours.data_digest)
    assert said == [f"warning: {data}: classes are given by index, and read as 0 = dark, 1 = bright, 2 = left"]
    part, _ = evaluated(place, tmp_path / "b", data, capsys, "--columns", COLUMNS, "--split", "test")
    assert (part.images, part.patients) == (8, 4)


def test_columns_in_a_study_and_in_pack(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = foreign(place, tmp_path)
    roles = ", ".join('{} = "{}"'.format(*part.split("=")) for part in COLUMNS.split(","))
    study = tmp_path / "study.toml"
    study.write_text(
        f'data = "{data}"\nroot = "{place}/images"\ncolumns = {{ {roles} }}\nmap_size = 20\nchance = 0\njitter = 0\n'
        f'select = "all"\n[[architecture]]\nbefore = "{place}/before.onnx"\nafter = "{place}/after.onnx"\n'
    )
    assert tiny_graphs.evaluate(tmp_path / "out", study).patients == 6
    study.write_text(study.read_text().replace("file =", "path ="))
    with pytest.raises(InputError, match=r"study\.toml: columns: 'path' is not known; a manifest has file,"):
        tiny_graphs.evaluate(tmp_path / "out", study)
    arguments = [
        "pack", place / "before.onnx", "--data", data, "--root", place / "images", "--columns", COLUMNS, "--cases", 2,
        "--out", tmp_path / "bundle", "--quiet",
    ]  # fmt: skip
    capsys.readouterr()
    harness.cli.cli.main([str(word) for word in arguments], standalone_mode=False)
    assert len(list((tmp_path / "bundle" / "images").iterdir())) == 2
    assert "warning: " in capsys.readouterr().err


def test_columns_belong_to_a_manifest(place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder, and split, root and columns belong to a manifest"):
        tiny_graphs.evaluate(tmp_path, *graphs(place), "--data", place / "images", "--columns", "file=path")
    with pytest.raises(InputError, match="--columns cannot be given beside --from"):
        tiny_graphs.evaluate(tmp_path, "--from", place, "--columns", "file=path")
    with pytest.raises(InputError, match="give --before, --after and --data together"):
        tiny_graphs.evaluate(tmp_path, "--columns", "file=path")


def test_colour_is_told_once_with_its_count(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also when the run goes on from its maps; the count stands in the predictions."""
    rows = []
    for number in range(6):
        pixels = np.full((40, 48, 3), 40 * number, np.uint8)
        pixels[..., 2] += np.uint8(20 if number % 2 else 0)
        cv2.imwrite(str(tmp_path / f"{number}.png"), pixels)
        rows.append({"file": f"{number}.png", "class": "dark", "group": str(number)})
    data = tiny_graphs.write_manifest(tmp_path / "m.csv", rows)
    arguments = [*graphs(place), "--data", data, *BRIEF[:-2], "--select", "all"]
    tiny_graphs.evaluate(tmp_path / "out", *arguments)
    sentence = "warning: 3 of 6 pictures have colour; they were turned to grey (1.png for example)"
    assert capsys.readouterr().err.splitlines() == [sentence]
    found = read_rows(tmp_path / "out", "predictions", checkpoint="before")
    assert [row["notices"] for row in found] == [[], ["colour"]] * 3
    tiny_graphs.evaluate(tmp_path / "again", "--from", tmp_path / "out")
    assert capsys.readouterr().err.splitlines() == [sentence]


def test_what_never_ends_is_unreadable_or_a_sentence(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "a.png").symlink_to(place / "images" / "image-000.png")
    rows = [{"file": name, "class": "dark", "group": name} for name in ("a.png", "fifo.png", "zero.png")]
    data = tiny_graphs.write_manifest(tmp_path / "m.csv", rows)
    result = tiny_graphs.evaluate(tmp_path / "out", *graphs(place), "--data", data, *BRIEF)
    assert {name: error.partition(": ")[2] for name, error in result.unreadable.items()} == {
        "fifo.png": "is a FIFO, not a plain file; give a file, or remove it from the list",
        "zero.png": "is a device, not a plain file; give a file, or remove it from the list",
    }
    for before, named in (
        (tmp_path / "fifo.png", "fifo.png: is a FIFO"),
        (Path("/dev/zero"), "zero: is a device"),
    ):
        arguments = ["evaluate", "--before", before, "--after", place / "after.onnx", "--data", data, "--out", tmp_path]
        code, said = code_and_error(arguments, monkeypatch, capsys)
        assert (code, said.count("\n")) == (2, 1)
        assert f"{named}, not a plain file" in said


def test_a_picture_of_too_many_pixels_is_unreadable_and_the_limit_can_be_raised(place: Path, tmp_path: Path) -> None:
    black_png(tmp_path / "vast.png", 30_000)
    (tmp_path / "a.png").symlink_to(place / "images" / "image-000.png")
    arguments = [*graphs(place), "--data", tmp_path, *BRIEF]
    result = tiny_graphs.evaluate(tmp_path / "out", *arguments)
    assert list(result.unreadable) == ["vast.png"]
    assert "has 30000 x 30000 pixels, more than 100 million" in result.unreadable["vast.png"]
    with pytest.raises(
        CannotEvaluateError, match=r"none of the 2 images could be read; first: .*more than 0\.001919 million"
    ):
        tiny_graphs.evaluate(tmp_path / "none", *arguments, "--max-pixels", 48 * 40 - 1)


def test_explain_warns_in_a_line(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 48), 4095, np.uint16))
    arguments = ["explain", place / "before.onnx", tmp_path / "a.png", "--out", tmp_path / "out.png"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.filters", [])  # the tests make errors of warnings
        code, said = code_and_error(arguments, monkeypatch, capsys)
    assert (code, said) == (
        0,
        f"warning: {tmp_path}/a.png: uses 12 of its 16 bits and is shown nearly black; scale it to 0..65535\n",
    )

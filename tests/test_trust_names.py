"""No file that a command writes holds a user, host, patient or absolute path, but for those that SECURITY.md names."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from harness.common.storage import Address
from harness.results.plan import read_stored, restore, stored_path
from harness.results.schema import Evaluation
from tests import tiny_graphs
from tests.test_export_files import Network
from tests.tiny_graphs import ROOT, evaluate, process_environment, read_rows, write_graph
from tests.training_runs import MODEL, write_backbone

USER, HOST, PATIENT, FAR = "drzaunkoenig", "befundplatz17", "Patientina^Geheim", "abteilungsplatte"
# What stands in place of the system's answers in every process.
SITE = f"""
import getpass, os, platform, socket
socket.gethostname = socket.getfqdn = platform.node = lambda *_: "{HOST}"
getpass.getuser = lambda: "{USER}"
"""
TRAINING = f"""
[data]
manifest = "drawn/patients.csv"
{MODEL}
[phases.pretrain]
epochs = 1
[phases.transfer]
epochs = 1
"""
# Carried out in this order in one folder of the user's home; FAR is a folder outside of it.
COMMANDS = (
    "harness evaluate --before before.onnx --after FAR/after.onnx --data FAR/data/manifest.csv --jitter 1 --chance 1 "
    "--map-size 16 --select all --method layercam --out drift --quiet --log-to mlflow:sqlite:///ml.db",
    "harness evaluate --from drift --map-size 20 --out again --quiet",
    "harness gate HOME/project/drift --init --policy FAR/policy.toml",
    "harness gate HOME/project/drift --policy FAR/policy.toml --baseline FAR/none.json --json FAR/verdict.json "
    "--junit verdict.xml --markdown verdict.md --github",
    "harness gate drift --policy FAR/policy.toml --baseline accepted.json --update-baseline",
    "harness report drift",
    "harness explain FAR/after.onnx FAR/data/image-000.png --out map.png",
    "harness pack FAR/after.onnx --data FAR/data/manifest.csv --out bundle --cases 1 --quiet",
    "harness verify bundle --json verified.json",
    "harness monitor FAR/after.onnx --reference drift --data FAR/new/manifest.csv --bundle bundle --quiet",
    "export onnx FAR/network.onnx --layer features --out exported.onnx",
    "export compress FAR/after.onnx --to float16 --out half.onnx",
    "training phantoms drawn --images 80 --patients 80 --size 48",
)
TRAININGS = (
    "training fit HOME/project/tiny.toml --out run --quiet",
    "export keras HOME/project/run --phase transfer --out kept.onnx",
)
NAMING = {  # the files that SECURITY.md lists, by what they may hold
    "patient": re.compile(r"(drift|again)/(predictions|maps|scores)/.*\.parquet|run/split.*\.csv"),
    **dict.fromkeys(("user", "home", "path"), re.compile(r"ml\.db|mlruns/.*")),  # MLflow's own store
}
GIVEN = {"before.onnx", "tiny.toml", "small.keras", "drawn/patients.csv"}


def texts(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and what they hold packed: columns, members of an archive, comments of a picture."""
    content = path.read_bytes()
    yield content
    if path.suffix == ".parquet":
        table = pq.read_table(io.BytesIO(content), partitioning=None)
        text = [column.to_pylist() for name, column in zip(table.column_names, table.columns) if name != "map"]  # noqa: B905
        yield json.dumps([text, str(table.schema.metadata)], ensure_ascii=False).encode()
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from (name.encode() + archive.read(name) for name in archive.namelist())
    elif path.suffix in (".png", ".jpg"):
        with suppress(UnidentifiedImageError), Image.open(io.BytesIO(content)) as picture:
            yield repr(picture.info).encode()


def findings(folder: Path, secrets: dict[str, list[str]]) -> list[str]:
    """`FILE: KIND` for every file below a folder that holds a secret and is no exception."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        content = b"\n".join(texts(path))
        for kind, words in secrets.items():
            excepted = kind in NAMING and NAMING[kind].fullmatch(name)
            if name not in GIVEN and not excepted and any(word.encode() in content for word in words):
                found.append(f"{name}: {kind}")
    return found


class Place:
    """A user's working folder in a home folder, a folder elsewhere, and the processes that work there."""

    def __init__(self, base: Path) -> None:
        self.home, self.far = base / "home" / USER, base / FAR
        self.work, site = self.home / "project", base / "site"
        for folder in (self.work, self.far, site):
            folder.mkdir(parents=True)
        (site / "sitecustomize.py").write_text(SITE)
        named = dict.fromkeys(("USER", "LOGNAME", "USERNAME"), USER)
        self.summary = self.work / "summary.md"
        self.environment = process_environment(
            HOME=str(self.home), HOSTNAME=HOST, **named, PYTHONPATH=f"{site}:{ROOT}",
            GITHUB_STEP_SUMMARY=str(self.summary),
        )  # fmt: skip
        self.secrets = {
            "user": [USER], "host": [HOST], "patient": [PATIENT], "home": [str(self.home)],
            "path": [str(self.far), str(base)],
        }  # fmt: skip

    def run(self, command: str) -> None:
        words = command.replace("HOME", str(self.home)).replace("FAR", str(self.far)).split()
        line = [sys.executable, "-m", *words]
        done = subprocess.run(line, cwd=self.work, env=self.environment, capture_output=True, text=True)
        assert done.returncode in (0, 1, 3), f"{command}: {done.stderr[-2000:]}"


def prepared(base: Path) -> Place:
    """Graphs and pictures of patients with names, one picture unreadable."""
    place = Place(base)
    write_graph(place.work / "before.onnx", 0)
    write_graph(place.far / "after.onnx", 0, nudge=0.3)
    data = place.far / "data"
    manifest = tiny_graphs.write_images(data, patients=24, each=1)
    with_patients(manifest, manifest)
    (data / "image-003.png").write_bytes(b"no picture")
    new = tiny_graphs.write_images(place.far / "new", patients=12, each=1, seed=1)
    with_patients(new, new)
    (new.parent / "image-001.png").write_bytes(b"no picture")
    network = Network()
    network.head(network.features())
    network.save(place.far / "network.onnx")
    return place


def with_patients(source: Path, target: Path) -> None:
    """A manifest with names of patients for groups."""
    with source.open(newline="", encoding="utf-8") as stream:
        rows = [{**row, "group": f"{PATIENT}-{number}"} for number, row in enumerate(csv.DictReader(stream))]
    tiny_graphs.write_manifest(target, rows)


@pytest.mark.slow
def test_no_file_names_anyone(tmp_path: Path) -> None:
    place = prepared(tmp_path)
    for command in COMMANDS:
        place.run(command)
    written = {path.relative_to(place.work).as_posix() for path in place.work.rglob("*") if path.is_file()}
    assert {"drift/plan.json", "drift/evaluation.json", "drift/names.key", "summary.md", "ml.db"} <= written
    assert findings(place.work, place.secrets) == []
    assert findings(place.far, {**place.secrets, "patient": []}) == []
    assert "unreadable" in (place.work / "drift" / "evaluation.json").read_text()
    assert any(row["error"] for row in read_rows(place.work / "drift", "predictions"))


@pytest.mark.slow
def test_no_file_of_a_training_names_anyone(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.run("training phantoms drawn --images 80 --patients 80 --size 48")
    with_patients(place.work / "drawn" / "manifest.csv", place.work / "drawn" / "patients.csv")
    write_backbone(place.work)
    (place.work / "tiny.toml").write_text(TRAINING)
    for command in TRAININGS:
        place.run(command)
    assert (place.work / "kept.onnx").is_file()
    assert findings(place.work, place.secrets) == []


def test_a_name_is_noticed(tmp_path: Path) -> None:
    """The same check fails where a file holds a name, also packed; each exception is one for its own kind only."""
    picture = Image.new("L", (4, 4))
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "b.png", pnginfo=_comment(USER))
    shutil.make_archive(str(tmp_path / "archive"), "zip", tmp_path, "b.png")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "split.csv").write_text(f"{PATIENT} {HOST}")
    (tmp_path / "plan.json").write_text(PATIENT)
    secrets = {"user": [USER], "host": [HOST], "patient": [PATIENT]}
    assert findings(tmp_path, secrets) == ["b.png: user", "plan.json: patient", "run/split.csv: host"]


def _comment(text: str) -> PngInfo:
    info = PngInfo()
    info.add_text("Comment", text, zip=True)
    return info


# plan.json


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`project/out`, from `project/*.onnx` and `data/manifest.csv`."""
    base = tmp_path_factory.mktemp("plans")
    write_graph(base / "project" / "before.onnx", 0)
    write_graph(base / "project" / "after.onnx", 0, nudge=0.3)
    manifest = tiny_graphs.write_images(base / "data", patients=24, each=1)
    run(base, manifest)
    return base


def run(base: Path, manifest: Path, *more: object, out: str = "out") -> Evaluation:
    work = base / "project"
    line = [
        "--map-size",
        16,
        "--chance",
        1,
        "--jitter",
        0,
        "--select",
        "all",
        "--method",
        "layercam",
        "--data",
        manifest,
    ]
    with tiny_graphs.in_brief():
        return evaluate(work / out, "--before", work / "before.onnx", "--after", work / "after.onnx", *line, *more)


def plan_of(out: Path) -> dict:
    return json.loads((out / "plan.json").read_text())


def located(out: Path) -> list[Path]:
    stored, samples = restore(read_stored(out), out)
    return [stored.plan.data.source, *(item.graph.path for item in stored.plan.checkpoints), samples[0].path]  # type: ignore[list-item]


def test_a_plan_names_files_relative_to_its_folder(finished: Path) -> None:
    content = plan_of(finished / "project" / "out")
    assert content["data"]["source"] == "../../data/manifest.csv"
    assert [item["file"] for item in content["checkpoints"]] == ["../before.onnx", "../after.onnx"]


@pytest.mark.parametrize("where", [".", "project", "project/out", "/"])
def test_a_plan_is_read_from_any_folder(finished: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.chdir(finished / where)
    assert all(path.is_file() for path in located(finished / "project" / "out"))


def test_folder_and_data_can_be_moved_together(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "moved")
    assert all(
        path.is_relative_to(tmp_path) and path.is_file() for path in located(tmp_path / "moved" / "project" / "out")
    )


def test_resume_and_from_work_from_another_folder(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, tmp_path / "a")
    out, elsewhere = tmp_path / "a" / "project" / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    before = Evaluation.read(out)
    (out / "evaluation.json").unlink()
    resumed = run(tmp_path / "a", Path("../a/data/manifest.csv"), "--resume")
    assert resumed.pairs == before.pairs
    with tiny_graphs.in_brief():
        again = evaluate(Path("again"), "--from", Path("../a/project/out"), "--map-size", 20)
    assert again.map_size == (20, 20)
    assert all(path.is_file() for path in located(elsewhere / "again"))


def test_a_file_in_my_home_folder_is_found_where_that_is(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(finished))
    assert stored_path(finished / "out", finished / "data" / "m.csv") == "~/data/m.csv"
    assert stored_path(tmp_path, Path("/etc/m.csv")).endswith("/etc/m.csv")
    assert stored_path(Path("/etc/x"), Path("/etc/m.csv")) == "../m.csv"
    address = Address("s3://bucket", "m.csv")
    assert stored_path(tmp_path, address) == "s3://bucket/m.csv"
    assert stored_path(address, Path("/etc/m.csv")) == "/etc/m.csv"


def test_without_a_home_folder_paths_are_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    assert stored_path(tmp_path / "out", tmp_path / "m.csv") == "../m.csv"


def test_behind_a_link_the_path_still_arrives(finished: Path, tmp_path: Path) -> None:
    """`..` of a linked folder is not the folder that holds the link."""
    (tmp_path / "link").symlink_to(finished / "project" / "out")
    assert all(path.is_file() for path in located(tmp_path / "link"))


def test_plans_of_earlier_versions_are_read(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They hold absolute paths, or paths relative to the working folder of their run."""
    out = tmp_path / "out"
    shutil.copytree(finished / "project" / "out", out)
    content = plan_of(out)
    del content["paths"]
    content["data"]["source"] = "data/manifest.csv"
    for item in content["checkpoints"]:
        item["file"] = str(finished / "project" / f"{item['key']}.onnx")
    (out / "plan.json").write_text(json.dumps(content))
    monkeypatch.chdir(finished)
    assert all(path.is_file() for path in located(out))


def test_the_error_column_holds_no_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    manifest = tiny_graphs.write_images(data, patients=24, each=1)
    (data / "image-003.png").write_bytes(b"no picture")
    write_graph(tmp_path / "project" / "before.onnx", 0)
    write_graph(tmp_path / "project" / "after.onnx", 0, nudge=0.3)
    run(tmp_path, manifest)
    errors = [row["error"] for row in read_rows(tmp_path / "project" / "out", "predictions") if row["error"]]
    assert len(errors) == 2
    assert all("image-003.png" in error and str(tmp_path) not in error for error in errors)

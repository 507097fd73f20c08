"""Files behind addresses: a real S3-compatible server on loopback, and fsspec's file system in memory."""

from __future__ import annotations

import errno
import itertools
import pickle
from collections.abc import Container, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from harness.cli import cli
from harness.common import storage
from harness.common.errors import CannotEvaluateError, InputError
from harness.common.storage import Address, Location, as_location
from harness.images.dataset import read_dataset
from harness.images.loading import read_picture
from harness.results import file_names, part_files
from harness.results import folder as result_folder
from harness.results.part_files import Store
from harness.results.schema import Evaluation
from tests import tiny_graphs
from tests.made_dicom import archive, write_dicomdir
from tests.object_store import serving, uploaded
from tests.tiny_graphs import evaluate, read_rows

BRIEF = ["--map-size", 16, "--chance", 2, "--jitter", 1, "--method", "layercam", "--select", "all"]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of an empty bucket."""
    with serving("radiographs") as address:
        yield address


@pytest.fixture(params=["local", "s3", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, bucket: str) -> Location:
    """An empty folder, local or behind an address."""
    name = tmp_path.name
    kinds = {
        "local": tmp_path / "inner",
        "s3": as_location(f"{bucket}/{name}"),
        "memory": as_location(f"memory://{name}/inner"),
    }
    return kinds[request.param]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("runs/a", Path("runs/a")),
        ("file:///tmp/a", Path("/tmp/a")),
        ("s3://bucket", Address("s3://bucket", "")),
        ("s3://bucket/a/b/", Address("s3://bucket", "a/b")),
        ("s3://bucket/a?region=eu-west-1", Address("s3://bucket", "a", "?region=eu-west-1")),
        ("s3://bucket/a/./b/../c", Address("s3://bucket", "a/c")),
        ("abfs://box@account.dfs.core.windows.net/a", Address("abfs://box@account.dfs.core.windows.net", "a")),
        ("C:\\scans", Path("C:\\scans")),
    ],
)
def test_what_is_a_path_and_what_an_address(text: str, found: Location) -> None:
    assert as_location(text) == found
    assert as_location(found) == found
    assert as_location(str(found)) == found
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_file_is_replaced_in_one_step_where_a_store_shows_what_is_being_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    def fails(*_: object, **__: object) -> None:
        raise OSError("the connection is gone")

    there = as_location("memory://replaced/a")
    there.write_bytes(b"whole")
    monkeypatch.setattr(MemoryFileSystem, "mv", fails)
    with pytest.raises(OSError, match="the connection is gone"):
        there.write_bytes(b"another")
    assert there.read_bytes() == b"whole"


def test_an_address_is_taken_apart_like_a_path() -> None:
    address = as_location("s3://bucket/run/maps/part-1.parquet")
    assert isinstance(address, Address)
    assert (address.name, address.stem, address.suffix) == ("part-1.parquet", "part-1", ".parquet")
    assert str(address.parent.parent / "plan.json") == "s3://bucket/run/plan.json"
    assert str(address.with_name("other")) == "s3://bucket/run/maps/other"
    assert str(address.parent / "../x/./y.png") == "s3://bucket/run/x/y.png"
    assert (
        str(as_location("s3://bucket/run?region=eu-west-1") / "plan.json")
        == "s3://bucket/run/plan.json?region=eu-west-1"
    )
    assert address.resolve() == address
    assert Path("studies") / address == address
    assert address / "a" / address == address


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("s3://key:secret@bucket/a", "holds a password.*leave it to the environment"),
        (
            "s3://bucket/a?region=x&secret_key=secret",
            r"s3://bucket\?secret_key=\.\.\.: an address may hold region, .* only",
        ),
        ("abfs://box@account/run?client_secret=secret", r"client_secret=\.\.\.: an address .*to the environment"),
        ("s3:///a", "names no bucket; write s3://BUCKET/FOLDER"),
    ],
)
def test_addresses_that_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as refused:
        as_location(text)
    assert "secret" not in str(refused.value).replace("secret_key=...", "").replace("client_secret=...", "")


def test_an_unknown_scheme_is_a_sentence() -> None:
    with pytest.raises(InputError, match=r"nowhere://x: no file system is known for this address \(.*nowhere"):
        as_location("nowhere://x/y").read_bytes()
    with pytest.raises(InputError, match=r"gs://bucket\?region=red: not an address that can be opened \(.*region"):
        as_location("gs://bucket/y?region=red").read_bytes()


def test_files_are_written_read_listed_and_removed(folder: Location) -> None:
    file = folder / "a" / "one.txt"
    file.parent.mkdir(parents=True)
    storage.write_bytes(file, b"two words")
    storage.write_bytes(file, b"three\r\nwords")
    assert (file.exists(), file.is_file(), file.is_dir()) == (True, True, False)
    assert (file.parent.exists(), file.parent.is_file(), file.parent.is_dir()) == (True, False, True)
    assert file.read_bytes() == b"three\r\nwords"
    with file.open(newline="", encoding="utf-8") as stream:
        assert stream.read() == "three\r\nwords"
    assert [found.name for found in file.parent.iterdir()] == ["one.txt"]
    storage.copy_folder(folder / "a", folder / "b")
    assert (folder / "b" / "one.txt").read_text(encoding="utf-8") == file.read_text(encoding="utf-8")
    file.unlink()
    file.unlink(missing_ok=True)
    assert not file.exists()
    storage.remove_folder(folder / "b")
    storage.remove_folder(folder / "b")
    assert not (folder / "b").exists()


def test_a_file_that_is_not_there_is_named(folder: Location) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        (folder / "none.txt").read_bytes()
    assert missing.value.filename == str(folder / "none.txt") or missing.value.filename == folder / "none.txt"
    with pytest.raises(InputError, match=r"none\.png: no such file"):
        read_picture(folder / "none.png")


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="s3://unreachable") as failed:
        as_location("s3://unreachable/x").read_bytes()
    assert "\n" not in str(failed.value)


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_writer", "")
    other = tmp_path / "a.txt.partial"
    other.write_text("half of what another process writes")
    storage.set_writer_name("worker-1")
    storage.write_bytes(tmp_path / "a.txt", b"whole")
    assert other.read_text() == "half of what another process writes"
    storage.sweep(tmp_path, storage.PARTIAL)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_nested_dicom_files_are_found_behind_an_address(folder: Location, tmp_path: Path) -> None:
    paths = archive(tmp_path / "pacs", patients=2, studies=1)
    names = [path.relative_to(tmp_path / "pacs").as_posix() for path in paths]
    for path, name in zip(paths, names, strict=True):
        storage.write_bytes(made_for(folder / "pacs" / name), path.read_bytes())
    found = read_dataset(folder / "pacs", ["a", "b"])
    assert [(sample.name, sample.path) for sample in found] == [(name, folder / "pacs" / name) for name in names]
    assert [sample.group for sample in found] == [
        sample.group for sample in read_dataset(tmp_path / "pacs", ["a", "b"])
    ]
    dicomdir = write_dicomdir(tmp_path, [tuple(names[0].split("/"))])
    storage.write_bytes(folder / "pacs" / "DICOMDIR", dicomdir.read_bytes())
    assert [sample.name for sample in read_dataset(folder / "pacs", ["a", "b"], warn=lambda _: None)] == names[:1]
    (listed,) = read_dataset(folder / "pacs" / "DICOMDIR", ["a", "b"], warn=lambda _: None)
    assert listed.path == folder / "pacs" / names[0]


def made_for(path: Location) -> Location:
    """The path, in a folder that is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_a_part_counts_the_processes_that_ended_over_it(folder: Location) -> None:
    parts = Store(folder)
    parts.clear(["maps"])
    marker, next_one = (folder / "maps" / f"part-0000{number}.begun" for number in (3, 4))
    with parts.begun("maps") as begun:
        assert (begun.add(3), begun.add(4)) == (0, 0)
        left = marker.read_bytes()
        begun.remove(3)
        assert (marker.exists(), next_one.exists()) == (False, True)
    assert not next_one.exists()
    storage.write_bytes(marker, left)  # as a process leaves it that ends without a word
    with suppress(KeyboardInterrupt), parts.begun("maps") as begun:
        assert (begun.add(3), begun.add(4)) == (1, 0)
        raise KeyboardInterrupt
    with parts.begun("maps") as begun:
        assert (begun.add(3), begun.add(4)) == (0, 0)
    assert parts.missing("maps", [3]) == [3]


STEPS = range(1, len(result_folder.OURS) + 1)


@pytest.mark.parametrize(
    ("folder", "step"),
    [
        pytest.param(kind, step, marks=pytest.mark.slow if kind == "s3" and step not in (1, STEPS[-1]) else ())
        for kind in ("local", "s3", "memory")
        for step in STEPS
    ],
    indirect=["folder"],
)
def test_a_cleaning_up_that_is_interrupted_can_be_done_again(
    folder: Location, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it stops: the next evaluation replaces the folder, or goes on in it."""
    result_folder.begin(folder, {"format": 1}, {}, False)
    for name in (file_names.STATISTICS, file_names.RESULT):
        storage.write_whole(folder / name, "{}")
    whole, steps = result_folder._remove, itertools.count(1)

    def interrupted(path: Location) -> None:
        if next(steps) == step:
            raise KeyboardInterrupt
        whole(path)

    monkeypatch.setattr(result_folder, "_remove", interrupted)
    with pytest.raises(KeyboardInterrupt):
        result_folder.begin(folder, {"format": 1}, {}, False)
    monkeypatch.setattr(result_folder, "_remove", whole)
    over = (folder / file_names.RESULT).exists()
    assert over or step == len(result_folder.OURS)
    opened = result_folder.begin(folder, {"format": 1}, {}, resume=not over)
    assert opened.missing("maps", [0]) == [0]


# A whole evaluation


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two graphs and 24 images of which one cannot be read."""
    folder = tmp_path_factory.mktemp("places")
    before = tiny_graphs.write_graph(folder / "before.onnx", 0, balanced=True)
    tiny_graphs.write_graph(folder / "after.onnx", 0, nudge=0.3, balanced=True, phase="finetune")
    tiny_graphs.label_as(before, tiny_graphs.write_images(folder / "images", patients=24, each=1, exposure=0.6))
    (folder / "images" / "image-007.png").write_bytes(b"no picture")
    return folder


def asked(where: Location) -> list[object]:
    graphs = ["--before", where / "before.onnx", "--after", where / "after.onnx"]
    return [*graphs, "--data", where / "images" / "manifest.csv", *BRIEF]


def numbers(result: Evaluation) -> dict:
    """What does not name a place."""
    left_out = {"seconds", "command", "data", "checkpoints", "unreadable"}
    found = result.model_dump(mode="json", exclude=left_out)
    del found["environment"]["began"]
    return found


def require_same_rows(one: Path, other: Address, there: Address) -> None:
    for kind in part_files.SCHEMAS:
        local = repr(read_rows(one, kind)).replace("'.../image-007.png", f"'{there}/images/image-007.png")
        assert repr(read_rows(other, kind)) == local, kind


@pytest.mark.slow
def test_an_evaluation_in_an_object_store_has_the_rows_of_a_local_one(
    here: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Graphs, manifest and images are read there; the result is written, resumed, gated and rendered there."""
    monkeypatch.setattr(part_files, "BLOCK", 12)
    there = uploaded(here, f"{bucket}/data")
    out = as_location(f"{bucket}/run")
    assert isinstance(out, Address)
    with tiny_graphs.in_brief():
        local = evaluate(tmp_path / "out", *asked(here))
        remote = evaluate(out, *asked(there))
    assert numbers(remote) == numbers(local)
    assert list(remote.unreadable) == ["image-007.png"]
    require_same_rows(tmp_path / "out", out, there)
    assert f"written to {out}: plan.json" in capsys.readouterr().out
    (out / "evaluation.json").unlink()
    (out / "maps" / "part-00001.parquet").unlink()
    (out / "predictions" / "part-00001.parquet").unlink()
    with tiny_graphs.in_brief():
        assert numbers(evaluate(out, *asked(there), "--resume")) == numbers(local)
    require_same_rows(tmp_path / "out", out, there)
    cli.main(["report", str(out)], standalone_mode=False)
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    policy = tmp_path / "policy.toml"
    policy.write_text('format = 1\n[[rule]]\nmetric = "accuracy"\nstatistic = "value"\nmin = 0.01\nmode = "point"\n')
    judged = []
    for result in (out, tmp_path / "out"):
        capsys.readouterr()
        code = cli.main(["gate", str(result), "--policy", str(policy)], standalone_mode=False)
        judged.append((code, capsys.readouterr().out.partition("judged: ")[0]))  # then digest and time
    assert judged[0] == judged[1]
    assert {path.name for path in out.iterdir()} >= {"evaluation.json", "scores.json"}


class Hiccups:
    """The n-th reads of a file behind an address fail, as those of a busy store do."""

    def __init__(self, name: str, fails: Container[int], patch: pytest.MonkeyPatch) -> None:
        self.name, self.fails, self.reads, self.whole = name, fails, 0, Address.read_bytes
        patch.setattr(storage, "WAITS", (0.0, 0.0, 0.0))
        patch.setattr(Address, "read_bytes", lambda address: self.read(address))

    def read(self, address: Address) -> bytes:
        self.reads += address.name == self.name
        if address.name == self.name and self.reads in self.fails:
            raise OSError(errno.EIO, "AWS Error SLOW_DOWN during GetObject", str(address))
        return self.whole(address)


@pytest.fixture(scope="module")
def whole(here: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The numbers of an evaluation in which every read succeeds."""
    with tiny_graphs.in_brief():
        return numbers(evaluate(tmp_path_factory.mktemp("whole") / "out", *asked(here)))


def test_a_store_that_fails_for_a_moment_changes_nothing(
    here: Path, whole: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read of the digest and those of each checkpoint fail in turn; three failures are borne in a row."""
    there = uploaded(here, "memory://hiccups")
    with tiny_graphs.in_brief():
        hiccups = Hiccups("image-004.png", {1, 3, 5, 6, 7}, monkeypatch)
        again = evaluate(tmp_path / "again", *asked(there))
    assert hiccups.reads >= 8
    assert numbers(again) == whole
    assert list(again.unreadable) == ["image-007.png"]


@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_store_that_stops_answering_ends_the_run_and_resume_goes_on(
    here: Path, whole: dict, tmp_path: Path, first: int
) -> None:
    """While digests are computed (1), for the first checkpoint (2), for the second (3)."""
    there = uploaded(here, "memory://silent")
    with tiny_graphs.in_brief():
        with pytest.MonkeyPatch.context() as patch:
            hiccups = Hiccups("image-004.png", range(first, 1000), patch)
            sentence = r"image-004\.png: could not be read in 4 attempts \(AWS Error SLOW_DOWN.*\); .* with --resume"
            with pytest.raises(CannotEvaluateError, match=sentence):
                evaluate(tmp_path / "out", *asked(there))
        assert hiccups.reads == first + 3
        resumed = evaluate(tmp_path / "out", *asked(there), *(["--resume"] if first > 1 else []))
    assert numbers(resumed) == whole


def test_a_forbidden_file_is_unreadable_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.setattr(Path, "read_bytes", forbidden)
    with pytest.raises(InputError, match=r"a\.png: cannot be read \(Permission denied\)"):
        read_picture(tmp_path / "a.png")


def test_a_study_names_addresses(here: Path, bucket: str, tmp_path: Path) -> None:
    there = uploaded(here, f"{bucket}/study-data")
    study = tmp_path / "study.toml"
    study.write_text(
        f'data = "{there}/images/manifest.csv"\nselect = "all"\nmap_size = 16\nchance = 0\njitter = 0\n'
        f'[[architecture]]\nname = "A"\nbefore = "{there}/before.onnx"\nafter = ["{here}/after.onnx"]\n'
    )
    with tiny_graphs.in_brief():
        assert evaluate(tmp_path / "out", study).data == f"{there}/images/manifest.csv"


def test_foreign_files_and_logging_are_refused_there_too(here: Path, bucket: str) -> None:
    out = as_location(f"{bucket}/foreign")
    storage.write_bytes(out / "thesis.txt", b"precious")
    with pytest.raises(InputError, match=rf"{out}: holds 'thesis.txt', which no evaluation wrote"):
        evaluate(out, *asked(here))
    with pytest.raises(InputError, match=r"s3://bucket\?secret_key=\.\.\.: an address"):
        evaluate(out, *asked(here)[:4], "--data", "s3://bucket/a.csv?secret_key=hunter2")
    with pytest.raises(InputError, match="--log-to sends files of a local folder"):
        evaluate(out, *asked(here), "--log-to", "mlflow")

"""Absurd options, and inputs that are no plain files: one sentence within seconds, from every command."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from export.cli import cli as export_commands
from harness.api.explanation import explain
from harness.cli import cli, main
from harness.common.errors import CannotEvaluateError, InputError
from harness.common.storage import read_at_most, replacing
from harness.evaluation.study_file import read_study
from harness.gate.policy import read_policy
from harness.models.metadata import Graph, metadata_of
from harness.models.session import Model
from harness.results.options import MOST_DRAWS, Options
from harness.results.plan import read_stored, restore
from harness.results.schema import Evaluation
from tests import tiny_graphs
from tests.fuzz_inputs import prepared
from tests.made_results import evaluation
from tests.test_export_files import Network
from tests.tiny_graphs import ROOT, write_graph, write_images
from training.config import read_config
from training.files import write_text

SECONDS = 10
HUGE = "99999999999999999999999"
POLICY = """format = 1
[[rule]]
metric = "accuracy"
statistic = "value"
min = 0.1
"""


@contextmanager
def within_seconds() -> Iterator[None]:
    """Fail where the work waits."""

    def waited(*_: object) -> None:
        pytest.fail(f"no answer within {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# Options


@pytest.mark.parametrize("name", ["jitter", "chance"])
@pytest.mark.parametrize("value", [int(HUGE), MOST_DRAWS + 1])
def test_draws_have_a_limit(name: str, value: int) -> None:
    with pytest.raises(InputError, match=rf"{name}: Input should be less than or equal to {MOST_DRAWS}"):
        Options.of(**{name: value})
    assert getattr(Options.of(**{name: MOST_DRAWS}), name) == MOST_DRAWS


@pytest.mark.parametrize("option", ["--jitter", "--chance", "--seed"])
def test_an_absurd_number_on_the_command_line_is_a_sentence(
    tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["harness", "evaluate", option, HUGE])
    with within_seconds(), pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert option[2:] in said
    assert "fault of this program" not in said
    assert not (tmp_path / "drift").exists()


def test_an_absurd_number_in_a_study_is_a_sentence(tmp_path: Path) -> None:
    text = 'data = "m.csv"\nchance = 1000000000000\n[[architecture]]\nbefore = "a.onnx"\nafter = "b.onnx"\n'
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(InputError, match=rf"study\.toml: chance: .*less than or equal to {MOST_DRAWS}"):
        read_study(tmp_path / "study.toml")


# A graph that asks for more memory than there is


def greedy(path: Path) -> Path:
    """An exported graph whose logits are the sum with a tensor of 400 GB."""
    write_graph(path, 0)
    model = onnx.load(path)
    node = next(node for node in model.graph.node if "logits" in node.output)
    node.output[:] = ["plain" if name == "logits" else name for name in node.output]
    for other in model.graph.node:
        other.input[:] = ["plain" if name == "logits" else name for name in other.input]
    model.graph.initializer.append(numpy_helper.from_array(np.array([100_000_000_000]), "shape"))
    zero = numpy_helper.from_array(np.zeros(1, np.float32))
    model.graph.node.extend(
        [
            helper.make_node("ConstantOfShape", ["shape"], ["vast"], value=zero),
            helper.make_node("ReduceSum", ["vast"], ["sum"], keepdims=0),
            helper.make_node("Add", ["plain", "sum"], ["logits"]),
        ]
    )
    onnx.save(model, path)
    return path


def test_a_graph_that_asks_for_400_gb_is_named(tmp_path: Path) -> None:
    model = Model.open(greedy(tmp_path / "greedy.onnx"))
    image = np.zeros((1, 3, tiny_graphs.SIZE, tiny_graphs.SIZE), np.float32)
    sentence = r"greedy\.onnx: ONNX Runtime cannot run it on 1 images \(Failed to allocate memory .* 400000000000"
    with within_seconds(), pytest.raises(CannotEvaluateError, match=sentence) as caught:
        model.explain(image, np.array([-1]), ["early"])
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_graph_whose_metadata_ask_for_vast_pictures_is_refused(tmp_path: Path) -> None:
    write_graph(tmp_path / "vast.onnx", input_size=[100_000, 100_000])
    with pytest.raises(InputError, match=r"vast\.onnx: its metadata say that it takes pictures of 100000 x 100000"):
        Model.open(tmp_path / "vast.onnx")


# Plans that no evaluation has written


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small result folder."""
    return prepared(tmp_path_factory.mktemp("finished"))[0]


CHANGES: dict[str, Callable[[dict], object]] = {
    "KeyError": lambda plan: plan.pop("pairs"),
    "a number that is none": lambda plan: plan.update(images="6"),
    "0 images": lambda plan: plan.update(images=0),
    "10000000000000000000000 images": lambda plan: plan.update(images=10**22),
    "a name that is no text": lambda plan: plan.update(provider=7),
    "options of the provider": lambda plan: plan.update(provider_options=[]),
    "no pair, no layer": lambda plan: plan.update(pairs=[]),
    "a pair of unknown checkpoints": lambda plan: plan["pairs"][0].update(after="nobody"),
    "a pair of an unknown kind": lambda plan: plan["pairs"][0].update(kind="odd"),
    "the selection": lambda plan: plan.update(selection="odd"),
    "TypeError": lambda plan: plan["pairs"].append("text"),
    "ValidationError": lambda plan: plan["checkpoints"][0].update(metadata=[]),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_plan_that_cannot_be_is_a_sentence(finished: Path, what: str) -> None:
    content = json.loads((finished / "plan.json").read_text())
    CHANGES[what](content)
    with pytest.raises(InputError, match=r"plan\.json: describes no evaluation that there can be") as caught:
        restore(content, finished)
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


# Text that is nested deeply, or is no text


def test_deeply_nested_files_are_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "deep"
    path.write_text("x = " + 100_000 * "[")
    for read in (read_study, read_policy, read_config):
        with pytest.raises(InputError, match=r"deep: not (a )?TOML"):
            read(path)
    (tmp_path / "plan.json").write_text(100_000 * "[")
    with pytest.raises(InputError, match="holds no evaluation"):
        read_stored(tmp_path)
    with pytest.raises(InputError, match="its metadata is damaged"):
        metadata_of(path, {"evidence_drift.format": "1", "evidence_drift.layers": 100_000 * "["})


def test_metadata_that_are_no_text_are_a_sentence(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "model.onnx", phase="transfer")
    path.write_bytes(path.read_bytes().replace(b'"transfer"', b'"transf\xff\xfe"'))
    for read in (Graph.read, Model.open):
        with pytest.raises(InputError, match=r"model\.onnx: "):
            read(path)


def test_a_name_with_a_null_character_is_a_sentence(tmp_path: Path) -> None:
    text = 'data = "m.csv"\n[[architecture]]\nbefore = "a\\u0000.onnx"\nafter = "b.onnx"\n'
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(InputError, match="holds a null character"):
        read_study(tmp_path / "study.toml")


# Results and names


def test_a_result_without_checkpoints_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text(evaluation().model_copy(update={"checkpoints": []}).model_dump_json())
    with pytest.raises(InputError, match="contradicts itself"):
        cli.main(["report", str(tmp_path)], standalone_mode=False)


@pytest.mark.parametrize("option", ["--json", "--junit", "--markdown"])
def test_a_folder_as_an_output_of_the_gate_is_a_sentence(tmp_path: Path, option: str) -> None:
    (tmp_path / "evaluation.json").write_text(evaluation().model_dump_json())
    (tmp_path / "policy.toml").write_text(POLICY)
    (tmp_path / "folder").mkdir()
    line = ["gate", str(tmp_path), "--policy", str(tmp_path / "policy.toml"), option, str(tmp_path / "folder")]
    with pytest.raises(InputError, match=r"folder: is a folder \(as an empty name is\); name the file to write"):
        cli.main(line, standalone_mode=False)


PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(("image", "code"), [("Bröken", 2), ("Broken", 0)])
def test_umlauts_in_names_where_the_locale_knows_none(tmp_path: Path, image: str, code: int) -> None:
    """The names of patients are read and written as UTF-8 in any case; a file's has to be what the system takes."""
    manifest = write_images(tmp_path / "data", patients=3, each=1)
    text = manifest.read_text(encoding="utf-8").replace("image-002", image).replace("patient 2", "Müller")
    manifest.write_text(text, encoding="utf-8")
    (tmp_path / "data" / "image-002.png").rename(tmp_path / "data" / f"{image}.png")
    before, after = (write_graph(tmp_path / f"{n}.onnx", 0, nudge=0.3 * n) for n in range(2))
    line = ["--before", before, "--after", after, "--data", manifest, "--select", "all", "--jitter", 0, "--chance", 0]
    found = tiny_graphs.run(tmp_path, "evaluate", *line, "--out", "drift", "--quiet", **PLAIN)
    assert found.returncode == code, found.stderr
    assert ("the locale's encoding (ascii) cannot write this name; set PYTHONUTF8=1" in found.stderr) == (code == 2)
    assert "fault of this program" not in found.stderr
    if code == 0:
        groups = {row["group"] for row in tiny_graphs.read_rows(tmp_path / "drift", "predictions")}
        assert "Müller" in groups


# Inputs that are no plain files


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "fifo")
    return folder / "fifo"


def device(folder: Path) -> Path:
    (folder / "zero").symlink_to("/dev/zero")
    return folder / "zero"


def invoke(commands: object, *words: object) -> None:
    commands.main([str(word) for word in words], standalone_mode=False)  # type: ignore[attr-defined]


def result_with(kind: Callable[[Path], Path], name: str, folder: Path) -> Path:
    """A result folder of which one file is no plain file."""
    kind(folder).rename(folder / name)
    return folder


READERS: dict[str, Callable[[Path], object]] = {
    "policy": read_policy,
    "evaluation.json": Evaluation.read,
    "study": read_study,
    "training": read_config,
    "export onnx": lambda path: invoke(export_commands, "onnx", path, "--out", path.with_name("out.onnx")),
    "export layers": lambda path: invoke(export_commands, "layers", path),
    "export compress": lambda path: invoke(
        export_commands, "compress", path, "--to", "float16", "--out", path.with_name("out.onnx")
    ),
    "explain's model": lambda path: explain(path, np.zeros((8, 8), np.float32)),
    "explain's image": lambda path: explain(write_graph(path.with_name("model.onnx")), path),
    "pack's model": lambda path: invoke(
        cli, "pack", path, "--data", write_images(path.parent / "data"), "--out", path.parent / "bundle"
    ),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("made", [fifo, device])
def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path, made: Callable[[Path], Path], reader: str) -> None:
    what = "a FIFO" if made is fifo else "a device"
    with within_seconds(), pytest.raises(InputError, match=rf"{made(tmp_path).name}: is {what}, not a plain file"):
        READERS[reader](tmp_path / ("fifo" if made is fifo else "zero"))


@pytest.mark.parametrize("made", [fifo, device])
def test_a_plan_that_is_no_plain_file_is_refused_at_once(tmp_path: Path, made: Callable[[Path], Path]) -> None:
    with within_seconds(), pytest.raises(InputError, match=r"plan\.json: is a (FIFO|device), not a plain file"):
        read_stored(result_with(made, "plan.json", tmp_path))


def test_an_open_pipe_is_read() -> None:
    """As a shell's `<(command)` gives it."""
    reader, writer = os.pipe()
    os.write(writer, b"text")
    os.close(writer)
    assert read_at_most(Path(f"/dev/fd/{reader}"), 100) == b"text"
    os.close(reader)


# Outputs of export and training


def network(folder: Path) -> Path:
    made = Network()
    made.head(made.features())
    return made.save(folder / "network.onnx")


def export(source: Path, out: Path) -> None:
    invoke(export_commands, "onnx", source, "--layer", "features", "--out", out)


def test_an_export_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.onnx").symlink_to("target.onnx")
    export(network(tmp_path), tmp_path / "link.onnx")
    assert (tmp_path / "link.onnx").is_symlink()
    assert Model.open(tmp_path / "target.onnx").metadata.classes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.onnx", "network.onnx", "target.onnx"]


def test_an_export_writes_through_a_fifo(tmp_path: Path) -> None:
    pipe, read = fifo(tmp_path), list[bytes]()
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    export(network(tmp_path), pipe)
    reader.join(10)
    assert onnx.ModelProto.FromString(read[0]).metadata_props
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_an_export_to_standard_output_prints_nothing_else_there(tmp_path: Path) -> None:

    line = [sys.executable, "-m", "export", "onnx", network(tmp_path), "--layer", "features", "--out", "-"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, env=tiny_graphs.process_environment())
    assert done.returncode == 0, done.stderr
    assert onnx.ModelProto.FromString(done.stdout).metadata_props
    assert b"equal to its source" in done.stderr


def test_an_export_to_a_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        export(tmp_path / "missing.onnx", tmp_path / "folder")


def test_training_writes_as_everything_else_does(tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to("target.csv")
    with write_text(tmp_path / "link.csv") as stream:
        stream.write("text")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "target.csv").read_text() == "text"
    pipe, read = fifo(tmp_path), list[str]()
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    with write_text(pipe) as stream:
        stream.write("text")
    reader.join(10)
    assert read == ["text"]
    with pytest.raises(InputError, match="is a folder"), write_text(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo", "link.csv", "target.csv"]


def test_work_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")

    def interrupted() -> None:
        with replacing(tmp_path / "a.txt") as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"

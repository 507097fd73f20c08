"""The command line: quick help, sentences for mistakes, and a run that survives being killed."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training_runs import ROOT, as_started_by_a_user, command_line, digests, environment, record, tiny
from training import run
from training.run import _read_history


def test_help_loads_no_tensorflow() -> None:
    script = (
        "import sys; from training.cli import main; main(['--help'], standalone_mode=False); "
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert all(command in found.stdout for command in ("fit", "resume", "phantoms"))


def test_phantoms_are_drawn_without_tensorflow(tmp_path: Path) -> None:
    found = command_line("phantoms", tmp_path / "out", "--images", "4", "--patients", "3", "--size", "48")
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == str(tmp_path / "out" / "manifest.csv")
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("phantoms", "out", "--images", "3", "--patients", "4"), "every patient needs at least one image"),
        (("phantoms", "out", "--size", "8"), "8 is not in the range 32<=x<=8192"),
        (("fitt", "x"), "No such command 'fitt'"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    found = command_line(*(str(tmp_path / "out") if word == "out" else word for word in arguments))
    assert found.returncode == 2
    assert message in found.stderr
    assert "Traceback" not in found.stderr


def test_unknown_key_reaches_the_user(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    config.write_text(config.read_text(encoding="utf-8").replace("[model]", "[modell]"), encoding="utf-8")
    found = command_line("fit", config, "--out", tmp_path / "run", env=environment())
    assert found.returncode == 2
    assert found.stderr == f"error: {config}: unknown key 'modell'; did you mean 'model'?\n"


@pytest.mark.slow
def test_warnings_are_lines_on_stderr(tmp_path: Path) -> None:
    """As those of the other command lines; and the headers of `data.columns` are the ones that are read."""
    config = tiny(tmp_path)
    manifest = tmp_path / "m.csv"
    manifest.write_text("picture;finding;patient\na.png;none;1\nb.png;none;2\n", encoding="utf-8")
    text = config.read_text(encoding="utf-8").splitlines()
    data = 'manifest = "m.csv"\ncolumns = { file = "picture", class = "finding", group = "patient" }'
    text[text.index("[data]") + 1] = data
    config.write_text("\n".join(text), encoding="utf-8")
    found = command_line("fit", config, "--out", tmp_path / "run", env=environment())
    assert found.returncode == 2
    assert found.stderr.splitlines() == [
        f"warning: {manifest}: 2 rows have the class 'none', which often stands for a missing value",
        "error: a classifier needs at least two classes; the data has none",
    ]


def finished_epochs(folder: Path) -> list[str]:
    try:
        with (folder / "history.csv").open(encoding="utf-8") as stream:
            return [f"{row['checkpoint']} {row['epoch']}" for row in csv.DictReader(stream)]
    except FileNotFoundError:
        return []


def kill_after(arguments: list[str], folder: Path, epoch: str) -> None:
    """Start a command and kill it, with no chance to clean up, once history.csv holds `epoch`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "training", *arguments], cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while epoch not in finished_epochs(folder):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_killed_in_both_phases_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Shuffling, augmentation and dropout included; each time in a new process, and once in this one, undisturbed."""
    config, epochs = tiny(tmp_path, transfer=16, finetune=5), {"pretrain": 1, "transfer": 16, "finetune": 5}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run.fit(config, whole)
    kill_after(["fit", str(config), "--out", str(killed)], killed, "transfer 5")
    assert "finetune 1" not in finished_epochs(killed)
    kill_after(["resume", str(killed)], killed, "finetune 2")
    assert record(killed)["status"] == "running"
    found = command_line("resume", killed, env=environment())
    assert found.returncode == 0, found.stderr
    assert digests(killed) == digests(whole)
    assert {stem: phase["epochs"] for stem, phase in record(killed)["phases"].items()} == epochs
    assert finished_epochs(killed) == finished_epochs(whole)


@pytest.mark.slow
def test_mixed_precision_is_recorded_and_saved_in_single_precision(tmp_path: Path) -> None:
    """Quietly: nothing on stderr from the start of TensorFlow to its last operation, and one line on stdout."""
    config = tiny(tmp_path, transfer=1, finetune=1)
    text = config.read_text(encoding="utf-8")
    config.write_text('precision = "mixed_bfloat16"\n' + text, encoding="utf-8")
    found = command_line("fit", config, "--out", tmp_path / "run", "--quiet", env=as_started_by_a_user())
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith(f"{tmp_path / 'run'}: checkpoints, ")
    assert found.stdout.count("\n") == 1
    assert record(tmp_path / "run")["config"]["precision"] == "mixed_bfloat16"
    script = (
        "import sys; from pathlib import Path; from training.backbones import load_model\n"
        "model = load_model(Path(sys.argv[1]))\n"
        "assert {layer.dtype_policy.name for layer in model.layers} == {'float32'}"
    )
    path = tmp_path / "run" / "finetune.keras"
    checked = subprocess.run([sys.executable, "-c", script, path], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", '[phases.finetune.preserve]\nfrom = "transfer"\nweight = 2\non = "all"\n'])
def test_several_devices_share_the_batches(tmp_path: Path, more: str) -> None:
    """Two logical CPUs stand in for two GPUs; the result is that of one device up to rounding."""
    script = """
import sys
from pathlib import Path
from training import framework, run
framework.tf.config.set_logical_device_configuration(
    framework.tf.config.list_physical_devices("CPU")[0], [framework.tf.config.LogicalDeviceConfiguration()] * 2
)
two = framework._strategy("CPU")
assert two.num_replicas_in_sync == 2
framework._strategy = lambda: two
run.fit(Path(sys.argv[1]), Path(sys.argv[2]))
"""
    config = tiny(tmp_path, transfer=1, finetune=2, more=more)
    text = config.read_text(encoding="utf-8").replace('weights = "none"', "")
    # BatchNorm in training mode counts per device, so the phase that has it is left out.
    config.write_text(text.replace("[phases.pretrain]\nepochs = 1", ""), encoding="utf-8")
    run.fit(config, tmp_path / "one")
    done = subprocess.run(
        [sys.executable, "-c", script, config, tmp_path / "two"],
        cwd=ROOT, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    losses = [record(tmp_path / name)["phases"]["finetune"]["metrics"]["test"]["loss"] for name in ("one", "two")]
    # Adam divides a gradient by its own size, so the rounding of tiny ones moves weights: 1.6e-4 measured.
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    kept = [_read_history(tmp_path / name)[-1]["val_preserve"] for name in ("one", "two")]
    assert [bool(value) for value in kept] == [bool(more)] * 2
    assert [float(value or 0) for value in kept] == pytest.approx([float(kept[0] or 0)] * 2, abs=0.01)

"""What the study runs, and when: configurations parse, steps are skipped only where their result is up to date."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from harness.evaluation.study_file import StudyConfig
from scripts.study import steps
from scripts.study.starts import SEEDS, STARTS, Start

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("config", steps.STUDIES.values(), ids=str)
def test_every_study_is_sound(config: Path) -> None:
    study = StudyConfig.model_validate(tomllib.loads((ROOT / config).read_text(encoding="utf-8")))
    assert study.architecture[0].name == "MobileNetV2"


def test_every_training_of_the_study_is_there() -> None:
    configs = [path for start in STARTS for path in (start.config, start.pretraining) if path]
    assert all((ROOT / path).is_file() for path in configs)


def test_the_studies_name_the_graphs_that_the_steps_export() -> None:
    """The replicates and the kept epochs of each training's own configuration."""
    drift, along = (tomllib.loads((ROOT / path).read_text(encoding="utf-8")) for path in steps.STUDIES.values())
    for start, pair, series in zip(STARTS, drift["architecture"], along["architecture"], strict=True):
        assert pair["name"] == series["name"] == start.name
        folder = f"../{start.exported}/onnx"
        names = ["finetune", *(f"finetune.seed{seed}" for seed in range(1, SEEDS))]
        assert pair["before"] == f"{folder}/transfer.onnx"
        assert pair["after"] == [f"{folder}/{name}.onnx" for name in names]
        first, *epochs, last = series["checkpoints"]
        assert (first, last) == (pair["before"], pair["after"][0])
        trained = tomllib.loads((ROOT / start.config).read_text(encoding="utf-8"))["phases"]["finetune"]
        assert trained["checkpoint_every"] == 1
        assert epochs == [f"../{start.epochs}/onnx/epoch{n:02d}.onnx" for n in range(1, trained["epochs"])]
        assert trained["seeds"][:SEEDS] == list(range(SEEDS))


def test_a_result_is_current_until_a_source_is_newer(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.touch()
    assert not steps.current(target, [source])
    target.touch()
    os.utime(source, (1, 1))
    assert steps.current(target, [source])
    os.utime(target, (0, 0))
    assert not steps.current(target, [source])


def test_training_starts_resumes_or_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, word in (("begun", "running"), ("done", "complete")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"status": word}))
    called: list[tuple[object, ...]] = []
    names = ("new", "begun", "done")
    starts = [Start(name, "made", tmp_path / name, Path(f"{name}.toml")) for name in names]
    monkeypatch.setattr(steps, "STARTS", starts)
    monkeypatch.setattr(steps, "command", lambda *words: called.append(words))
    steps.train_all()
    fit = ("training", "fit", Path("new.toml"), "--out", tmp_path / "new")
    assert called == [fit, ("training", "resume", tmp_path / "begun")]


def test_what_a_network_starts_from_is_trained_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[object, ...]] = []
    start = Start("made", "phantoms", tmp_path / "run", Path("run.toml"), Path("before.toml"))
    monkeypatch.setattr(steps, "STARTS", [start])
    monkeypatch.setattr(steps, "command", lambda *words: called.append(words))
    steps.train_all()
    assert [words[2] for words in called] == [Path("before.toml"), Path("run.toml")]


def test_a_command_that_fails_stops_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda words: subprocess.CompletedProcess(words, 3))
    with pytest.raises(SystemExit, match="exit code 3; mend what the command says"):
        steps.command("harness", "env")


def test_phases_and_kept_epochs_are_described_for_export(tmp_path: Path) -> None:
    """Without pre-training, whose classes are others; the last epoch is the phase's own checkpoint."""
    start = Start("made", "phantoms", tmp_path, Path("run.toml"))
    kept = [{"epoch": n, "checkpoint": f"finetune.epoch{n:03d}.keras", "weights_digest": str(n)} for n in (1, 2)]
    phases = {
        "pretrain": {"phase": "pretrain", "checkpoint": "pretrain.keras", "epochs": 1},
        "finetune": {"phase": "finetune", "checkpoint": "finetune.keras", "epochs": 2, "along": kept},
    }
    (tmp_path / "run.json").write_text(json.dumps({"architecture": "Made", "phases": phases}))
    assert list(steps.phases_of(start)) == ["finetune"]
    for folder, found in ((start.exported, steps.phases_of(start)), (start.epochs, steps.epochs_of(start))):
        steps.describe(folder, steps.facts_of(start.run), found)
    found = steps.facts_of(start.epochs)
    assert found["architecture"] == "Made"
    assert list(found["phases"]) == ["epoch01"]
    assert found["phases"]["epoch01"]["weights_digest"] == "1"
    assert (start.epochs / found["phases"]["epoch01"]["checkpoint"]).resolve() == tmp_path / "finetune.epoch001.keras"


def test_a_description_that_says_the_same_is_left_alone(tmp_path: Path) -> None:
    """Else every export would be older than what it is made of."""
    for _ in range(2):
        steps.describe(tmp_path / "x", {"status": "complete"}, {"a": {}})
        os.utime(tmp_path / "x/run.json", (1, 1))
    steps.describe(tmp_path / "x", {"status": "complete"}, {"a": {}})
    assert (tmp_path / "x/run.json").stat().st_mtime == 1
    steps.describe(tmp_path / "x", {"status": "complete"}, {"b": {}})
    assert (tmp_path / "x/run.json").stat().st_mtime > 1


def test_only_what_is_not_exported_yet_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[object, ...]] = []
    monkeypatch.setattr(steps, "command", lambda *words: called.append(words))
    (tmp_path / "run.json").write_text(json.dumps({"phases": {"finetune": {"checkpoint": "finetune.keras"}}}))
    (tmp_path / "finetune.keras").touch()
    steps.export(tmp_path)
    assert len(called) == 1
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx/finetune.onnx").touch()
    steps.export(tmp_path)
    assert len(called) == 1

"""What the study runs, and when: configurations parse, steps are skipped only where their result is up to date."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from harness.evaluation.study_file import StudyConfig
from scripts.study import steps

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("config", steps.STUDIES.values(), ids=str)
def test_every_study_is_sound(config: Path) -> None:
    study = StudyConfig.model_validate(tomllib.loads((ROOT / config).read_text(encoding="utf-8")))
    assert study.architecture[0].name == "MobileNetV2"


@pytest.mark.parametrize("config", steps.CONFIGS.values(), ids=str)
def test_every_training_of_the_study_is_there(config: Path) -> None:
    assert (ROOT / config).is_file()


def test_the_study_along_the_training_names_every_epoch() -> None:
    """Of `checkpoint_every` and the epochs of the training's own configuration."""
    training = tomllib.loads((ROOT / steps.CONFIGS[steps.REAL]).read_text(encoding="utf-8"))["phases"]["finetune"]
    study = tomllib.loads((ROOT / steps.STUDIES[steps.TRAINING]).read_text(encoding="utf-8"))
    expected = [f"epoch{n:02d}" for n in range(1, training["epochs"] + 1, training["checkpoint_every"])]
    assert [Path(path).stem for path in study["architecture"][0]["checkpoints"]] == ["transfer", *expected]


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
    runs = {tmp_path / name: Path(f"{name}.toml") for name in ("new", "begun", "done")}
    for name, word in (("begun", "running"), ("done", "complete")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"status": word}))
    called: list[tuple[object, ...]] = []
    monkeypatch.setattr(steps, "CONFIGS", runs)
    monkeypatch.setattr(steps, "command", lambda *words: called.append(words))
    steps.train_all()
    new, begun = list(runs)[:2]
    assert called == [("training", "fit", Path("new.toml"), "--out", new), ("training", "resume", begun)]


def test_a_command_that_fails_stops_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda words: subprocess.CompletedProcess(words, 3))
    with pytest.raises(SystemExit, match="exit code 3; mend what the command says"):
        steps.command("harness", "env")


def test_epochs_are_described_like_phases(tmp_path: Path) -> None:
    kept = [{"epoch": n, "checkpoint": f"finetune.epoch{n:03d}.keras", "weights_digest": str(n)} for n in (1, 2)]
    phases = {"transfer": {}, "finetune": {"classes": ["a"], "weights_digest": "x", "along": kept}}
    (tmp_path / "run.json").write_text(json.dumps({"architecture": "Made", "phases": phases}))
    steps.describe_epochs(tmp_path, tmp_path / "epochs")
    found = json.loads((tmp_path / "epochs/run.json").read_text())
    assert found["architecture"] == "Made"
    assert list(found["phases"]) == ["epoch01", "epoch02"]
    assert found["phases"]["epoch02"]["weights_digest"] == "2"
    (tmp_path / "finetune.epoch001.keras").touch()
    assert steps.checkpoints_of(tmp_path / "epochs")["epoch01"].is_file()


def test_the_sample_holds_as_many_test_images_of_each_class(tmp_path: Path) -> None:
    rows = [(f"{c}/{n}.png", c, f"g{n}", "train" if n % 3 else "test") for c in ("a", "b") for n in range(30)]
    for order in (rows, rows[::-1]):  # the choice does not depend on the order of the split
        lines = [",".join(row) for row in (("file", "class", "group", "split"), *order)]
        (tmp_path / "split.csv").write_text("\n".join(lines))
        steps.write_sample(tmp_path / "split.csv", tmp_path / f"{order is rows}.csv", each=4)
    chosen = [list(csv.DictReader((tmp_path / f"{name}.csv").read_text().splitlines())) for name in (True, False)]
    assert sorted(row["file"] for row in chosen[0]) == sorted(row["file"] for row in chosen[1])
    assert Counter(row["class"] for row in chosen[0]) == {"a": 4, "b": 4}
    assert {row["split"] for row in chosen[0]} == {"test"}

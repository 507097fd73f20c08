"""Whole runs, small: what they leave behind, that they repeat, and that they stop with a sentence."""

from __future__ import annotations

import csv
import errno
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from harness.common.errors import CannotEvaluateError, InputError
from harness.images.loading import RULE, load_grey
from tests.training_runs import MODEL, MORE, digests, record, tiny, write_backbone
from training import files, phase, run
from training.backbones import load_model
from training.config import Data
from training.framework import tf
from training.model import weights_digest
from training.phantoms import write_phantoms
from training.samples import read_manifest
from training.task import read_dataset


def weights(folder: Path, stem: str) -> dict[str, np.ndarray]:
    return {weight.path: np.asarray(weight) for weight in load_model(folder / f"{stem}.keras").weights}


def changed(folder: Path, before: str, after: str) -> set[str]:
    old, new = weights(folder, before), weights(folder, after)
    return {path for path in old if not np.array_equal(old[path], new[path])}


def history(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def timeless(folder: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in history(folder)]


def test_record_says_what_was_done(finished_training: Path) -> None:
    found = record(finished_training)
    assert found["status"] == "complete"
    assert found["image_rule"] == RULE
    assert found["input_size"] == [32, 32]
    assert found["cam_layers"] == {"last": "third_out", "penultimate": "second_out"}
    assert list(found["phases"]) == ["pretrain", "transfer", "finetune", "late", "late.seed7"]
    late = found["phases"]["late.seed7"]
    assert (late["phase"], late["seed"], late["epochs"], late["checkpoint"]) == ("late", 7, 2, "late.seed7.keras")
    assert set(late["metrics"]) == {"validation", "test"}
    assert not (finished_training / "state.npz").exists()


def test_digests_are_those_of_the_saved_checkpoints(finished_training: Path) -> None:
    found = record(finished_training)["phases"]
    for entry in [*found.values(), *found["late"]["along"]]:
        assert weights_digest(load_model(finished_training / entry["checkpoint"])) == entry["weights_digest"]
    assert [kept["epoch"] for kept in found["late"]["along"]] == [1, 2]
    assert len(set(digests(finished_training).values())) == 5


def test_transfer_changes_the_head_alone(finished_training: Path) -> None:
    assert changed(finished_training, "pretrain", "transfer") == {"logits/kernel", "logits/bias"}
    assert record(finished_training)["phases"]["transfer"]["cached_features"]


def test_finetune_changes_everything_but_the_statistics(finished_training: Path) -> None:
    moved, every = changed(finished_training, "transfer", "finetune"), set(weights(finished_training, "transfer"))
    assert every - moved == {path for path in every if "moving_" in path}


def test_named_phase_changes_what_lies_behind_its_layer(finished_training: Path) -> None:
    moved = {path.split("/")[0] for path in changed(finished_training, "finetune", "late")}
    assert moved == {"third_conv", "third_bn", "logits"}


def test_history_has_a_line_per_epoch(finished_training: Path) -> None:
    lines = [(row["checkpoint"], row["epoch"]) for row in history(finished_training)]
    assert lines == [
        ("pretrain", "1"), ("transfer", "1"), ("transfer", "2"), ("finetune", "1"), ("finetune", "2"),
        ("late", "1"), ("late", "2"), ("late.seed7", "1"), ("late.seed7", "2"),
    ]  # fmt: skip
    rates = [float(row["learning_rate"]) for row in history(finished_training) if row["checkpoint"] == "finetune"]
    assert rates == pytest.approx([1e-4, 0], abs=1e-9)  # warm-up for one epoch, then the cosine down to zero


def test_no_patient_is_in_two_parts(finished_training: Path) -> None:
    with (finished_training / "split.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len({(row["group"], row["split"]) for row in rows}) == len({row["group"] for row in rows}) == 80
    assert all((finished_training / row["file"]).is_file() for row in rows)


def test_report_shows_every_checkpoint(finished_training: Path) -> None:
    report = (finished_training / "report.txt").read_text(encoding="utf-8")
    accuracy = record(finished_training)["phases"]["late.seed7"]["metrics"]["test"]["accuracy"]
    line = next(line for line in report.splitlines() if line.startswith("late.seed7"))
    assert f"{accuracy:.3f}" in line
    assert cv2.imread(str(finished_training / "curves.png")).shape[0] > 200


def test_event_files_hold_the_history(finished_training: Path) -> None:
    file = finished_training / "tensorboard" / "finetune" / "events.out.tfevents.0"
    events = [tf.compat.v1.Event.FromString(raw.numpy()) for raw in tf.data.TFRecordDataset(str(file))]
    assert events[0].file_version == "brain.Event:2"
    found = {(e.step, value.tag): value.simple_value for e in events for value in e.summary.value}
    rows = [row for row in history(finished_training) if row["checkpoint"] == "finetune"]
    assert found[(2, "val_loss")] == pytest.approx(float(rows[1]["val_loss"]))


@pytest.mark.slow
def test_interrupted_in_every_phase_it_ends_with_the_same_bits(
    finished_training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the test of reproducibility: another process start, the same configuration, the same weights."""
    kept_writer, epochs = run.Run._write_history, []

    def interrupt(self: Any, progress: Any) -> None:
        kept_writer(self, progress)
        epochs.append(progress.stem)
        if progress.epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(run.Run, "_write_history", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.fit(tiny(tmp_path, more=MORE), tmp_path / "run")
    while record(tmp_path / "run")["status"] == "running":
        try:
            run.resume(tmp_path / "run")
        except KeyboardInterrupt:
            continue
    assert len(epochs) == len(history(finished_training))  # no epoch was trained twice
    assert digests(tmp_path / "run") == digests(finished_training)
    assert timeless(tmp_path / "run") == timeless(finished_training)


@pytest.mark.slow
def test_the_same_configuration_gives_the_same_bits(finished_training: Path, tmp_path: Path) -> None:
    config = tiny(tmp_path)
    text = config.read_text(encoding="utf-8")
    config.write_text(text[: text.index("[phases.transfer]")], encoding="utf-8")
    again = digests(run.fit(config, tmp_path / "run"))
    assert again == {"pretrain": digests(finished_training)["pretrain"]}


def test_resuming_a_complete_run_changes_nothing(finished_training: Path) -> None:
    before = (finished_training / "late.keras").stat().st_mtime_ns
    run.resume(finished_training)
    assert (finished_training / "late.keras").stat().st_mtime_ns == before


@pytest.mark.slow
def test_full_disk_is_a_sentence_and_what_was_finished_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, left = files._to_disk, ["the first epoch's state fits, the next does not"]

    def full(path: Path) -> None:
        if path.name.endswith(phase.STATE) and not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        if path.name.endswith(phase.STATE):
            left.pop()
        sync(path)

    config = tiny(tmp_path, pretrain=2, transfer=1, finetune=1)
    monkeypatch.setattr(files, "_to_disk", full)
    with pytest.raises(CannotEvaluateError, match=r"state\.npz: no space left .* training resume"):
        run.fit(config, tmp_path / "run")
    assert [row["epoch"] for row in history(tmp_path / "run")] == ["1"]
    assert not list((tmp_path / "run").glob(".partial*"))
    with np.load(tmp_path / "run" / "state.npz") as state:
        assert '"epoch": 1' in str(state["facts"])


@pytest.mark.slow
def test_loss_that_is_not_finite_is_a_sentence(tmp_path: Path) -> None:
    config = tiny(tmp_path, pretrain=2)
    config.write_text(config.read_text().replace("[phases.pretrain]", "[phases.pretrain]\nlearning_rate = 1e36"))
    with pytest.raises(CannotEvaluateError, match=r"pretrain, epoch 1, step .: the loss is not finite; lower learning"):
        run.fit(config, tmp_path / "run")


def images(folder: Path, labels: dict[str, str] | None = None) -> Path:
    """A manifest of 60 drawn images; `labels` replaces class names."""
    manifest = write_phantoms(folder, 60, 60, seed=1, size=40)
    text = manifest.read_text(encoding="utf-8")
    for old, new in (labels or {}).items():
        text = text.replace(f",{old},", f",{new},")
    manifest.write_text(text, encoding="utf-8")
    return manifest


FOLDER = """
[data]
manifest = "data/manifest.csv"
{more}
{model}
[phases.pretrain]
epochs = 2
"""


def fit_folder(folder: Path, data: str = "", phase: str = "") -> Path:
    write_backbone(folder)
    (folder / "c.toml").write_text(FOLDER.format(more=data, model=MODEL) + phase, encoding="utf-8")
    return run.fit(folder / "c.toml", folder / "run")


def test_unreadable_images_are_named_before_any_training(tmp_path: Path) -> None:
    manifest = images(tmp_path / "data")
    header, *rows = manifest.read_text(encoding="utf-8").splitlines()
    manifest.write_text("\n".join([header, *(row.rsplit(",", 1)[0] + "," for row in rows)]), encoding="utf-8")
    for number in (3, 5):
        (tmp_path / "data" / f"phantom-{number:05d}.jpg").write_bytes(b"\xff\xd8\xff broken" * number)
    with pytest.raises(InputError, match=r"2 of 60 images cannot be used; the first: .*00003\.jpg: .* truncated"):
        fit_folder(tmp_path)
    assert record(tmp_path / "run")["phases"] == {}


@pytest.mark.slow
def test_image_that_vanishes_during_training_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = images(tmp_path / "data")

    def vanish(*_: Any, **__: Any) -> None:
        for path in manifest.parent.glob("*.jpg"):
            path.unlink()

    monkeypatch.setattr("training.progress.Steps.on_train_batch_end", vanish)
    with pytest.raises(InputError, match=r"pretrain: .*\.jpg: no such file"):
        fit_folder(tmp_path, "cache_gb = 0", "batch_size = 2")
    assert record(tmp_path / "run")["phases"] == {}


@pytest.mark.slow
def test_several_labels_per_image(tmp_path: Path) -> None:
    named = {
        "lobar_consolidation": "opacity",
        "peripheral_ground_glass": "opacity|peripheral",
        "diffuse_interstitial": "peripheral",
        "apical_cavity": "opacity",
        "normal": "",
    }
    images(tmp_path / "data", named)
    folder = fit_folder(tmp_path, 'labels = "multi"')
    found = record(folder)
    assert found["score"] == "multilabel"
    assert found["classes"] == ["opacity", "peripheral"]
    assert 0 < found["phases"]["pretrain"]["metrics"]["test"]["auc"] <= 1
    assert load_model(folder / "pretrain.keras").output_shape == (None, 2)


def test_split_of_another_run_is_taken_over(finished_training: Path, tmp_path: Path) -> None:
    data = Data(
        manifest=str(finished_training / "phantoms-split" / "manifest.csv"), split=str(finished_training / "split.csv")
    )
    other = data.model_copy(update={"split": None})
    original, taken, own = (
        [row.extras["split"] for row in read_manifest(path)]
        for path in (
            finished_training / "split.csv",
            _split_file(data, tmp_path, "taken"),
            _split_file(other, tmp_path, "own"),
        )
    )
    assert taken == original
    assert own != original


def _split_file(data: Data, folder: Path, name: str) -> Path:
    path = folder / f"{name}.csv"
    read_dataset(data, folder, folder, name, seed=5).write_split(path)
    return path


def test_checkpoint_predicts_what_the_metrics_say(finished_training: Path) -> None:
    """From the file and the split alone, without any of the training code."""
    with (finished_training / "split.csv").open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    greys = np.stack([load_grey(finished_training / row["file"], (32, 32)) for row in rows])
    logits = load_model(finished_training / "finetune.keras").predict(np.repeat(greys[..., None], 3, -1), verbose=0)
    classes = record(finished_training)["classes"]
    right = [classes[k] == row["class"] for k, row in zip(logits.argmax(axis=1), rows, strict=True)]
    assert np.mean(right) == record(finished_training)["phases"]["finetune"]["metrics"]["test"]["accuracy"]


def test_occupied_and_foreign_folders_are_refused(finished_training: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds a run; go on with"):
        run.fit(tiny(tmp_path), finished_training)
    with pytest.raises(InputError, match=r"no run\.json; start with"):
        run.resume(tmp_path)
    for left in ("state.npz", "history.csv", "phantoms-split-late"):
        (tmp_path / left / "run").mkdir(parents=True)
        (tmp_path / left / "run" / left).touch()
        with pytest.raises(InputError, match=f"holds {left} of another run; empty it, or choose --out"):
            run.fit(tmp_path / "tiny.toml", tmp_path / left / "run")
    (tmp_path / "run.json").write_text('{"format": 99}', encoding="utf-8")
    with pytest.raises(InputError, match="format 99; this version reads 1"):
        run.resume(tmp_path)
    (tmp_path / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="not JSON"):
        run.resume(tmp_path)

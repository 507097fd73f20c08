"""`resume` over what changed meanwhile: refused by name, or accepted and recorded, and never a leak into the test."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.common.errors import InputError
from tests.training_runs import copied, digests, record
from training import run
from training.cli import main


@pytest.fixture
def cut(finished_training: Path, tmp_path: Path) -> Path:
    """A run that was interrupted in the middle of its third phase of four."""
    return copied(finished_training, tmp_path)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of runs that would have gone on: their preparation is done, their training is not."""
    began: list[Path] = []

    def train(self: run.Run) -> Path:
        self._task(self._missing()[0][0])
        began.append(self.folder)
        return self.folder

    monkeypatch.setattr(run.Run, "train", train)
    return began


def edit(path: Path, change: Callable[[str], str]) -> None:
    text = path.read_text(encoding="utf-8")
    assert change(text) != text
    path.write_text(change(text), encoding="utf-8")


def edit_record(folder: Path, **changed: Any) -> None:
    kept = {key: value for key, value in (record(folder) | changed).items() if value is not None}
    (folder / "run.json").write_text(json.dumps(kept), encoding="utf-8")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "split.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def manifest(folder: Path) -> Path:
    return folder / "phantoms-split" / "manifest.csv"


def without(folder: Path, count: int) -> None:
    """Take the last images out of the manifest."""
    edit(manifest(folder), lambda text: "\n".join(text.splitlines()[:-count]) + "\n")


def refusal(folder: Path) -> str:
    """The sentence with which `resume` refuses, having changed no file."""
    before = {path: path.read_bytes() for path in folder.glob("*.*")}
    with pytest.raises(InputError) as caught:
        run.resume(folder)
    assert {path: path.read_bytes() for path in folder.glob("*.*")} == before
    return str(caught.value)


def accepted(folder: Path) -> list[str]:
    """What run.json records when the changes are accepted."""
    run.resume(folder, accept_changes=True)
    entry = record(folder)["changes"][-1]
    assert entry["time"].endswith("+00:00")
    return entry["changes"]


def test_unchanged_run_goes_on_without_a_word(cut: Path, untrained: list[Path]) -> None:
    run.resume(cut)
    assert untrained == [cut]
    assert "changes" not in record(cut)


def test_unchanged_run_goes_on_where_it_was_moved_to(cut: Path, untrained: list[Path]) -> None:
    moved = cut.parent.rename(cut.parent.with_name("moved")) / "cut"
    run.resume(moved)
    assert untrained == [moved]


def test_edited_manifest_is_refused_or_recorded(cut: Path, untrained: list[Path]) -> None:
    without(cut, 2)
    edit(manifest(cut), lambda text: text.replace("phantom-00000.jpg,normal", "phantom-00000.jpg,apical_cavity"))
    message = refusal(cut)
    assert "2 removed (first: phantoms-split/phantom-00098.jpg)" in message
    assert "1 of another class (first: phantom-00000.jpg: apical_cavity, was normal)" in message
    assert f"`python -m training resume {cut} --accept-changes`" in message
    assert untrained == []
    assert accepted(cut)[0].startswith("images of split.csv: 2 removed")
    assert len(rows(cut)) == record(cut)["data"]["images"] == 98
    run.resume(cut)  # nothing is asked twice
    assert len(record(cut)["changes"]) == 1


def test_images_that_were_trained_on_are_never_tested(cut: Path, untrained: list[Path]) -> None:
    """Without a fifth of the images the same seed gives quite another split, which is not what is wanted now."""
    before = {row["group"]: row["split"] for row in rows(cut)}
    without(cut, 20)
    accepted(cut)
    assert untrained == [cut]
    assert {row["group"]: row["split"] for row in rows(cut)}.items() <= before.items()


def test_other_content_of_an_image_is_refused(cut: Path) -> None:
    edit(manifest(cut), lambda text: "\n".join(line.rsplit(",", 1)[0] for line in text.splitlines()) + "\n")
    (cut / "phantoms-split" / "phantom-00004.jpg").write_bytes(
        (cut / "phantoms-split" / "phantom-00005.jpg").read_bytes()
    )
    assert "1 with other content (first: phantom-00004.jpg)" in refusal(cut)


def test_edited_split_is_refused(cut: Path) -> None:
    edit(cut / "split.csv", lambda text: text.replace(",test,", ",train,", 1))
    assert "1 in another part of the split" in refusal(cut)


@pytest.mark.usefixtures("untrained")
def test_new_class_is_refused_or_begins_the_phase_anew(cut: Path) -> None:
    def renamed(text: str) -> str:
        """Five patients of the last hundred."""
        return "".join(
            line.replace("normal", "other") if k % 4 == 1 else line for k, line in enumerate(text.splitlines(True))
        )

    edit(manifest(cut), renamed)
    message = refusal(cut)
    assert "classes are apical_cavity, diffuse_interstitial, lobar_consolidation, normal, other, peripheral" in message
    assert (cut / "state.npz").exists()
    accepted(cut)
    assert not (cut / "state.npz").exists()
    assert "other" in record(cut)["classes"]


def test_edited_configuration_is_refused_or_used(cut: Path, untrained: list[Path]) -> None:
    edit(cut.parent / "tiny.toml", lambda text: text.replace("checkpoint_every = 1", "checkpoint_every = 2"))
    finished_phases = digests(cut)
    assert "changed since it was begun: phases.late.checkpoint_every is 2, was 1; restore it" in refusal(cut)
    assert accepted(cut) == ["phases.late.checkpoint_every is 2, was 1"]
    assert record(cut)["config"]["phases"]["late"]["checkpoint_every"] == 2
    assert digests(cut) == finished_phases
    run.resume(cut)
    assert untrained == [cut, cut]


def test_comment_in_the_configuration_is_no_change(cut: Path, untrained: list[Path]) -> None:
    edit(cut.parent / "tiny.toml", lambda text: "# a remark\n" + text)
    run.resume(cut)
    assert untrained == [cut]


def test_configuration_that_is_gone_is_not_missed(cut: Path, untrained: list[Path]) -> None:
    (cut.parent / "tiny.toml").unlink()
    run.resume(cut)
    assert untrained == [cut]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("seed = 0", "seed = 1", "seed is 1, was 0"),
        ("dropout = 0.3", "dropout = 0.1", "model.dropout is 0.1, was 0.3"),
        ("batch_size = 8", "batch_size = 4", "phases.finetune.batch_size is 4, was 8"),
        ("images = 100", "images = 101", "data.phantoms.images is 101, was 100"),
    ],
)
def test_what_was_trained_with_cannot_be_changed_at_all(cut: Path, old: str, new: str, expected: str) -> None:
    edit(cut.parent / "tiny.toml", lambda text: text.replace(old, new))
    assert f"{cut}: what has been trained cannot change under it: {expected}; restore it" in refusal(cut)
    with pytest.raises(InputError, match="cannot change under it"):
        run.resume(cut, accept_changes=True)


@pytest.mark.usefixtures("untrained")
def test_other_versions_are_refused_or_recorded(cut: Path) -> None:
    versions = record(cut)["versions"]
    edit_record(cut, versions=versions | {"keras": "3.0.0"}, image_rule="grey-squash/0")
    changed = [f"keras is {versions['keras']}, was 3.0.0", "image rule is grey-squash/1, was grey-squash/0"]
    assert "; ".join(changed) in refusal(cut)
    assert accepted(cut) == changed
    assert (record(cut)["versions"], record(cut)["image_rule"]) == (versions, "grey-squash/1")


def test_all_that_changed_is_said_at_once(cut: Path) -> None:
    edit(cut.parent / "tiny.toml", lambda text: text.replace("checkpoint_every = 1", "checkpoint_every = 2"))
    edit_record(cut, versions=record(cut)["versions"] | {"keras": "3.0.0"})
    without(cut, 1)
    message = refusal(cut)
    assert all(part in message for part in ("checkpoint_every is 2", "was 3.0.0", "1 removed"))


def test_run_of_an_earlier_version_goes_on(cut: Path, untrained: list[Path]) -> None:
    """It records no configuration file and no digest per image; what it does record is checked."""
    edit_record(cut, config_file=None, config_sha256=None)
    edit(cut / "split.csv", lambda text: "\n".join(line.rsplit(",", 1)[0] for line in text.splitlines()) + "\n")
    edit(cut.parent / "tiny.toml", lambda text: text.replace("seed = 0", "seed = 1"))
    run.resume(cut)
    assert untrained == [cut]
    assert "changes" not in record(cut)
    without(cut, 1)
    assert "1 removed" in refusal(cut)


def test_data_on_which_nothing_was_trained_may_change(cut: Path, untrained: list[Path]) -> None:
    """As after an image that could not be read."""
    (cut / "state.npz").unlink()
    edit_record(cut, phases={}, versions={"keras": "3.0.0"})
    without(cut, 1)
    run.resume(cut)
    assert untrained == [cut]
    assert len(rows(cut)) == 99
    assert record(cut)["versions"] != {"keras": "3.0.0"}


def test_complete_run_asks_for_its_configuration_alone(finished_training: Path, tmp_path: Path) -> None:
    folder = copied(finished_training, tmp_path, "run")
    without(folder, 1)
    edit_record(folder, versions={"keras": "3.0.0"})
    run.resume(folder)
    edit(folder.parent / "tiny.toml", lambda text: text + "[phases.more]\nepochs = 1\nlearning_rate = 1e-3\n")
    message = refusal(folder)
    assert all(part in message for part in ("phases.more is new", "was 3.0.0", "1 removed"))


def test_command_line_refuses_with_one_sentence(cut: Path) -> None:
    without(cut, 1)
    found = CliRunner().invoke(main, ["resume", str(cut)])
    assert isinstance(found.exception, InputError)
    assert found.exception.exit_code == 2
    assert "\n" not in str(found.exception)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", r"run\.json: format None; this version reads 1"),
        ('{"format": 1}', r"run\.json: lacks 'config'; restore the file"),
        (
            '{"format": 1, "config": {}, "config_folder": "", "phases": {}}',
            r"run\.json: config: data: Field required; ",
        ),
    ],
)
def test_record_that_cannot_be_read_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        run.resume(tmp_path)


def test_damaged_history_is_refused(cut: Path) -> None:
    edit(cut / "history.csv", lambda text: text[:-30])
    with pytest.raises(InputError, match=r"history\.csv: not as it was written; restore it, or delete it"):
        run.resume(cut)


def test_checkpoint_of_another_run_is_refused(cut: Path) -> None:
    """The state of the phase that goes on would be put over it, but its replicates start from it."""
    (cut / "transfer.keras").write_bytes((cut / "pretrain.keras").read_bytes())
    with pytest.raises(InputError, match=r"transfer\.keras: its weights are not those that run\.json records"):
        run.resume(cut)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_damaged_state_is_refused(cut: Path, content: bytes) -> None:
    (cut / "state.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"state\.npz: damaged .*; delete it to start its phase again"):
        run.resume(cut)


@pytest.mark.slow
def test_accepted_changes_are_trained_with_and_reported(cut: Path) -> None:
    """A phase is added, and images are taken away; the phases that were finished keep their weights."""
    before = digests(cut)
    without(cut, 20)
    edit(cut.parent / "tiny.toml", lambda text: text + "[phases.more]\nepochs = 1\nlearning_rate = 1e-3\n")
    run.resume(cut, accept_changes=True)
    found = record(cut)
    assert found["status"] == "complete"
    assert list(found["phases"]) == ["pretrain", "transfer", "finetune", "late", "late.seed7", "more"]
    assert before.items() <= digests(cut).items()
    assert (
        found["phases"]["more"]["data_digest"] == found["data"]["digest"] != found["phases"]["transfer"]["data_digest"]
    )
    assert "changed, accepted 2" in (cut / "report.txt").read_text(encoding="utf-8")

"""What `resume` finds changed: the configuration's keys, versions, and images, each named and counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.common.errors import InputError
from harness.images.rule import GREY
from training.config import Config, Data
from training.framework import versions
from training.resume_checks import config_changes, data_changes, keep_parts, version_changes
from training.samples import Sample, content_digests, one_hot
from training.task import Dataset

CLASSES = ("a", "b")
DATA = Data(manifest="m.csv")


def dataset(folder: Path, count: int = 12) -> Dataset:
    """Two classes in turn, each image a patient of its own, two thirds of them to train on."""
    folder.mkdir(exist_ok=True)
    for k in range(count):
        (folder / f"{k}.png").write_bytes(bytes([k]))
    samples = [Sample(f"{k}.png", folder / f"{k}.png", (CLASSES[k % 2],), f"p{k}") for k in range(count)]
    chosen = np.repeat([0, 1, 2], [count - 4, 2, 2])
    return Dataset(samples, CLASSES, False, one_hot(samples, CLASSES), chosen, content_digests(samples))


def of(samples: list[Sample], chosen: np.ndarray, classes: tuple[str, ...] = CLASSES) -> Dataset:
    return Dataset(samples, classes, False, one_hot(samples, classes), chosen, content_digests(samples))


@pytest.fixture
def before(tmp_path: Path) -> Dataset:
    """With its split.csv in `run`."""
    (tmp_path / "run").mkdir()
    found = dataset(tmp_path / "data")
    found.write_split(tmp_path / "run" / "split.csv")
    return found


def changes(tmp_path: Path, now: Dataset, digest: str | None = None, was: Data = DATA) -> list[str]:
    return [change.what for change in data_changes(tmp_path / "run" / "split.csv", now, digest, was)]


def edited(before: Dataset, index: int, **fields: Any) -> Dataset:
    samples = [replace(s, **fields) if k == index else s for k, s in enumerate(before.samples)]
    return of(samples, before.chosen)


def test_nothing_changed(before: Dataset, tmp_path: Path) -> None:
    assert changes(tmp_path, before) == []


def test_added_and_removed_images_are_counted_and_named(before: Dataset, tmp_path: Path) -> None:
    now = of(before.samples[1:], before.chosen[1:])
    assert changes(tmp_path, now) == ["images of split.csv: 1 removed (first: ../data/0.png)"]
    more = dataset(tmp_path / "data", 14)
    now = of(more.samples, np.append(before.chosen, [0, 0]))
    assert changes(tmp_path, now) == ["images of split.csv: 2 added (first: 12.png)"]


def test_other_class_patient_and_part_are_named_with_what_they_were(before: Dataset, tmp_path: Path) -> None:
    assert changes(tmp_path, edited(before, 0, labels=("b",))) == [
        "images of split.csv: 1 of another class (first: 0.png: b, was a)"
    ]
    assert changes(tmp_path, edited(before, 3, group="p4")) == [
        "images of split.csv: 1 of another patient (first: 3.png: p4, was p3)"
    ]
    chosen = before.chosen.copy()
    chosen[[5, 11]] = [2, 0]
    assert changes(tmp_path, replace(before, chosen=chosen)) == [
        "images of split.csv: 2 in another part of the split (first: 5.png: test, was train)"
    ]


def test_other_content_is_named(before: Dataset, tmp_path: Path) -> None:
    (tmp_path / "data" / "7.png").write_bytes(b"other")
    now = of(before.samples, before.chosen)
    assert changes(tmp_path, now) == ["images of split.csv: 1 with other content (first: 7.png)"]


def test_other_order_is_a_change(before: Dataset, tmp_path: Path) -> None:
    """Batches and augmentation follow the order of the manifest."""
    now = of(before.samples[::-1], before.chosen[::-1])
    assert changes(tmp_path, now) == ["images of split.csv: all there, in another order"]


def test_missing_split_is_a_change(before: Dataset, tmp_path: Path) -> None:
    (tmp_path / "run" / "split.csv").unlink()
    assert "split.csv is gone" in changes(tmp_path, before)[0]
    assert keep_parts(before, tmp_path / "run" / "split.csv") is before


def test_moved_images_are_none(before: Dataset, tmp_path: Path) -> None:
    (tmp_path / "data").rename(tmp_path / "moved")
    samples = [replace(sample, path=tmp_path / "moved" / sample.file) for sample in before.samples]
    assert changes(tmp_path, of(samples, before.chosen)) == []
    found = changes(tmp_path, of(samples[1:], before.chosen[1:]))
    assert found == ["images of split.csv: 1 removed (first: ../data/0.png)"]
    assert changes(tmp_path, of(samples[::-1], before.chosen[::-1]), before.digest) == [
        "images of split.csv: all there, in another order"
    ]
    old_format(tmp_path)
    assert changes(tmp_path, of(samples, before.chosen), before.digest) == []


def old_format(tmp_path: Path) -> None:
    """Leave out the column sha256, as earlier versions did."""
    path = tmp_path / "run" / "split.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("".join(line.rsplit(",", 1)[0] + "\n" for line in lines), encoding="utf-8")


def test_split_of_an_earlier_version_is_compared_by_the_digest_of_all(before: Dataset, tmp_path: Path) -> None:
    old_format(tmp_path)
    assert changes(tmp_path, before, before.digest) == []
    (tmp_path / "data" / "7.png").write_bytes(b"other")
    now = of(before.samples, before.chosen)
    assert "at least one with other content or under another name" in changes(tmp_path, now, before.digest)[0]
    assert changes(tmp_path, edited(before, 3, group="p4"), before.digest) == [
        "images of split.csv: 1 of another patient (first: 3.png: p4, was p3)"
    ]


def test_split_that_lost_a_column_or_its_parts_is_refused(before: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "run" / "split.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("group", "patient"), encoding="utf-8")
    with pytest.raises(InputError, match=r"split\.csv: not as it was written \('group'\)"):
        changes(tmp_path, before)
    path.write_text("file,class,group,split\nx,a,1,trian\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"split\.csv: not as it was written \(split 'trian'\)"):
        changes(tmp_path, before)


@pytest.mark.parametrize(
    ("classes", "was", "expected"),
    [
        (("b", "a"), DATA, "classes are b, a, were a, b"),
        (("a", "b"), DATA.model_copy(update={"classes": ["b", "a"]}), "classes are a, b, were b, a"),
        (("a", "b"), DATA.model_copy(update={"labels": "multi"}), "one label per image became several"),
    ],
)
def test_other_outputs_begin_a_phase_anew(
    before: Dataset, tmp_path: Path, classes: tuple[str, ...], was: Data, expected: str
) -> None:
    found = data_changes(tmp_path / "run" / "split.csv", of(before.samples, before.chosen, classes), None, was)
    assert [change.head for change in found] == [True]
    assert expected in found[0].what


@pytest.mark.usefixtures("before")
def test_known_patients_keep_their_part_and_new_ones_are_dealt_out(tmp_path: Path) -> None:
    """Known by their name, and by their images where they were renamed; training comes first."""
    samples = dataset(tmp_path / "data", 14).samples
    samples[2] = replace(samples[2], group="renamed")
    samples[11] = replace(samples[11], group="renamed")  # was tested, and belongs to a trained patient now
    now = of(samples, np.array([2] * 12 + [0, 2]))
    assert keep_parts(now, tmp_path / "run" / "split.csv").chosen.tolist() == [0] * 8 + [1, 1, 2, 0] + [0, 2]
    assert changes(tmp_path, now) == [
        "images of split.csv: 2 added (first: 12.png), 2 of another patient (first: 2.png: renamed, was p2), "
        "1 in another part of the split (first: 11.png: train, was test)"
    ]


def config(**changed: Any) -> dict[str, Any]:
    return {
        "data": {"manifest": "m.csv"},
        "model": {"backbone": "DenseNet121"},
        "phases": {"pretrain": {"epochs": 1}, "transfer": {"epochs": 1}, "finetune": {"epochs": 2}},
        **changed,
    }


def compared(now: dict[str, Any], *begun: str) -> list[tuple[str, bool]]:
    found = config_changes(Config.model_validate(config()), Config.model_validate(now), list(begun))
    return [(change.what, change.final) for change in found]


def test_keys_that_differ_are_named_with_both_values() -> None:
    assert compared(config()) == []
    now = config()
    now["phases"]["finetune"] |= {"epochs": 3, "augment": {"shift": 0.1}}
    assert compared(now, "pretrain") == [
        ("phases.finetune.epochs is 3, was 2", False),
        ("phases.finetune.augment.shift is 0.1, was 0.0", False),
    ]
    assert compared(config(data={"manifest": "n.csv"}), "pretrain") == [
        ('data.manifest is "n.csv", was "m.csv"', False)
    ]


def test_phases_can_be_added_behind_those_that_have_begun() -> None:
    now = config()
    now["phases"] |= {"late": {"epochs": 1, "learning_rate": 1}}
    assert compared(now, "pretrain", "transfer") == [("phases.late is new", False)]
    now["phases"] = {"late": now["phases"].pop("late"), **now["phases"]}
    assert compared(now, "pretrain")[-1] == ("the phases that have begun (pretrain) are not the first", True)
    swapped = config()
    swapped["phases"] = {name: swapped["phases"][name] for name in ("pretrain", "finetune", "transfer")}
    assert compared(swapped, "pretrain") == [
        ("the order of phases is pretrain, finetune, transfer, was pretrain, transfer, finetune", False)
    ]


def test_what_has_been_trained_is_final() -> None:
    now = config(seed=3, model={"backbone": "DenseNet121", "dropout": 0.5})
    now["phases"]["pretrain"] = {"epochs": 9}
    expected = ["seed is 3, was 0", "model.dropout is 0.5, was 0.2", "phases.pretrain.epochs is 9, was 1"]
    assert compared(now, "pretrain") == [(what, True) for what in expected]
    assert compared(now) == [(what, False) for what in expected]
    del now["phases"]["pretrain"]
    assert ("phases.pretrain is gone", True) in compared(now, "pretrain")


def test_drawn_images_are_final() -> None:
    """They lie in the run directory, and would not be drawn again."""
    was = Config.model_validate(config(data={"phantoms": {"images": 800}}))
    now = Config.model_validate(config(data={"phantoms": {"images": 900}}))
    assert [(change.what, change.final) for change in config_changes(was, now, [])] == [
        ("data.phantoms.images is 900, was 800", True)
    ]


def test_versions_are_named() -> None:
    assert version_changes({"versions": versions()}, GREY) == []
    record = {"versions": versions() | {"numpy": "1.0"}, "image_rule": "other/0"}
    first, second = (change.what for change in version_changes(record, GREY))
    assert first == f"numpy is {np.__version__}, was 1.0"
    assert second == "image rule is grey-squash/1, was other/0"

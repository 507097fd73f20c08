"""Slips that training would not notice: each is one sentence before it begins."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.common.errors import EvaluationWarning, InputError
from training.config import Data
from training.dataset_checks import require_sound
from training.samples import Sample, content_digests, one_hot
from training.task import Dataset

DATA = Data(manifest="m.csv")
MULTI = Data(manifest="m.csv", labels="multi")


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Two classes in turn, each image a patient of its own."""
    for k in range(12):
        (tmp_path / f"{k}.png").write_bytes(bytes([k]))
    return [Sample(f"{k}.png", tmp_path / f"{k}.png", ("ab"[k % 2],), f"p{k}") for k in range(12)]


def dataset(samples: list[Sample], chosen: list[int] | None = None, multi: bool = False) -> Dataset:
    classes = tuple(sorted({label for sample in samples for label in sample.labels}))
    parts = np.array(chosen or [k // 2 % 3 for k in range(len(samples))])
    return Dataset(samples, classes, multi, one_hot(samples, classes), parts, content_digests(samples))


def refused(found: Dataset, data: Data, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        require_sound(found, data)


def test_sound_data_passes_without_a_word(samples: list[Sample]) -> None:
    with warnings.catch_warnings(record=True) as told:
        require_sound(dataset(samples), DATA)
        require_sound(dataset(samples, multi=True), MULTI)
    assert told == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": ("a ",)}, "3.png: the class 'a ' has blanks or line breaks; write it plainly"),
        ({"group": "\tp3"}, r"3.png: the group '\tp3' has blanks or line breaks"),
        ({"group": "p3\np4"}, r"3.png: the group 'p3\np4' has blanks or line breaks"),
        ({"file": " 3.png"}, "3.png: the file ' 3.png' has blanks or line breaks"),
        ({"labels": ("NaN",)}, "3.png: the class is 'NaN', which means none; fill it in, or list it in data.classes"),
        ({"group": "N/A"}, "3.png: the group is 'N/A', which means none; fill in the patient, or a name of its own"),
        ({"labels": ("a|b",)}, '3.png: has several classes (a|b); set data.labels = "multi"'),
    ],
)
def test_cells_that_are_no_names_are_refused(samples: list[Sample], fields: dict[str, Any], message: str) -> None:
    samples[3] = replace(samples[3], **fields)
    refused(dataset(samples), DATA, message)


def test_class_of_that_name_can_be_listed(samples: list[Sample]) -> None:
    samples = [replace(sample, labels=(sample.labels[0].replace("b", "none"),)) for sample in samples]
    refused(dataset(samples), DATA, "the class is 'none'")
    require_sound(dataset(samples), DATA.model_copy(update={"classes": ["a", "none"]}))


@pytest.mark.parametrize("other", ["./0.png", "folder/../0.png", "link/0.png"])
def test_one_file_under_two_spellings_is_refused(samples: list[Sample], tmp_path: Path, other: str) -> None:
    """It could be trained on under one name and tested under the other."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    again = [replace(samples[0], file=other, path=tmp_path / other, group="other")]
    refused(dataset(samples + again), DATA, f"m.csv: '0.png' is listed more than once (as {other!r}, too)")


def test_patient_in_two_parts_is_refused(samples: list[Sample]) -> None:
    """As after the split.csv of a run that had other patients."""
    samples[2] = replace(samples[2], group="p0")
    refused(dataset(samples), DATA, "patient p0 has images in the train and in the validation part")


def test_class_that_all_images_of_a_part_have_is_refused(samples: list[Sample]) -> None:
    samples = [replace(s, labels=("b",) if k // 2 % 3 == 1 else s.labels) for k, s in enumerate(samples)]
    refused(dataset(samples, multi=True), MULTI, "all images of the validation part are b; add some that are not")


def test_copies_in_several_parts_are_told(samples: list[Sample]) -> None:
    for source, copy in ((0, 1), (0, 2), (3, 10)):
        samples[copy].path.write_bytes(samples[source].path.read_bytes())
    with pytest.warns(EvaluationWarning) as told:
        require_sound(dataset(samples), DATA)
    assert [str(warning.message) for warning in told] == [
        "2 images lie in several parts of the split as equal files, "
        "for example 0.png (train), 1.png (train), 2.png (validation); group them"
    ]


def test_near_misses_in_names_are_told(samples: list[Sample]) -> None:
    """One patient under two names may be trained on and tested."""
    for index, fields in ((0, {"group": "12"}), (3, {"group": "12.0"}), (4, {"labels": ("A",)})):
        samples[index] = replace(samples[index], **fields)
    with pytest.warns(EvaluationWarning) as told:
        require_sound(dataset(samples), DATA)
    assert [str(warning.message) for warning in told] == [
        "'12' and '12.0' count as 2 patients (1 such cases); write them alike if they are one",
        "'A' and 'a' count as 2 classes (1 such cases); write them alike if they are one",
    ]

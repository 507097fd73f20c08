"""The source-shortcut check, and class weights, on hand-made tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.samples import Sample, class_names, one_hot, read_manifest
from training.shortcut import shortcuts, votes
from training.split import split_by_group
from training.task import Dataset


def task(samples: list[Sample], chosen: np.ndarray, multi: bool = False) -> Dataset:
    classes = class_names(samples, None)
    return Dataset(samples, classes, multi, one_hot(samples, classes), chosen, [])


def sample(number: int, label: str, **extras: str) -> Sample:
    return Sample(str(number), Path(str(number)), (label,), str(number), extras)


def test_a_value_votes_for_its_training_labels() -> None:
    found = votes(["a", "a", "b"], np.array([[1.0, 0], [0, 1], [0, 1]]), ["a", "b", "new"])
    assert found.tolist() == [[0.5, 0.5], [0, 1], [pytest.approx(1 / 3), pytest.approx(2 / 3)]]


def test_label_given_by_the_hospital_is_found_out() -> None:
    rng = np.random.default_rng(0)
    samples = []
    for number in range(400):
        label = "xy"[number % 2]
        age = str(rng.integers(20, 80))
        samples.append(sample(number, label, source={"x": "north", "y": "south"}[label], age=age, sex="?"))
    found = shortcuts(task(samples, np.arange(400) // 2 % 3))
    assert list(found) == ["source", "age", "sex", "all together"]
    assert found["source"] == {"accuracy": 1, "auc": 1}
    assert found["age"]["accuracy"] == pytest.approx(0.5, abs=0.12)
    assert found["sex"]["accuracy"] == pytest.approx(0.5, abs=0.02)


def test_ages_count_in_decades() -> None:
    ages = ["31", "38.0", "72", "75", "39", "70"]
    samples = [sample(k, "young" if age.startswith("3") else "old", age=age) for k, age in enumerate(ages)]
    assert shortcuts(task(samples, np.array([0, 0, 0, 0, 2, 2])))["age"]["accuracy"] == 1


def test_no_columns_no_check() -> None:
    assert shortcuts(task([sample(0, "x"), sample(1, "y")], np.array([0, 2]))) == {}


def test_real_data_gives_its_label_away_by_the_source(shared: Path) -> None:
    """The figure that stands in the data's own description: accuracy 0.60 from the source alone."""
    samples = read_manifest(shared / "cxr5" / "manifest.csv")
    targets = one_hot(samples, class_names(samples, None))
    found = shortcuts(task(samples, split_by_group(samples, targets, 0.15, 0.2, seed=0)))
    assert found["source"]["accuracy"] == pytest.approx(0.60, abs=0.03)


def test_class_weights_balance_the_training_part() -> None:
    samples = [sample(k, "common" if k % 4 else "rare") for k in range(40)]
    found = task(samples, np.zeros(40, int)).class_weights()
    assert found.sum() == pytest.approx(40)
    assert found[0] == pytest.approx(3 * found[1])

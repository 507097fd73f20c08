"""The source-shortcut check: how far the label follows from where an image comes from, without looking at it.

Data sets that gather classes from different hospitals let a network recognise the hospital. For each of the columns
source, view, age (in decades) and sex that a manifest has, and for all of them together, each value votes for the
labels it has in the training part; the votes are scored on the test part like a network's output. An accuracy that is
not clearly above these numbers proves nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from training import metrics
from training.samples import Sample
from training.task import Dataset

COLUMNS = ("source", "view", "age", "sex")


def shortcuts(task: Dataset) -> dict[str, dict[str, float | None]]:
    """{column: {accuracy, auc}} on the test images; empty where the manifest has none of the columns."""
    present = [column for column in COLUMNS if any(column in sample.extras for sample in task.samples)]
    keys: dict[str, Callable[[Sample], Any]] = {column: _reader(column) for column in present}
    if len(present) > 1:
        keys["all together"] = lambda sample: tuple(_value(sample, column) for column in present)
    return {name: _scored(task, key) for name, key in keys.items()}


def votes(train: list[Any], targets: np.ndarray, test: list[Any]) -> np.ndarray:
    """Mean training target of each test image's value, (n, K); of all training images for a value not seen there."""
    members: dict[Any, list[int]] = defaultdict(list)
    for index, value in enumerate(train):
        members[value].append(index)
    overall = targets.mean(axis=0)
    return np.array([targets[members[value]].mean(axis=0) if value in members else overall for value in test])


def _scored(task: Dataset, key: Callable[[Sample], Any]) -> dict[str, float | None]:
    train, test = task.indices("train"), task.indices("test")
    values = [key(sample) for sample in task.samples]
    vote = votes([values[i] for i in train], task.targets[train], [values[i] for i in test])
    hits = metrics.correct(vote - 0.5 if task.multi else vote, task.targets[test], task.multi)
    auc = float(metrics.macro_auc(vote, task.targets[test])[0])
    return {"accuracy": float(hits.mean()), "auc": metrics.or_none(auc)}


def _reader(column: str) -> Callable[[Sample], str]:
    return lambda sample: _value(sample, column)


def _value(sample: Sample, column: str) -> str:
    value = sample.extras.get(column, "").strip()
    if column != "age":
        return value
    try:
        return str(int(float(value) // 10))
    except ValueError:
        return ""

"""What is no longer as it was when a run began: its configuration, the versions of what computes, its images.

`resume` refuses to go on over any of it, unless told to (`--accept-changes`); then run.json says so.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.common.errors import InputError
from harness.common.provenance import file_digest
from harness.images.columns import normalised
from harness.images.rule import ImageRule, restored
from training.config import Config, Data, read_config
from training.run_record import config_path, software
from training.split import SPLITS, find_rows
from training.task import Dataset


@dataclass(frozen=True)
class Change:
    """One thing that changed. A `final` one cannot be accepted; after one of the `head` a phase begins anew."""

    what: str
    final: bool = False
    head: bool = False


@dataclass(frozen=True)
class Row:
    """A line of split.csv; `sha256` is empty in one that an earlier version wrote."""

    file: str
    label: str
    group: str
    split: str
    sha256: str = ""


def edited_config(record: dict[str, Any], folder: Path, recorded: Config) -> Config:
    """The configuration as its file has it now, or the recorded one where the file has not been edited."""
    path = config_path(record, folder)
    if path is None or file_digest(path) == record.get("config_sha256"):
        return recorded
    return read_config(path)


def config_changes(recorded: Config, edited: Config, begun: list[str]) -> list[Change]:
    """The keys that differ. What the phases `begun` were trained with is final, and so are drawn images."""

    def final(key: tuple[str, ...]) -> bool:
        trained = key[0] in ("model", "seed", "precision") or (key[0] == "phases" and key[1] in begun)
        return "phantoms" in key or (trained and bool(begun))

    found = [
        Change(f"{'.'.join(key)} {text}", final(key))
        for key, text in _differences(recorded.model_dump(mode="json"), edited.model_dump(mode="json"))
    ]
    if not found and list(recorded.phases) != list(edited.phases):
        found = [Change(f"the order of phases is {', '.join(edited.phases)}, was {', '.join(recorded.phases)}")]
    if list(edited.phases)[: len(begun)] != begun:
        found.append(Change(f"the phases that have begun ({', '.join(begun)}) are not the first", final=True))
    return found


def version_changes(record: dict[str, Any], rule: ImageRule) -> list[Change]:
    """Packages whose version is not the recorded one, and the rule by which files become pixels."""
    was, now = (_named(facts) for facts in (record, software(rule)))
    return [Change(f"{name} is {now[name]}, was {was[name]}") for name in now if was.get(name, now[name]) != now[name]]


def data_changes(path: Path, dataset: Dataset, digest: str | None, was: Data) -> list[Change]:
    """How a data set differs from the one that the split.csv at `path` lists.

    `digest` is the data's identity as recorded; `was` the [data] with which it was split.
    """
    rows = read_rows(path)
    if not rows:
        return [Change(f"{path.name} is gone, so that it cannot be told which images were trained on")]
    places = _places(path.parent, rows, dataset, digest)
    found = _kinds(rows, _with_parts_of(dataset, rows, places), places) or _kinds(rows, dataset, places)
    if not found and places != list(range(len(rows))):
        found = ["all there, in another order"]
    if not found and not rows[0].sha256 and digest not in (None, dataset.digest):
        found = ["at least one with other content or under another name (an earlier version kept one digest for all)"]
    changes = [Change(f"images of {path.name}: {', '.join(found)}")] if found else []
    return changes + _head_changes(rows, dataset, was)


def keep_parts(dataset: Dataset, path: Path) -> Dataset:
    """The same with every patient in the part that the split.csv at `path` names; only new ones are dealt out.

    So no image that was trained on becomes a validation or test image. Of a patient who is named in several parts
    all images go to the first of training, validation and test.
    """
    rows = read_rows(path)
    return _with_parts_of(dataset, rows, _places(path.parent, rows, dataset)) if rows else dataset


def read_rows(path: Path) -> list[Row]:
    """The lines of a split.csv; none where it is missing."""
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return [_row(line) for line in csv.DictReader(stream)]
    except (KeyError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: not as it was written ({error}); restore it, or fit into another folder") from error


def _row(line: dict[str, str]) -> Row:
    """A line with its names as the reader of manifests has them; earlier versions wrote them as they came."""
    label, group = normalised(line["class"]), normalised(line["group"])
    return Row(line["file"], label, group, _part(line["split"]), line.get("sha256") or "")


def _part(name: str) -> str:
    if name not in SPLITS:
        raise ValueError(f"split {name!r}")
    return name


def _with_parts_of(dataset: Dataset, rows: list[Row], places: list[int | None]) -> Dataset:
    named = [(row.group, SPLITS.index(row.split)) for row in rows]
    named += [(s.group, named[k][1]) for s, k in zip(dataset.samples, places, strict=True) if k is not None]
    parts: dict[str, int] = {}
    for patient, part in named:
        parts[patient] = min(part, parts.get(patient, part))
    chosen = [parts.get(s.group, part) for s, part in zip(dataset.samples, dataset.chosen.tolist(), strict=True)]
    return replace(dataset, chosen=np.array(chosen))


def _named(facts: dict[str, Any]) -> dict[str, str]:
    """{package: version} of a record."""
    rule = {"image rule": _shown(facts["image_rule"])} if "image_rule" in facts else {}
    return {**facts.get("versions", {}), **rule}


def _shown(rule: Any) -> str:
    """The name of the default rule, or all that another one says."""
    try:
        return rule if isinstance(rule, str) else str(restored(rule))
    except ValueError:
        return json.dumps(rule)


def _differences(was: dict[str, Any], now: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[Any, str]]:
    for name in [*was, *(name for name in now if name not in was)]:
        key = (*above, name)
        if name not in now:
            yield key, "is gone"
        elif name not in was:
            yield key, "is new"
        elif isinstance(was[name], dict) and isinstance(now[name], dict):
            yield from _differences(was[name], now[name], key)
        elif was[name] != now[name]:
            yield key, f"is {json.dumps(now[name])}, was {json.dumps(was[name])}"


def _places(folder: Path, rows: list[Row], dataset: Dataset, digest: str | None = None) -> list[int | None]:
    """The row of each image. Where no file is where it was, all were moved, and their contents tell which is which."""
    places = find_rows([folder / row.file for row in rows], dataset.samples)
    if any(place is not None for place in places):
        return places
    if not rows[0].sha256 and digest == dataset.digest and len(rows) == len(places):
        return list(range(len(rows)))
    known = {row.sha256: index for index, row in enumerate(rows)}
    return [known.get(content) for content in dataset.contents]


def _kinds(rows: list[Row], dataset: Dataset, places: list[int | None]) -> list[str]:
    """The kinds of change, each with the number of its images and the first of them."""
    now = [
        Row(sample.file, "|".join(sample.labels), sample.group, SPLITS[part], content)
        for sample, part, content in zip(dataset.samples, dataset.chosen, dataset.contents, strict=True)
    ]
    pairs = [(row, rows[place]) for row, place in zip(now, places, strict=True) if place is not None]
    kept = set(places)
    found = {
        "added": [row.file for row, place in zip(now, places, strict=True) if place is None],
        "removed": [row.file for index, row in enumerate(rows) if index not in kept],
        "with other content": [row.file for row, then in pairs if then.sha256 not in ("", row.sha256)],
        "of another class": _moved(pairs, "label"),
        "of another patient": _moved(pairs, "group"),
        "in another part of the split": _moved(pairs, "split"),
    }
    return [f"{len(files)} {what} (first: {files[0]})" for what, files in found.items() if files]


def _moved(pairs: list[tuple[Row, Row]], name: str) -> list[str]:
    """`FILE: NEW, was OLD` for the pairs (now, then) that differ in a column."""
    return [
        f"{now.file}: {getattr(now, name)}, was {getattr(then, name)}"
        for now, then in pairs
        if getattr(now, name) != getattr(then, name)
    ]


def _head_changes(rows: list[Row], dataset: Dataset, was: Data) -> list[Change]:
    """What makes the outputs mean something else: their classes, or one label per image against several."""
    multi = was.labels == "multi"
    labels = {name for row in rows for name in (row.label.split("|") if multi else [row.label]) if name}
    classes = [normalised(name) for name in was.classes or sorted(labels)]
    found = []
    if classes != list(dataset.classes):
        found.append(Change(f"classes are {', '.join(dataset.classes)}, were {', '.join(classes)}", head=True))
    if multi != dataset.multi:
        found.append(Change("one label per image became several, or the reverse", head=True))
    return found

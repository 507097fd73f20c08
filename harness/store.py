"""Parquet parts of an evaluation, each written whole or not at all: what is there is done, what is not is to do.

`predictions/` holds one row per image and checkpoint, `maps/` the raw maps, `scores/` one row per number. A part
holds a block of BLOCK images and is numbered by its place in the plan, so that files depend neither on the batch
size nor on where a run was interrupted.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import InputError, InterruptedRunError
from harness.pseudonyms import KEY
from kernels.reasons import Reason

BLOCK = 256  # images per part
PLAN = "plan.json"
STATISTICS = "scores.json"
ENDED = "ended"  # the evaluation came to its end without a result; it may be replaced
RESULT = "evaluation.json"
_TEXT = pa.dictionary(pa.int32(), pa.string())
_REASONS = [reason.label for reason in Reason]
_CODES = {reason.label: int(reason) for reason in Reason}

SCHEMAS: dict[str, pa.Schema] = {
    "predictions": pa.schema(
        [
            *((name, _TEXT) for name in ("checkpoint", "image", "group")),
            ("labels", pa.list_(pa.string())),  # null: not labelled
            ("logits", pa.list_(pa.float32())),  # null: the image could not be read
            ("error", pa.string()),
        ]
    ),
    "maps": pa.schema(
        [
            *((name, _TEXT) for name in ("checkpoint", "layer", "method")),
            ("draw", pa.int32()),  # 0: the image itself; 1, 2, ...: with noise, moved by a pixel
            ("record", pa.int32()),  # place in the list of images and their classes
            *((name, _TEXT) for name in ("image", "class", "reason")),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("map", pa.list_(pa.float32())),  # row by row, raw: rectified, not rescaled
        ]
    ),
    "scores": pa.schema(
        [
            ("record", pa.int32()),
            *((name, _TEXT) for name in ("image", "group", "class", "pair", "architecture", "phase")),
            ("replicate", pa.int32()),
            *((name, _TEXT) for name in ("layer", "method", "reference", "metric")),
            ("value", pa.float64()),
            ("reason", _TEXT),
        ]
    ),
}
OURS = (PLAN, STATISTICS, ENDED, RESULT, "contact-sheet.png", "report.md", "report.html", *SCHEMAS)


def parts_of(place: int, images: int) -> range:
    """Numbers of the parts of one checkpoint or task, by its place in the plan; each has as many as the images need."""
    each = -(-images // BLOCK)
    return range(place * each, (place + 1) * each)


class Store:
    """The parts in a result folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, kind: str, number: int) -> bool:
        """True where the part is there, and so is whole."""
        return self._path(kind, number).is_file()

    def write(self, kind: str, number: int, tables: Iterable[pa.Table]) -> None:
        """Write tables as the row groups of one part."""
        path = self._path(kind, number)
        partial = path.with_suffix(".partial")
        try:
            with pq.ParquetWriter(partial, SCHEMAS[kind], compression="zstd") as writer:
                for table in tables:
                    writer.write_table(table)
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise

    def scan(
        self, kind: str, numbers: Iterable[int], columns: Sequence[str] | None = None, **equal: Any
    ) -> Iterator[pa.Table]:
        """The rows of some parts, one table per part and in order, whose columns have the values of `equal`."""
        where = [(name, "==", value) for name, value in equal.items()] or None
        for number in numbers:
            yield pq.read_table(self._path(kind, number), columns=columns, filters=where, schema=SCHEMAS[kind])

    def read(self, kind: str, numbers: Iterable[int], columns: Sequence[str] | None = None, **equal: Any) -> pa.Table:
        """The tables of `scan` as one."""
        tables = list(self.scan(kind, numbers, columns, **equal))
        empty = SCHEMAS[kind].empty_table()
        return pa.concat_tables(tables).unify_dictionaries() if tables else empty.select(columns or empty.column_names)

    def keep_scores_of(self, statistics: Mapping[str, Any]) -> None:
        """Keep the scores if they were computed for the same `statistics`, else remove them."""
        path, wanted = self.folder / STATISTICS, json.dumps(statistics, indent=1)
        if not path.is_file() or path.read_text(encoding="utf-8").strip() != wanted:
            self.clear(["scores"])
            write_whole(path, wanted)

    def clear(self, kinds: Iterable[str]) -> None:
        """Remove all parts of some kinds."""
        for kind in kinds:
            shutil.rmtree(self.folder / kind, ignore_errors=True)
            (self.folder / kind).mkdir(parents=True)

    def _path(self, kind: str, number: int) -> Path:
        return self.folder / kind / f"part-{number:05d}.parquet"


def begin(folder: Path, identity: Mapping[str, Any], details: Mapping[str, Any], resume: bool) -> Store:
    """Open a result folder for an evaluation; `plan.json` will hold its `identity` and `details`.

    A finished evaluation is replaced. An unfinished one is continued with `resume`, and else left alone.

    :raises InputError: foreign files, an unfinished evaluation without `resume`, or one of another identity with it.
    """
    _require_ours(folder)
    store, plan = Store(folder), folder / PLAN
    if resume:
        _require_same(_read_plan(plan), identity, folder)
        return store
    if plan.exists() and not (folder / RESULT).exists() and not (folder / ENDED).exists():
        raise InputError(
            f"{folder}: holds an unfinished evaluation; continue it with --resume (one from --from: run it again into "
            "another folder), or remove the folder"
        )
    discard(folder)
    store.clear(SCHEMAS)
    write_whole(plan, json.dumps({**identity, **details}, indent=1))
    return store


def discard(folder: Path) -> None:
    """Remove what an evaluation wrote, where nothing in it is worth keeping."""
    for name in OURS:
        _remove(folder / name)


def end(folder: Path) -> None:
    """Mark an evaluation that cannot have a result."""
    (folder / ENDED).touch()


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Tell the user how to go on where work in `folder` is interrupted or the disk is full.

    :raises InputError, InterruptedRunError: with the sentence; what is finished is there.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedRunError(
            f"interrupted; what is finished is kept in {folder}: run the same command with --resume to go on"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"{folder}: no space left on the disk; make room and run the same command with --resume"
        ) from error


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that a reader never sees half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


def copy_parts(source: Path, target: Path) -> None:
    """Put predictions and maps of one result folder into another, as links where the file system has them."""
    for kind in ("predictions", "maps"):
        shutil.rmtree(target / kind, ignore_errors=True)
        shutil.copytree(source / kind, target / kind, copy_function=_link)


def text(value: str, count: int) -> pa.Array:
    """A column that holds one text `count` times."""
    return coded(np.zeros(count, np.int32), [value])


def coded(codes: np.ndarray, names: Sequence[str]) -> pa.Array:
    """A column of texts names[codes]."""
    return pa.DictionaryArray.from_arrays(np.ascontiguousarray(codes, np.int32), pa.array(names, pa.string()))


def reasons(codes: np.ndarray) -> pa.Array:
    """A column of labels of reason codes."""
    return coded(codes, _REASONS)


def reason_codes(column: pa.ChunkedArray) -> np.ndarray:
    """Reason codes (rows,) of a column of labels."""
    flat = column.combine_chunks()
    flat = flat.chunk(0) if isinstance(flat, pa.ChunkedArray) else flat
    lookup = np.array([_CODES[label] for label in flat.dictionary.to_pylist()] or [0], np.uint8)
    return lookup[flat.indices.to_numpy(zero_copy_only=False)]


def _require_ours(folder: Path) -> None:
    """Refuse a folder that holds anything but an evaluation, which is known by its plan."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a folder with --out")
    names = sorted(path.name for path in folder.iterdir() if path.name[: len(KEY)] != KEY) if folder.is_dir() else []
    known = {*OURS, *(f"{name}.partial" for name in OURS)} if PLAN in names else set()
    strange = [name for name in names if name not in known]
    if strange:
        raise InputError(f"{folder}: holds {strange[0]!r}, which no evaluation wrote; give an empty folder with --out")


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{path.parent}: holds no evaluation to resume; run without --resume") from None


def _require_same(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path) -> None:
    found = _first_difference(dict(old), json.loads(json.dumps(new)))
    if found:
        where, before, now = found
        raise InputError(
            f"{folder}: was begun with another {where} ({_brief(before)}, now {_brief(now)}); "
            "resume with the same, or evaluate into another folder"
        )


def _first_difference(old: dict[str, Any], new: dict[str, Any], of: str = "") -> tuple[str, Any, Any] | None:
    """(which entry, its old value, its new value) of the first entry of `new` that differs."""
    for key, value in new.items():
        name, before = f"{of}{key.replace('_', ' ')}", old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            deeper = _first_difference(before, {**dict.fromkeys(before), **value}, f"{name}: ")
            if deeper:
                return deeper
        elif before != value:
            return name, before, value
    return None


def _brief(value: Any) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 120 else shown[:117] + "..."


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)

"""Parquet parts of an evaluation: `scores/`, `maps/` and `predictions/`, written whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import InputError

_TEXT = pa.dictionary(pa.int32(), pa.string())
SCHEMAS: dict[str, pa.Schema] = {
    "scores": pa.schema(
        [
            *((name, _TEXT) for name in ("image", "group", "class", "pair", "architecture", "phase")),
            ("replicate", pa.int32()),
            *((name, _TEXT) for name in ("layer", "method", "reference", "metric")),
            ("value", pa.float64()),
            ("reason", _TEXT),
        ]
    ),
    "maps": pa.schema(
        [
            *((name, _TEXT) for name in ("image", "group", "class", "pair", "side", "layer", "method", "reason")),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("map", pa.list_(pa.float32())),  # row by row, raw: rectified, not rescaled
        ]
    ),
    "predictions": pa.schema(
        [
            *((name, _TEXT) for name in ("image", "group", "class", "pair", "side", "predicted")),
            ("selected", pa.bool_()),
            ("logits", pa.list_(pa.float32())),
        ]
    ),
}
_OURS = ("evaluation.json", "contact-sheet.png", *SCHEMAS)


def prepare(out: Path) -> None:
    """Make `out` an empty result folder; an earlier evaluation in it is replaced, anything else is refused."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give a folder with --out")
    if out.is_dir():
        strange = sorted(path.name for path in out.iterdir() if path.name not in _OURS)
        if strange:
            raise InputError(f"{out}: holds {strange[0]!r}, which no evaluation wrote; give an empty folder with --out")
        for name in _OURS:
            _remove(out / name)
    for name in SCHEMAS:
        (out / name).mkdir(parents=True, exist_ok=True)


def write_part(out: Path, kind: str, number: int, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows as `kind/part-NNNNN.parquet`; a reader never sees half a part."""
    table = pa.Table.from_pylist(list(rows), schema=SCHEMAS[kind])
    path = out / kind / f"part-{number:05d}.parquet"
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)


def read(out: Path, kind: str) -> pa.Table:
    """All parts of a kind, in the order in which they were written."""
    parts = sorted((out / kind).glob("part-*.parquet"))
    tables = [pq.read_table(path, schema=SCHEMAS[kind]) for path in parts]
    return pa.concat_tables(tables).unify_dictionaries() if tables else SCHEMAS[kind].empty_table()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

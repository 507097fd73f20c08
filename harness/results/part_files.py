"""Parquet parts of an evaluation, each written whole or not at all: what is there is done, what is not is to do.

`predictions/` holds one row per image and checkpoint, `maps/` the raw maps, `scores/` one row per number. A part
holds a block of BLOCK images and is numbered by its place in the plan, so that files depend neither on the batch
size nor on where a run was interrupted. The folder may be local or in an object store (`harness.common.storage`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.common.errors import InputError, first_line
from harness.common.storage import (
    PARTIAL,
    Address,
    Location,
    copy_folder,
    remove_folder,
    sweep,
    write_bytes,
    write_whole,
)
from harness.results.file_names import BEGUN, STATISTICS
from harness.results.part_labels import METADATA_KEY, OWNER_COLUMN, PartLabels
from kernels.reasons import Reason

BLOCK = 256  # images per part
_REMEDY = "remove it, then run the evaluation's command with --resume"
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
            ("notices", pa.list_(pa.string())),  # kinds of `harness.images.notices`
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
            ("conditioning", pa.float32()),  # null: not known, as in parts of earlier versions that lack the column
            ("map", pa.list_(pa.float32())),  # row by row, raw: rectified, not rescaled
            ("residual", pa.float32()),  # of a path method: how far its sum is from what it should be, as a share
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


def parts_of(place: int, images: int) -> range:
    """Numbers of the parts of one checkpoint or task, by its place in the plan; each has as many as the images need."""
    each = -(-images // BLOCK)
    return range(place * each, (place + 1) * each)


class Begun:
    """Markers beside the parts that are worked on: how many processes began each and ended without a word."""

    def __init__(self, folder: Location) -> None:
        self._folder = folder
        self._markers: dict[int, Location] = {}

    def add(self, number: int) -> int:
        """Mark a part as begun; how often a process ended over it before."""
        marker = self._markers[number] = self._folder / f"part-{number:05d}{BEGUN}"
        deaths = int(marker.read_text(encoding="utf-8")) if marker.is_file() else 0
        write_bytes(marker, str(deaths + 1).encode())
        return deaths

    def remove(self, number: int) -> None:
        """The part is done."""
        self._markers.pop(number).unlink(missing_ok=True)

    def remove_all(self) -> None:
        """No part is worked on any more."""
        for number in list(self._markers):
            self.remove(number)


class Store:
    """The parts in a result folder.

    :param labels: what each part belongs to: written into it, and compared when it is read; None compares nothing
    """

    def __init__(self, folder: Location, labels: PartLabels | None = None) -> None:
        self.folder = folder
        self.labels = labels

    def has(self, kind: str, number: int) -> bool:
        """True where the part is there, and so is whole."""
        return self._path(kind, number).is_file()

    def missing(self, kind: str, numbers: Iterable[int]) -> list[int]:
        """Those parts that are not there, by one look at the folder."""
        there = {path.name for path in (self.folder / kind).iterdir()}
        return [number for number in numbers if self._path(kind, number).name not in there]

    def write(self, kind: str, number: int, tables: Iterable[pa.Table]) -> None:
        """Write tables as the row groups of one part."""
        whole, label = pa.BufferOutputStream(), self.labels and self.labels.of(kind, number)
        schema = SCHEMAS[kind].with_metadata(label.metadata() if label else None)
        with pq.ParquetWriter(whole, schema, compression="zstd", write_page_checksum=True) as writer:
            for table in tables:
                writer.write_table(table)
        write_bytes(self._path(kind, number), memoryview(whole.getvalue()))

    @contextmanager
    def begun(self, kind: str) -> Iterator[Begun]:
        """Around the work on some parts; their markers are removed however it ends in this process."""
        begun = Begun(self.folder / kind)
        try:
            yield begun
        finally:
            begun.remove_all()

    def scan(
        self, kind: str, numbers: Iterable[int], columns: Sequence[str] | None = None, **equal: Any
    ) -> Iterator[pa.Table]:
        """The rows of some parts, one table per part and in order, whose columns have the values of `equal`.

        :raises InputError: a part is not there, is damaged, or belongs to something else.
        """
        for number in numbers:
            yield self._table(kind, number, columns, equal)

    def read(self, kind: str, numbers: Iterable[int], columns: Sequence[str] | None = None, **equal: Any) -> pa.Table:
        """The tables of `scan` as one."""
        tables = list(self.scan(kind, numbers, columns, **equal))
        empty = SCHEMAS[kind].empty_table()
        return pa.concat_tables(tables).unify_dictionaries() if tables else empty.select(columns or empty.column_names)

    def require_own(self, kind: str, numbers: Iterable[int]) -> None:
        """Refuse parts that belong to something else than the plan says, from their metadata.

        :raises InputError: as `scan`.
        """
        for number in numbers:
            with _named(self._path(kind, number)):
                self._require_own(kind, number, pq.read_schema(self._source(kind, number)).metadata)

    def read_all(self, kind: str, **equal: Any) -> pa.Table:
        """The rows of every part of a kind whose columns have the values of `equal`."""
        names = sorted(path.name for path in (self.folder / kind).iterdir())
        numbers = [int(name[5:10]) for name in names if name.startswith("part-") and name.endswith(".parquet")]
        return self.read(kind, numbers, **equal)

    def keep_scores_of(self, statistics: Mapping[str, Any]) -> None:
        """Keep the scores if they were computed for the same `statistics`, else remove them."""
        path, wanted = self.folder / STATISTICS, json.dumps(statistics, indent=1)
        if not path.is_file() or path.read_text(encoding="utf-8").strip() != wanted:
            self.clear(["scores"])
            write_whole(path, wanted)

    def clear(self, kinds: Collection[str]) -> None:
        """Remove all parts of some kinds."""
        for kind in kinds:
            remove_folder(self.folder / kind)
        self.make(kinds)

    def make(self, kinds: Collection[str]) -> None:
        """Make the folders of some kinds where they are not there."""
        for kind in kinds:
            (self.folder / kind).mkdir(parents=True, exist_ok=True)

    def sweep(self) -> None:
        """Remove what processes that died left behind."""
        for folder in (self.folder, *(self.folder / kind for kind in SCHEMAS)):
            sweep(folder, PARTIAL, BEGUN)

    def _table(self, kind: str, number: int, columns: Sequence[str] | None, equal: Mapping[str, Any]) -> pa.Table:
        with _named(self._path(kind, number)):
            with self._opened(kind, number) as part:
                self._require_own(kind, number, part.schema_arrow.metadata)
                names = SCHEMAS[kind].names if columns is None else columns
                if _is_as_written(part, SCHEMAS[kind], names, equal):
                    return _rows(part, names, equal)
            return pq.read_table(
                self._source(kind, number),
                columns=columns,
                filters=[(name, "==", value) for name, value in equal.items()] or None,
                schema=SCHEMAS[kind],
                page_checksum_verification=True,
            )

    def _require_own(self, kind: str, number: int, metadata: dict[bytes, bytes] | None) -> None:
        """Refuse a part that belongs to something else than the plan says, by what its metadata say."""
        if self.labels is None:
            return
        expected, column = self.labels.of(kind, number), OWNER_COLUMN[kind]
        if expected is None:
            raise InputError(f"{self._path(kind, number)}: belongs to nothing in the plan; remove it")
        if metadata and METADATA_KEY in metadata:
            found = expected.complaint(metadata)
        else:
            rows = pq.read_table(self._source(kind, number), columns=[column], page_checksum_verification=True)
            found = expected.complaint_of_owners(rows[column].unique().to_pylist())
        if found:
            raise InputError(f"{self._path(kind, number)}: {found}; {_REMEDY}")

    @contextmanager
    def _opened(self, kind: str, number: int) -> Iterator[pq.ParquetFile]:
        source = self._source(kind, number)
        file = source if isinstance(source, pa.NativeFile) else pa.OSFile(str(source))
        with file, pq.ParquetFile(file, page_checksum_verification=True) as part:
            yield part

    def _source(self, kind: str, number: int) -> Any:
        """What Parquet reads a part from."""
        path = self._path(kind, number)
        return pa.BufferReader(path.read_bytes()) if isinstance(path, Address) else path

    def _path(self, kind: str, number: int) -> Location:
        return self.folder / kind / f"part-{number:05d}.parquet"


def _is_as_written(part: pq.ParquetFile, schema: pa.Schema, names: Sequence[str], equal: Mapping[str, Any]) -> bool:
    """Whether a part has the columns that this version writes, and is asked for those, by values of their types."""
    return (
        part.schema_arrow.equals(schema)
        and {*names, *equal} <= set(schema.names)
        and all(type(value) is (str if schema.field(name).type == _TEXT else int) for name, value in equal.items())
    )


def _rows(part: pq.ParquetFile, names: Sequence[str], equal: Mapping[str, Any]) -> pa.Table:
    """What `pq.read_table` finds in a part as it is written, in half of the time: it plans for many large files."""
    groups = [n for n in range(part.num_row_groups) if _may_have(part.metadata.row_group(n), equal)]
    needed = list(dict.fromkeys([*names, *equal]))
    found = part.read_row_groups(groups, needed, use_threads=False) if groups else part.schema_arrow.empty_table()
    for name, value in equal.items():
        found = found.filter(pc.equal(found[name], value))
    return found.select(names).replace_schema_metadata()


def _may_have(group: pq.RowGroupMetaData, equal: Mapping[str, Any]) -> bool:
    """False where the statistics of a row group say that none of its rows has these values."""
    columns = [column for column in map(group.column, range(group.num_columns)) if column.path_in_schema in equal]
    known = {column.path_in_schema: column.statistics for column in columns if column.statistics is not None}
    return all(limits.min <= equal[name] <= limits.max for name, limits in known.items() if limits.has_min_max)


@contextmanager
def _named(path: Location) -> Iterator[None]:
    """Name the part that Parquet cannot read.

    :raises InputError: it is damaged or is not there. Errors of the system itself (no permission) pass.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path}: is not there; run the evaluation's command with --resume") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"{path}: damaged ({first_line(error)}); {_REMEDY}") from error


def copy_parts(source: Location, target: Location) -> None:
    """Put predictions and maps of one result folder into another, as links where the file system has them."""
    for kind in ("predictions", "maps"):
        remove_folder(target / kind)
        copy_folder(source / kind, target / kind)


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

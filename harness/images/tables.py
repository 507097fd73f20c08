"""A manifest file becomes a table of text cells: CSV in the dialects of spreadsheets, gzip-compressed CSV, Parquet.

CSV is read strictly (RFC 4180): a quote that is opened and not closed, or text behind a closing quote, is an error that
names the line on which its row begins. Python's reader by default takes everything up to the next quote as one cell.

- Separator: comma, semicolon (Excel where the decimal sign is a comma) or tab (Excel's "Unicode text"), whichever cuts
  the header into most cells. A first line `sep=;` is obeyed.
- Encoding: UTF-8, with or without byte order marks, and UTF-16 with one. Others cannot be told apart and are refused.
- Blanks at the ends of cells and rows without content are dropped.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from dataclasses import dataclass
from typing import Any

from harness.common.errors import InputError, first_line
from harness.common.storage import Location, require_plain_file

MOST_BYTES = 512 * 2**20  # of a manifest's text, compressed or not
_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_SEPARATORS = (",", ";", "\t")
_SEPARATOR_LINE = re.compile(r"sep=([,;\t])\r?\n", re.IGNORECASE)


@dataclass(frozen=True)
class Table:
    """Cells of text. Every row has as many as the header.

    unit: what rows are counted in, `line` or `row`; rows: (number of the line or row, cells)
    """

    header: list[str]
    rows: list[tuple[int, list[str]]]
    separator: str
    unit: str = "line"


def read_table(path: Location) -> Table:
    """The table in a file.

    :raises InputError: no such file, not a plain one, too large, no text in a known encoding, a row that cannot be
        cut into the header's cells.
    """
    content = _content(path)
    return _parquet_table(path, content) if content.startswith(_PARQUET) else _csv_table(path, _text(path, content))


def _content(path: Location) -> bytes:
    try:
        require_plain_file(path, MOST_BYTES)
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such manifest or folder") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read as a manifest ({error.strerror})") from error
    return _inflated(path, content) if content.startswith(_GZIP) else content


def _inflated(path: Location, content: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            inflated = stream.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged gzip data ({first_line(error)}); compress it again") from error
    if len(inflated) > MOST_BYTES:
        raise InputError(f"{path}: holds more than {MOST_BYTES >> 20} MiB of text; split the manifest")
    return inflated


def _text(path: Location, content: bytes) -> str:
    encoding = "utf-16" if content.startswith(_UTF16) else "utf-8"
    try:
        text = content.decode(encoding).lstrip("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: not a CSV file in UTF-8 (byte 0x{content[error.start]:02x}); save it as such: in "
            "Excel as 'CSV UTF-8', since plain 'CSV' is in the encoding of that computer"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{path}, line {line}: holds a NUL character; save it as plain text, a CSV file in UTF-8")
    return text


def _csv_table(path: Location, text: str) -> Table:
    declared = _SEPARATOR_LINE.match(text)
    separator = declared[1] if declared else _separator(text)
    records = _records(path, text[declared.end() :] if declared else text, separator, 2 if declared else 1)
    if not records:
        return Table([], [], separator)
    (_, header), *rows = records
    while header and not header[-1]:  # a spreadsheet's empty columns
        header.pop()
    return Table(header, [(line, _fitted(path, line, cells, header)) for line, cells in rows], separator)


def _separator(text: str) -> str:
    header = text.lstrip().partition("\n")[0]
    return max(_SEPARATORS, key=header.count)  # of equal counts the first


def _records(path: Location, text: str, separator: str, line: int) -> list[tuple[int, list[str]]]:
    """(line on which it begins, cells) of each record that has content."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    found, before = [], line - 1
    try:
        for record in reader:
            cells = [cell.strip() for cell in record]
            if any(cells):
                found.append((line, cells))
            line = before + reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {line}: {_complaint(error)}") from error
    return found


def _complaint(error: csv.Error) -> str:
    if "expected after" in str(error):
        return "text stands behind a closing quote; remove the quotes, or double those inside of the cell"
    return "a quote is opened and not closed; close it, or remove it"


def _fitted(path: Location, line: int, cells: list[str], header: list[str]) -> list[str]:
    """The cells, as many as the header has; a refusal where that would lose or invent one."""
    if len(cells) < len(header):
        raise InputError(f"{path}, line {line}: the row ends before column {header[len(cells)]!r}; fill it in")
    if any(cells[len(header) :]):
        raise InputError(f"{path}, line {line}: more cells than columns; put quotes around names with commas")
    return cells[: len(header)]


def _parquet_table(path: Location, content: bytes) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(content))
        groups = [file.metadata.row_group(number).total_byte_size for number in range(file.metadata.num_row_groups)]
        if sum(groups) > MOST_BYTES:
            raise InputError(f"{path}: holds more than {MOST_BYTES >> 20} MiB; split the manifest")
        table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: damaged Parquet data ({first_line(error)}); write it again") from error
    columns = [[_cell(value) for value in column.to_pylist()] for column in table.columns]
    rows = [(number, list(cells)) for number, cells in enumerate(zip(*columns, strict=True), start=1)]
    return Table([name.strip() for name in table.column_names], rows, "", "row")


def _cell(value: Any) -> str:
    """A Parquet value as a CSV file would hold it; a list as its items with `|` between them."""
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        return "|".join(_cell(item) for item in value)
    return str(value).strip()

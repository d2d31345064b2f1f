"""Text tables from disk: CSV and TSV with a header, JSON lines, Parquet.

Unclear data is an error that names its place.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tldeploy.data.parquet import PARQUET, ParquetFile
from tldeploy.errors import DataError

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
JSON_LINES = {".jsonl", ".ndjson"}


@dataclass(frozen=True)
class Table:
    """Rows of text cells under named columns.

    lines: the file's line (from 1) that each row starts on; of a Parquet file, the row's number.
    unusable: columns that the file has beside those, and why their cells are no text.
    """

    path: Path
    columns: list[str]
    rows: list[list[str]]
    lines: list[int]
    unusable: Mapping[str, str] = field(default_factory=dict)

    def column(self, name: str, setting: str) -> list[str]:
        """One column's cells. `setting` is the recipe's setting that names it, for the error when there is none."""
        if name in self.unusable:
            fix = f"set {setting} to a column of texts or numbers: {', '.join(self.columns)}"
            raise DataError(f"use the column {name!r} of {self.path}", self.unusable[name], fix)
        if name not in self.columns:
            columns = ", ".join(self.columns)
            fix = f"set {setting} to one of them"
            raise DataError(f"find the column {name!r} in {self.path}", f"its columns are {columns}", fix)
        index = self.columns.index(name)
        return [row[index] for row in self.rows]


def read_text(path: Path, encoding: str) -> str:
    """A file's text without a byte order mark. Raises DataError when it is absent or in another encoding."""
    asked = f"read {path}"
    try:
        return path.read_bytes().decode("utf-8-sig" if encoding.lower() in {"utf-8", "utf8"} else encoding)
    except FileNotFoundError:
        raise DataError(asked, "there is no such file", "check the path; it is relative to the recipe") from None
    except IsADirectoryError:
        raise DataError(asked, "it is a folder", "name a CSV, TSV or JSONL file") from None
    except OSError as error:
        raise DataError(asked, f"reading it is refused ({error.strerror})", "make the file readable") from None
    except LookupError:
        fix = "use a codec name that Python knows, such as utf-8, latin-1 or cp1252"
        raise DataError(asked, f"the encoding {encoding!r} is unknown", fix) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        found = f"it is not {encoding}: byte 0x{error.object[error.start]:02x} on line {line}"
        raise DataError(asked, found, "save it as UTF-8, or set data.encoding (often latin-1 or cp1252)") from None


def read_table(path: Path, encoding: str = "utf-8", delimiter: str | None = None) -> Table:
    """Read a table: JSON lines or Parquet by the file's ending, else separated values with a header line.

    delimiter: of separated values; by default a tab for .tsv and .tab, a comma otherwise.
    Raises DataError for an absent or empty file, a wrong encoding, a row with too many or too few cells, broken JSON,
    a damaged Parquet file; MachineError for a Parquet file without pyarrow.
    """
    if path.suffix.lower() in PARQUET:
        return _parquet(path)
    text = read_text(path, encoding)
    if not text.strip():
        raise DataError(f"read {path}", "it is empty", "give a file with a header line and labelled rows")
    if path.suffix.lower() in JSON_LINES:
        table = _json_lines(path, text)
    else:
        separator = delimiter or DELIMITERS.get(path.suffix.lower(), ",")
        table = _separated(path, text, separator)
    if not table.rows:
        raise DataError(f"read {path}", "it has a header and no rows", "give a file with labelled rows")
    return table


def parse_headless(path: Path, text: str, columns: list[str], delimiter: str) -> Table:
    """A table without a header or quoting: one row a line, split at each delimiter."""
    rows = [line.split(delimiter) for line in text.splitlines() if line.strip()]
    for number, row in enumerate(rows, start=1):
        _check_width(path, number, row, columns)
    return Table(path, columns, rows, list(range(1, len(rows) + 1)))


def write_csv(path: Path, table: Table) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(table.columns)
        writer.writerows(table.rows)


def _separated(path: Path, text: str, delimiter: str) -> Table:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, lines, start = [], [], 1
    try:
        columns = [name.strip() for name in next(reader)]
        start = reader.line_num + 1
        for row in reader:
            if row:
                _check_width(path, start, row, columns)
                rows.append(row)
                lines.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"read {path}", f"line {start}: {error}", "check its quotes and data.delimiter") from error
    return Table(path, columns, rows, lines)


def _check_width(path: Path, line: int, row: list[str], columns: list[str]) -> None:
    if len(row) != len(columns):
        found = f"line {line} has {len(row)} cells, the columns are {len(columns)}: {', '.join(columns)}"
        raise DataError(f"read {path}", found, "check that line's quotes and separators, and data.delimiter")


def _json_lines(path: Path, text: str) -> Table:
    columns: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"read {path}", f"line {number} is not JSON: {error.msg}", "mend that line") from None
        if not isinstance(record, dict):
            raise DataError(f"read {path}", f"line {number} is not a JSON object", "give one object a line")
        columns = columns or list(record)
        if missing := [name for name in columns if name not in record]:
            found = f"line {number} lacks {', '.join(missing)}, which line {lines[0]} has"
            raise DataError(f"read {path}", found, "give every line the same fields")
        rows.append([_cell(record[name]) for name in columns])
        if any(not cell.isascii() and _has_lone_surrogate(cell) for cell in rows[-1]):
            found = f"line {number} holds half of a character (a lone surrogate, as a cut-off emoji leaves)"
            raise DataError(f"read {path}", found, "mend or take out that row")
        lines.append(number)
    return Table(path, columns, rows, lines)


def _parquet(path: Path) -> Table:
    file = ParquetFile(path)
    unusable = {name: why for name in file.columns if (why := file.why_no_cells(name))}
    columns = [name for name in file.columns if name not in unusable]
    rows = [[_cell(value) for value in row] for row in file.rows(columns)]
    return Table(path, columns, rows, list(range(1, len(file) + 1)), unusable)


def _has_lone_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _cell(value: object) -> str:
    """As JSON writes it; what JSON has no form of (dates, decimals), as Python prints it."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, int | float | dict | list) else str(value)

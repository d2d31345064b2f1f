"""Parquet files, column by column, with the names that Hugging Face keeps in them for the numbers of classes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tldeploy.errors import DataError, MachineError

PARQUET = {".parquet", ".pq"}
ROWS_AT_ONCE = 256


class ParquetFile:
    """An open Parquet file. Raises DataError when it is absent, empty or damaged, MachineError without pyarrow."""

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet
        except ImportError:
            raise MachineError(
                f"read {path}", "the package pyarrow, which reads Parquet, is missing", "pip install pyarrow"
            ) from None
        if path.is_dir():
            raise DataError(f"read {path}", "it is a folder", "name one Parquet file")
        if not path.exists():
            raise DataError(f"read {path}", "there is no such file", "check the path; it is relative to the recipe")
        self.path, self._pa = path, pa
        with self._errors():
            self._file = pa.parquet.ParquetFile(path)
            self._schema = self._file.schema_arrow
        if not self._file.metadata.num_rows:
            raise DataError(f"read {path}", "it has no rows", "give a file with labelled rows")

    @property
    def columns(self) -> list[str]:
        return list(self._schema.names)

    def __len__(self) -> int:
        rows: int = self._file.metadata.num_rows
        return rows

    def why_no_cells(self, column: str) -> str | None:
        """Why a column cannot be one of text cells; None when it can."""
        kind, types = self._schema.field(column).type, self._pa.types
        if types.is_dictionary(kind):
            kind = kind.value_type
        if types.is_nested(kind):
            return f"its cells are lists or records ({kind})"
        if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
            return "its cells are bytes"
        return None

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """The Python values of some columns, row by row; a number of a class is its name, one below 0 is None."""
        names = {column: self._class_names(column) for column in columns}
        with self._errors():
            for batch in self._file.iter_batches(ROWS_AT_ONCE, columns=list(columns)):
                values = [
                    [self._value(value, names[column], column) for value in self._plain(batch.column(column))]
                    for column in columns
                ]
                yield from zip(*values, strict=True)

    def _plain(self, array: Any) -> list[Any]:
        values: list[Any] = array.to_pylist()
        if self._pa.types.is_float32(array.type) or self._pa.types.is_float16(array.type):
            # 0.1 as a float of 32 bits is 0.1 to a person, and 0.10000000149011612 to Python.
            return [None if value is None else float(str(np.float32(value))) for value in values]
        return values

    def _value(self, value: Any, names: Sequence[str] | None, column: str) -> Any:
        if names is None or not isinstance(value, int):
            return value
        if value >= len(names):
            found = f"the column {column!r} has the class {value}, and names for {len(names)} classes"
            raise DataError(f"read {self.path}", found, "mend the class, or the names in the file's metadata")
        return names[value] if value >= 0 else None

    def _class_names(self, column: str) -> list[str] | None:
        """The names of a ClassLabel feature, as the datasets library writes it into the schema's metadata."""
        try:
            stored = json.loads((self._schema.metadata or {}).get(b"huggingface", b"{}"))
            names = stored["info"]["features"][column]["names"]
        except (ValueError, KeyError, TypeError):
            return None
        return [str(name) for name in names] if isinstance(names, list) and names else None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (self._pa.ArrowException, OSError, UnicodeDecodeError) as error:
            said = str(error).splitlines()[0].rstrip(".")
            raise DataError(
                f"read {self.path}", f"it is no Parquet file, or damaged ({said})", "write it anew"
            ) from None

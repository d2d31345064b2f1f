from __future__ import annotations

import json
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tldeploy.data.sources import read_table
from tldeploy.errors import DataError, MachineError


def write_parquet(path: Path, columns: dict[str, Any], class_names: dict[str, list[str]] | None = None) -> Path:
    """A Parquet file; `class_names` as the datasets library stores them."""
    table = pa.table(columns)
    if class_names:
        features = {name: {"names": names, "_type": "ClassLabel"} for name, names in class_names.items()}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    return path


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.integers(-(2**60), 2**60)), min_size=1))
def test_texts_and_whole_numbers_read_back_as_they_are(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int]]
) -> None:
    texts, numbers = [text for text, _ in rows], [number for _, number in rows]
    path = write_parquet(tmp_path_factory.mktemp("p") / "rows.parquet", {"text": texts, "label": numbers})
    table = read_table(path)
    assert table.columns == ["text", "label"]
    assert table.rows == [[text, str(number)] for text, number in rows]
    assert table.lines == list(range(1, len(rows) + 1))


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        (pa.array([0.1, 2.0, None]), ["0.1", "2.0", ""]),
        (pa.array([0.1, 1e-7, None], pa.float32()), ["0.1", "1e-07", ""]),
        (pa.array([3, -1, None], pa.int8()), ["3", "-1", ""]),
        (pa.array([True, False, None]), ["true", "false", ""]),
        (pa.array(["a", "b", None]).dictionary_encode(), ["a", "b", ""]),
        (pa.array(["a", "b", None], pa.large_string()), ["a", "b", ""]),
        (pa.array([date(2024, 2, 29), None, None]), ["2024-02-29", "", ""]),
        (pa.array([Decimal("1.50"), None, None]), ["1.50", "", ""]),
        (pa.array([None, None, None]), ["", "", ""]),
    ],
)
def test_cells_of_every_plain_type_become_text(tmp_path: Path, column: Any, cells: list[str]) -> None:
    assert read_table(write_parquet(tmp_path / "r.parquet", {"cell": column})).column("cell", "data.text") == cells


@pytest.mark.parametrize(
    ("column", "why"),
    [
        (pa.array([["a", "b"]]), r"its cells are lists or records \(list<"),
        (pa.array([{"a": 1}]), r"its cells are lists or records \(struct<"),
        (pa.array([b"\0"]), "its cells are bytes"),
    ],
)
def test_a_column_that_holds_no_text_is_refused_only_when_it_is_used(tmp_path: Path, column: Any, why: str) -> None:
    table = read_table(write_parquet(tmp_path / "rows.parquet", {"text": ["a"], "vector": column}))
    assert table.column("text", "data.text") == ["a"]
    with pytest.raises(DataError, match=f"cannot use the column 'vector' .*{why}.*\n.*set data.text to .*: text"):
        table.column("vector", "data.text")


def test_numbers_of_classes_have_the_names_that_the_file_gives_them(tmp_path: Path) -> None:
    columns = {"text": ["a", "b", "c"], "label": [1, 0, -1], "other": [1, 0, -1]}
    table = read_table(write_parquet(tmp_path / "rows.parquet", columns, {"label": ["bad", "good"]}))
    assert table.column("label", "data.label") == ["good", "bad", ""]
    assert table.column("other", "data.label") == ["1", "0", "-1"]


def test_a_class_without_a_name_is_an_error(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "rows.parquet", {"label": [0, 2]}, {"label": ["bad", "good"]})
    with pytest.raises(DataError, match="the column 'label' has the class 2, and names for 2 classes"):
        read_table(path)


def test_more_rows_than_are_read_at_once_keep_their_order(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "rows.parquet", {"text": [f"row {i}" for i in range(1000)]})
    assert read_table(path).column("text", "data.text") == [f"row {i}" for i in range(1000)]


def test_what_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"text,label\na,b\n")
    with pytest.raises(DataError, match="it is no Parquet file, or damaged"):
        read_table(tmp_path / "rows.parquet")
    whole = write_parquet(tmp_path / "whole.parquet", {"text": ["a" * 5000]}).read_bytes()
    (tmp_path / "rows.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="it is no Parquet file, or damaged"):
        read_table(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="there is no such file"):
        read_table(tmp_path / "absent.parquet")
    with pytest.raises(DataError, match="it has no rows"):
        read_table(write_parquet(tmp_path / "empty.parquet", {"text": pa.array([], pa.string())}))
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(DataError, match="it is a folder"):
        read_table(tmp_path / "folder.parquet")


def test_without_pyarrow_the_command_that_installs_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "rows.parquet", {"text": ["a"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MachineError, match="fix: pip install pyarrow"):
        read_table(path)

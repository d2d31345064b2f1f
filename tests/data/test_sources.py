from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tldeploy.data.sources import Table, read_table, write_csv
from tldeploy.errors import DataError


def put(folder: Path, content: str | bytes, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=5))
def test_what_is_written_reads_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    table = Table(path, ["text", "label"], [["first", "x"], *(list(row) for row in rows)], [])
    write_csv(path, table)
    assert read_table(path).rows == table.rows


def test_rows_know_their_lines_even_after_quoted_line_breaks(tmp_path: Path) -> None:
    table = read_table(put(tmp_path, 'text,label\n"two\nlines",a\n\nlast,b\n'))
    assert table.rows == [["two\nlines", "a"], ["last", "b"]]
    assert table.lines == [2, 5]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    assert read_table(put(tmp_path, b"\xef\xbb\xbftext,label\na,b\n")).columns == ["text", "label"]


def test_tab_separated_and_json_lines_are_read_by_their_ending(tmp_path: Path) -> None:
    separated = read_table(put(tmp_path, "text\tlabel\na, b\tx\n", "rows.tsv"))
    lines = read_table(put(tmp_path, '{"text": "a, b", "label": "x"}\n\n{"label": 3, "text": null}\n', "rows.jsonl"))
    assert separated.rows == [["a, b", "x"]]
    assert (lines.columns, lines.rows) == (["text", "label"], [["a, b", "x"], ["", "3"]])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.csv", "", "it is empty"),
        ("rows.csv", " \n\n", "it is empty"),
        ("rows.csv", "text,label\n", "it has a header and no rows"),
        ("rows.csv", "text,label\na,b\nc\n", "line 3 has 1 cells, the columns are 2: text, label"),
        ("rows.csv", "text,label\na,b,c\n", "line 2 has 3 cells"),
        ("rows.csv", 'text,label\n"a"b,c\n', "line 2"),
        ("rows.csv", b"text,label\ngood,a\ncaf\xe9,b\n", "it is not utf-8: byte 0xe9 on line 3"),
        ("rows.jsonl", "{]\n", "line 1 is not JSON"),
        ("rows.jsonl", '{"a": 1}\n[1]\n', "line 2 is not a JSON object"),
        ("rows.jsonl", '{"a": "fine"}\n{"a": "\\ud83d"}\n', "line 2 holds half of a character"),
        ("rows.jsonl", '{"a": 1, "b": 2}\n{"a": 1}\n', "line 2 lacks b, which line 1 has"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    with pytest.raises(DataError, match=said) as raised:
        read_table(put(tmp_path, content, name))
    assert raised.value.exit_code == 4


def test_another_encoding_is_read_when_it_is_named(tmp_path: Path) -> None:
    path = put(tmp_path, b"text,label\ncaf\xe9,b\n")
    assert read_table(path, encoding="latin-1").rows == [["café", "b"]]
    with pytest.raises(DataError, match="the encoding 'latin-one' is unknown"):
        read_table(path, encoding="latin-one")


def test_an_absent_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        read_table(tmp_path / "nothing.csv")
    with pytest.raises(DataError, match="it is a folder"):
        read_table(tmp_path)


def test_a_missing_column_names_those_that_are_there(tmp_path: Path) -> None:
    table = read_table(put(tmp_path, "review,stars\na,b\n"))
    with pytest.raises(DataError, match=r"its columns are review, stars\n  fix: set data\.text"):
        table.column("text", "data.text")

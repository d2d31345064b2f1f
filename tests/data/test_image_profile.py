from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.test_parquet import write_parquet
from tldeploy.data.image_profile import Pictures, find_image, refuse_absent_images
from tldeploy.data.profile import open_table
from tldeploy.data.sources import Table
from tldeploy.errors import DataError


def picture(width: int = 8, height: int = 6, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), dtype=np.uint8)).save(stream, form)
    return stream.getvalue()


def put(path: Path, *sizes: tuple[int, int], form: str = "PNG") -> list[str]:
    path.mkdir(parents=True, exist_ok=True)
    files = [path / f"{number}.{form.lower()}" for number in range(len(sizes))]
    for file, (width, height) in zip(files, sizes, strict=True):
        file.write_bytes(picture(width, height, form))
    return [str(file) for file in files]


def table(folder: Path, columns: dict[str, list[str]]) -> Table:
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    return Table(folder / "rows.csv", list(columns), rows, list(range(2, len(rows) + 2)))


def test_formats_and_median_sizes_are_those_of_the_headers(tmp_path: Path) -> None:
    files = [*put(tmp_path / "a", (40, 20), (10, 10)), *put(tmp_path / "b", (30, 60), form="JPEG")]
    assert Pictures.of(files) == Pictures(3, {"PNG": 2, "JPEG": 1}, width=30, height=20, side=40, stretch=2.0)


def test_a_column_of_existing_image_files_is_found_whatever_its_name(tmp_path: Path) -> None:
    names = [f"a/{number}.png" for number in range(6)]
    put(tmp_path / "a", *[(8, 8)] * 6)
    columns = {"note": ["a text of several words"] * 6, "x": names, "y": list("ababab")}
    choice = find_image(table(tmp_path, columns), None)
    assert choice is not None
    assert (choice.about, choice.value) == ("data.image", "x")
    assert choice.reason == "its cells are images: 100% of those that were looked at."


@pytest.mark.parametrize(("there", "is_found"), [(2, False), (3, False), (4, True)])
def test_more_than_half_of_the_files_must_be_there(tmp_path: Path, there: int, is_found: bool) -> None:
    put(tmp_path / "a", *[(8, 8)] * there)
    found = find_image(table(tmp_path, {"x": [f"a/{number}.png" for number in range(6)], "y": list("ababab")}), None)
    assert (found is not None) == is_found


def test_the_column_named_as_the_label_is_no_column_of_images(tmp_path: Path) -> None:
    put(tmp_path / "a", (8, 8), (8, 8))
    assert find_image(table(tmp_path, {"x": ["a/0.png", "a/1.png"]}), "x") is None


@pytest.mark.parametrize(
    ("cells", "is_found"),
    [
        ([picture()] * 4, True),
        ([{"bytes": picture(), "path": None}] * 4, True),
        ([{"bytes": None, "path": "a/0.png"}] * 4, True),
        ([b"no image"] * 4, False),
        ([[1, 2]] * 4, False),
    ],
)
def test_images_in_parquet_are_bytes_or_records(tmp_path: Path, cells: list[Any], is_found: bool) -> None:
    put(tmp_path / "a", (8, 8))
    source = open_table(write_parquet(tmp_path / "rows.parquet", {"picture": cells, "label": list("abab")}))
    assert (find_image(source.table, None) is not None) == is_found


@pytest.mark.parametrize("cell", ["x" * 5000 + ".png", "a\0b.png", "https://example.org/a.png", ""])
def test_cells_that_no_file_could_be_named_are_no_images(tmp_path: Path, cell: str) -> None:
    assert find_image(table(tmp_path, {"x": [cell] * 4}), None) is None


def test_images_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the column 'x' names images that are not there, such as gone/0\.png"):
        refuse_absent_images(table(tmp_path, {"id": ["1", "2"], "x": ["gone/0.png", "gone/1.png"]}))
    refuse_absent_images(table(tmp_path, {"x": ["a text", "another"]}))

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_project import write_reviews
from tldeploy.data.rows import Rows, split_rows
from tldeploy.errors import DataError
from tldeploy.recipe import Data


def table(folder: Path, lines: list[str], name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    return path


def refused(folder: Path, data: Data) -> str:
    with pytest.raises(DataError) as raised:
        split_rows(data, folder)
    return str(raised.value)


def test_splits_are_stratified_disjoint_and_the_same_every_time(tmp_path: Path) -> None:
    write_reviews(tmp_path / "rows.csv", 300)
    data = Data(file="rows.csv", test=0.5, validation=0.2)
    splits = split_rows(data, tmp_path)
    assert splits.labels == ["negative", "neutral", "positive"]
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [120, 30, 150]
    for part in (splits.train, splits.validation, splits.test):
        assert np.bincount(part.classes).tolist() == [len(part) // 3] * 3
    lines = (tmp_path / "rows.csv").read_text(encoding="utf-8").splitlines()
    for part in (splits.train, splits.validation, splits.test):
        for text, place in zip(part.inputs, part.places, strict=True):
            assert lines[int(place.removeprefix("line ")) - 1].startswith(text)
    every = Counter(splits.train.inputs + splits.validation.inputs + splits.test.inputs)
    assert sum(every.values()) == 300
    again = split_rows(data, tmp_path)
    assert again.test.inputs == splits.test.inputs
    other = split_rows(data.model_copy(update={"seed": 1}), tmp_path)
    assert other.test.inputs != splits.test.inputs


def test_a_test_file_of_its_own_is_used_whole(tmp_path: Path) -> None:
    write_reviews(tmp_path / "rows.csv", 60)
    table(tmp_path, ["x,positive", "y,negative"], "test.csv")
    splits = split_rows(Data(file="rows.csv", test="test.csv", validation=0.2), tmp_path)
    assert (splits.test.inputs, splits.test.classes.tolist()) == (["x", "y"], [2, 0])
    assert splits.test.places == ["test.csv: line 2", "test.csv: line 3"]
    assert len(splits.train) + len(splits.validation) == 60


def test_a_label_never_seen_in_training_is_named_with_its_line(tmp_path: Path) -> None:
    write_reviews(tmp_path / "rows.csv", 60)
    table(tmp_path, ["x,positive", "y,mixed"], "test.csv")
    said = refused(tmp_path, Data(file="rows.csv", test="test.csv"))
    assert "the label 'mixed' on line 3 is not among those of the training rows: negative, neutral, positive" in said


def test_numbers_are_cut_into_bins_in_the_order_of_the_recipe(tmp_path: Path) -> None:
    table(tmp_path, [f"text {i},{i % 5 + 1}" for i in range(100)])
    bins = {"poor": "<= 2", "fair": "3 .. 3", "fine": "> 3"}
    splits = split_rows(Data(file="rows.csv", bins=bins, test=0.5, validation=0.2), tmp_path)
    assert splits.labels == ["poor", "fair", "fine"]
    assert np.bincount(splits.test.classes).tolist() == [20, 10, 20]


@pytest.mark.parametrize(
    ("cell", "bins", "said"),
    [
        ("many", {"a": "< 3", "b": ">= 3"}, "line 42 has 'many' where a number is expected"),
        ("3", {"a": "< 3", "b": "> 3"}, "3 on line 42 lies in none of them"),
        ("3", {"a": "<= 3", "b": ">= 3"}, "3 on line 42 lies in a and b of them"),
        ("nan", {"a": "<= 3", "b": "> 3"}, "nan on line 42 lies in none of them"),
    ],
)
def test_bins_that_do_not_hold_a_number_once_are_refused(
    tmp_path: Path, cell: str, bins: dict[str, str], said: str
) -> None:
    table(tmp_path, [f"text,{1 + i % 2 * 3}" for i in range(40)] + [f"text,{cell}"])
    assert said in refused(tmp_path, Data(file="rows.csv", bins=bins))


def test_rows_without_a_text_are_counted_and_left_out(tmp_path: Path) -> None:
    table(tmp_path, [f"text {i},{'ab'[i % 2]}" for i in range(40)] + [",a", '" ",b'])
    splits = split_rows(Data(file="rows.csv"), tmp_path)
    assert len(splits.left_out) == 2
    assert sum(len(part) for part in (splits.train, splits.validation, splits.test)) == 40


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([f"text {i},a" for i in range(20)], "all rows have the label 'a'"),
        ([f"text {i},{'ab'[i % 2]}" for i in range(20)] + ["rare,c"], "fewer than 4 rows: 'c' (1)"),
        (
            [f"text {i},{'ab'[i % 2]}" for i in range(20)] + ["unlabelled,"],
            "rows without a 'label': 1, the first on line 22",
        ),
        ([",a", ",b"], "every 'text' cell is empty"),
        ([f"text {i},{'ab'[i % 2]}" for i in range(20)] + ['x,"c\nd"'], "holds a line break"),
        ([f"text {i},{'abc'[i % 3]}" for i in range(12)], "raise data.test or give more rows"),
    ],
)
def test_rows_that_cannot_be_learnt_from_are_refused(tmp_path: Path, lines: list[str], said: str) -> None:
    table(tmp_path, lines)
    assert said in refused(tmp_path, Data(file="rows.csv", test=0.1))


def test_a_class_of_five_rows_can_be_split(tmp_path: Path) -> None:
    table(tmp_path, [f"text {i},{'ab'[i % 2]}" for i in range(40)] + [f"rare {i},c" for i in range(5)])
    splits = split_rows(Data(file="rows.csv", test=0.5, validation=0.2), tmp_path)
    assert splits.labels == ["a", "b", "c"]


def test_rows_survive_a_round_trip(tmp_path: Path) -> None:
    rows = Rows(["plain", "two\nlines", "😀 \u2028 \0"], np.array([0, 1, 0]))
    rows.save(tmp_path / "rows.jsonl")
    back = Rows.load(tmp_path / "rows.jsonl")
    assert (back.inputs, back.classes.tolist()) == (rows.inputs, [0, 1, 0])

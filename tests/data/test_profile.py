from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tldeploy.data.profile import Lengths, cut_into_bins, find_label, find_text, open_table
from tldeploy.data.sources import Table
from tldeploy.errors import DataError
from tldeploy.recipe import Bin


def table(columns: dict[str, list[str]]) -> Table:
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    return Table(Path("rows.csv"), list(columns), rows, list(range(2, len(rows) + 2)))


TEXTS = [f"a review of some length, the {i}th" for i in range(40)]
AB = ["a", "b"] * 20


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt"])
def test_any_delimiter_is_found_under_any_ending(tmp_path: Path, delimiter: str, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_text("".join(f'"a, b; c\td|{i}"{delimiter}{i}\n' for i in range(4)), encoding="utf-8")
    source = open_table(path)
    assert (source.delimiter, source.table.rows[0]) == (delimiter, ["a, b; c\td|1", "1"])
    assert source.delimiter_is_implied == (delimiter == ("\t" if suffix == ".tsv" else ","))


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"title": [t[:20] for t in TEXTS], "body": TEXTS}, "body"),
        ({"url": [f"https://example.org/{'x' * 90}/{i}" for i in range(40)], "review": TEXTS}, "review"),
        ({"shop": ["a rather long name of one shop, and more"] * 40, "review": TEXTS}, "review"),
        ({"number": [str(i * 10**40) for i in range(40)], "评论": [f"质量很好{i}" for i in range(40)]}, "评论"),
    ],
)
def test_the_text_column_is_the_one_of_long_distinct_texts(columns: dict[str, list[str]], text: str) -> None:
    assert find_text(table(columns), None).value == text


def test_other_texts_are_named_in_the_reason() -> None:
    choice = find_text(table({"title": [t[:-8] + "x" * (i % 5) for i, t in enumerate(TEXTS)], "body": TEXTS}), None)
    assert choice.reason.startswith(
        "the column of long, mostly distinct texts: 33 characters on average, 100% distinct"
    )


@pytest.mark.parametrize(
    ("columns", "label"),
    [
        ({"language": AB, "category": ["x", "y", "z", "x"] * 10}, "category"),
        ({"rating": list("12345") * 8, "label": AB}, "label"),
        ({"starRating": list("12345") * 8, "verified": AB}, "starRating"),
        ({"one": list("abcd") * 10, "two": AB}, "two"),
        ({"number": [str(i) for i in range(40)], "kind": AB}, "kind"),
        ({"number": [str(i / 4 - 5) for i in range(40)]}, "number"),
    ],
)
def test_the_label_column_is_found_by_name_then_by_how_few_values_it_has(
    columns: dict[str, list[str]], label: str
) -> None:
    assert find_label(table({"review": TEXTS} | columns), "review").value == label


def test_without_a_label_column_each_column_is_described() -> None:
    with pytest.raises(DataError, match=r"'key' \(40 values\), 'label' \(1 value\)\n  fix: name the label column"):
        find_label(table({"review": TEXTS, "key": [f"k{i}" for i in range(40)], "label": ["a"] * 40}), "review")


@pytest.mark.parametrize(
    ("name", "values", "bins"),
    [
        ("stars", [1, 2, 3, 4, 5], {"negative": "<= 2", "neutral": "3 .. 3", "positive": ">= 4"}),
        ("stars", [3, 4, 5], {"neutral": "3 .. 3", "positive": ">= 4"}),
        ("stars", [1, 1.5, 3, 4.5], {"negative": "<= 1.5", "neutral": "3 .. 3", "positive": ">= 4.5"}),
        ("rating", [1, 2, 3, 4], {"negative": "<= 2", "positive": ">= 3"}),
        ("rating", list(range(1, 11)), {"negative": "<= 4", "neutral": "5 .. 6", "positive": ">= 7"}),
        ("rating", list(range(11)), {"negative": "<= 3", "neutral": "4 .. 6", "positive": ">= 7"}),
        ("polarity", [-1, 0, 1], {"negative": "< 0", "neutral": "0 .. 0", "positive": "> 0"}),
        ("polarity", [-2, -1, 1], {"negative": "< 0", "positive": ">= 0"}),
        ("rating", [4, 4.5, 5], {"low": "< 4.5", "high": ">= 4.5"}),
        ("length", [0.5 * i for i in range(30)], {"low": "< 5", "middle": "5 .. 10", "high": "> 10"}),
        ("size", [1e-05, 2e-05, 1e6], {"negative": "<= 0.00002", "positive": ">= 1000000"}),
        ("stars", [1, 5], None),
        ("label", [0, 1, 2, 3], None),
        ("topic", [1, 2, 3, 4], None),
    ],
)
def test_numbers_are_cut_where_their_scale_says(name: str, values: list[float], bins: dict[str, str] | None) -> None:
    choice = cut_into_bins(name, [str(value) for value in values] * 4)
    assert (choice.value if choice else None) == bins


def test_words_are_not_cut() -> None:
    assert cut_into_bins("label", ["1", "2", "3", "many"]) is None


finite = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-12, 12).map(float)


@given(st.lists(finite, min_size=1, max_size=30), st.sampled_from(["stars", "amount", "label", "polarity"]))
def test_every_number_lies_in_one_bin_and_there_are_two_or_more(numbers: list[float], name: str) -> None:
    choice = cut_into_bins(name, [repr(number) for number in numbers])
    if choice is not None:
        ranges = {label: Bin.parse(text) for label, text in choice.value.items()}
        held = [[label for label, part in ranges.items() if part and part.holds(number)] for number in numbers]
        assert all(len(labels) == 1 for labels in held)
        assert len(Counter(labels[0] for labels in held)) >= 2


@given(st.lists(st.integers(0, 1000), min_size=1))
def test_lengths_are_those_of_numpy(lengths: list[int]) -> None:
    found = Lengths.of(lengths)
    assert found.p99 == np.percentile(lengths, 99, method="inverted_cdf")
    assert found.longest == max(lengths)
    assert found.median == np.percentile(lengths, 50, method="higher")

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tldeploy.data.health import Finding, findings, target_findings, text_findings
from tldeploy.data.rows import Rows, Splits
from tldeploy.data.target import Target

LABELS = ["cat", "dog"]


def part(*rows: tuple[str, int], file: str = "a") -> Rows:
    classes = np.array([number for _, number in rows], dtype=np.int64)
    return Rows([key for key, _ in rows], classes, "text", [f"{file} {line}" for line in range(1, len(rows) + 1)])


def healthy(start: str, *more: tuple[str, int]) -> Rows:
    """40 rows that are well, from `start`1 on, and some more."""
    return part(*((f"{start}{number}", number % 2) for number in range(1, 41)), *more, file=start)


def found_in(train: Rows, validation: Rows | None = None, test: Rows | None = None) -> dict[str, Finding]:
    splits = Splits(LABELS, train, validation or healthy("b"), test or healthy("c"), [])
    return {found.about: found for found in findings(splits)}


def values(found: dict[str, Finding]) -> dict[str, float]:
    return {about: one.value for about, one in found.items()}


def test_nothing_is_said_of_rows_that_are_well() -> None:
    assert found_in(healthy("a")) == {}


def test_repeated_rows_and_leaks_are_counted_and_named_where_they_are() -> None:
    train = healthy("a", ("a5", 1), ("a5", 1))
    validation = healthy("b", ("a6", 0))
    test = healthy("c", ("a7", 1), ("b1", 1), ("c1", 1))
    found = found_in(train, validation, test)
    assert {about: list(one.rows) for about, one in found.items()} == {
        "duplicates": ["a 41 = a 5", "a 42 = a 5", "b 41 = a 6", "c 41 = a 7", "c 42 = b 1", "c 43 = c 1"],
        "leaks into the test rows": ["c 41 = a 7", "c 42 = b 1"],
        "leaks into the validation rows": ["b 41 = a 6"],
    }
    assert values(found) == {"duplicates": 6, "leaks into the test rows": 2, "leaks into the validation rows": 1}
    assert found["duplicates"].choice.reason == (
        "of 126 rows, so many repeat the text of another; 2 of them are training rows, which count more than once: "
        "a 41 = a 5, a 42 = a 5, b 41 = a 6, c 41 = a 7, c 42 = b 1, c 43 = c 1"
    )
    assert "so many of the 43 test rows have a text that is learnt from or chosen by" in (
        found["leaks into the test rows"].meaning
    )


def test_many_rows_are_named_by_the_first_and_how_many_more() -> None:
    found = found_in(healthy("a", *[("a1", 1)] * 1_100))["duplicates"]
    assert len(found.rows) == found.value == found.choice.value == 1_100
    assert found.choice.reason.endswith(": " + ", ".join(f"a {row} = a 1" for row in range(41, 49)) + " and 1,092 more")


def test_one_row_with_two_labels_is_a_contradiction() -> None:
    found = found_in(healthy("a", ("a1", 0), ("a1", 0)))
    assert values(found) == {"duplicates": 2, "contradicting labels": 1}
    assert "so many texts stand there with different labels" in found["contradicting labels"].meaning
    assert found["contradicting labels"].rows == ["a 41 ('cat') = a 1 ('dog')"]


def test_a_file_that_is_validation_and_test_at_once_leaks_whole() -> None:
    found = found_in(healthy("a"), healthy("b"), healthy("b"))
    assert values(found) == {"duplicates": 40, "leaks into the test rows": 40}


def test_classes_with_few_rows_are_named() -> None:
    found = found_in(part(*((f"a{number}", number // 55) for number in range(60))))
    assert values(found) == {"imbalance": 11.0, "near-empty classes": 1}
    assert "of 'cat' (55) as of 'dog' (5)" in found["imbalance"].choice.reason
    assert "'dog' (5)" in found["near-empty classes"].choice.reason


def test_ten_times_as_many_rows_are_no_imbalance_yet() -> None:
    assert found_in(part(*((f"a{number}", number // 100) for number in range(110)))) == {}


def test_damaged_texts_are_named_by_their_rows_in_every_split() -> None:
    found = found_in(healthy("a", ("cafÃ©", 0)), test=healthy("c", ("caf\ufffd", 0), ("naÃ¯ve", 1)))
    assert {about: list(one.rows) for about, one in found.items()} == {
        "replacement characters": ["c 41"],
        "mojibake": ["a 41", "c 42"],
    }


def of_target(rows: Rows, test: Rows | None = None, left_out: Sequence[tuple[str, str]] = ()) -> dict[str, list[str]]:
    target = Target(rows.inputs, rows.places, "text", test, None, list(left_out))
    splits = Splits(LABELS, healthy("a"), healthy("b"), test or healthy("c"), [])
    return {found.about: list(found.rows) for found in target_findings(target, splits)}


def test_nothing_is_said_of_target_rows_that_are_well() -> None:
    assert of_target(healthy("t")) == of_target(healthy("t"), healthy("u")) == {}


def test_target_rows_are_looked_at_as_the_sources_are() -> None:
    rows = healthy("t", ("t1", 0), ("a5", 0), ("b6", 1), ("c7", 0), ("caf\ufffd", 1), ("a\0b", 0))
    assert of_target(rows, left_out=[("line 9", "its text is empty")]) == {
        "target: rows left out": ["line 9 (its text is empty)"],
        "target: duplicates": ["t 41 = t 1"],
        "target: rows of the source": ["t 42 = a 5", "t 43 = b 6", "t 44 = c 7"],
        "target: replacement characters": ["t 45"],
        "target: control characters": ["t 46"],
    }


def test_a_target_row_that_is_held_out_too_is_a_leak_and_no_row_of_the_source() -> None:
    assert of_target(healthy("t", ("u3", 0)), healthy("u")) == {"target: leaks into the held-out rows": ["u 3 = t 41"]}


keys = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 1)), min_size=1, max_size=12)


@given(keys, keys, keys)
def test_counts_are_those_of_comparing_every_pair(
    train: list[tuple[str, int]], validation: list[tuple[str, int]], test: list[tuple[str, int]]
) -> None:
    found = values(found_in(part(*train), part(*validation), part(*test)))
    every = [*train, *validation, *test]
    assert found.get("duplicates", 0) == sum(any(a == b for b, _ in every[:i]) for i, (a, _) in enumerate(every))
    assert found.get("contradicting labels", 0) == len({a for a, m in every for b, n in every if a == b and m != n})
    learnt = {key for key, _ in (*train, *validation)}
    assert found.get("leaks into the test rows", 0) == sum(key in learnt for key, _ in test)
    assert found.get("leaks into the validation rows", 0) == sum(key in dict(train) for key, _ in validation)


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("caf\ufffd", "replacement characters"),
        ("cafÃ©", "mojibake"),
        ("12Â°", "mojibake"),
        ("donâ€™t", "mojibake"),
        ("donâ\x80\x99t", "mojibake"),
        ("fine ðŸ˜€", "mojibake"),
        ("Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "mojibake"),
        ("a\0b", "control characters"),
        ("a\x1b[31mb", "control characters"),
        (" \n", "empty texts"),
        ("x" * 10_001, "very long texts"),
    ],
)
def test_a_text_that_was_damaged_is_found(text: str, about: str) -> None:
    found = text_findings(["good", text, text], ["line 2", "line 3", "line 4"])
    assert about in {one.about for one in found}
    assert all(one.rows == ["line 3", "line 4"] for one in found)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
@given(st.sampled_from("éèüöñçß°«»£ÉÀãõ"))
def test_any_western_letter_read_wrongly_is_found(encoding: str, letter: str) -> None:
    wrong = letter.encode().decode(encoding, errors="replace")
    abouts = {one.about for one in text_findings([f"a{wrong}b"], ["line 2"])}
    assert {"mojibake", "replacement characters"} & abouts


SOUND = [
    "plain", "café, naïve, Ångström, São Paulo, NÃO, À la carte", "«PASSÉ» “CAFÉ”", "привет, мир", "很好 😀👍🏽",
    "a\tb\nc\r\nd", "Âge, Ânes", "château", "Ñandú", "ð and þ", "e\u0301", "x" * 10_000, "\u200d\u202e",
]  # fmt: skip


@pytest.mark.parametrize("text", SOUND)
def test_a_sound_text_in_any_language_is_left_in_peace(text: str) -> None:
    assert text_findings([text], ["line 2"]) == []

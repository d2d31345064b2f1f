from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tldeploy.artifacts import Choice
from tldeploy.data.health import Part, findings, text_findings

LABELS = ["cat", "dog"]


def part(*rows: tuple[str, int]) -> Part:
    return Part([key for key, _ in rows], np.array([number for _, number in rows], dtype=np.int64))


def healthy(start: str, count: int = 40) -> Part:
    return part(*((f"{start}{number}", number % 2) for number in range(count)))


def joined(first: Part, *rows: tuple[str, int]) -> Part:
    more = part(*rows)
    return Part([*first.keys, *more.keys], np.concatenate([first.classes, more.classes]))


def values(lines: list[Choice]) -> dict[str, Any]:
    return {line.about: line.value for line in lines}


def test_nothing_is_said_of_rows_that_are_well() -> None:
    assert findings(LABELS, healthy("a"), healthy("b"), healthy("c")) == []


def test_repeated_rows_and_leaks_are_counted_where_they_are() -> None:
    train = joined(healthy("a"), ("a0", 0), ("a0", 0))
    validation = joined(healthy("b"), ("a1", 1))
    test = joined(healthy("c"), ("a2", 0), ("b0", 0), ("c0", 0))
    lines = findings(LABELS, train, validation, test, "image")
    assert values(lines) == {"duplicates": 6, "leaks into the test rows": 2, "leaks into the validation rows": 1}
    assert "of 126 rows, this many have the image of an earlier row; 2 of them are training rows" in lines[0].reason
    assert "so many of the 43 test rows have an image that is learnt from or chosen by" in lines[1].reason


def test_one_row_with_two_labels_is_a_contradiction() -> None:
    lines = findings(LABELS, joined(healthy("a"), ("a0", 1)), healthy("b"), healthy("c"))
    assert values(lines) == {"duplicates": 1, "contradicting labels": 1}
    assert "so many texts stand there with different labels" in lines[1].reason


def test_classes_with_few_rows_are_named() -> None:
    train = part(*((f"a{number}", 0) for number in range(55)), *((f"b{number}", 1) for number in range(5)))
    lines = findings(LABELS, train, healthy("c"), healthy("d"))
    assert values(lines) == {"imbalance": 11.0, "near-empty classes": 1}
    assert "of 'cat' (55) as of 'dog' (5)" in lines[0].reason
    assert "'dog' (5)" in lines[1].reason


def test_ten_times_as_many_rows_are_no_imbalance_yet() -> None:
    train = part(*((f"a{number}", 0) for number in range(100)), *((f"b{number}", 1) for number in range(10)))
    assert findings(LABELS, train, healthy("c"), healthy("d")) == []


keys = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 1)), min_size=1, max_size=12)


@given(keys, keys, keys)
def test_counts_are_those_of_comparing_every_pair(
    train: list[tuple[str, int]], validation: list[tuple[str, int]], test: list[tuple[str, int]]
) -> None:
    found = values(findings(LABELS, part(*train), part(*validation), part(*test)))
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
    lines = text_findings(["good", text, text], ["line 2", "line 3", "line 4"])
    assert values(lines)[about] == 2
    assert all(line.reason.endswith("; the first is line 3") for line in lines)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
@given(st.sampled_from("éèüöñçß°«»£ÉÀãõ"))
def test_any_western_letter_read_wrongly_is_found(encoding: str, letter: str) -> None:
    wrong = letter.encode().decode(encoding, errors="replace")
    assert {"mojibake", "replacement characters"} & set(values(text_findings([f"a{wrong}b"], ["line 2"])))


SOUND = [
    "plain", "café, naïve, Ångström, São Paulo, NÃO, À la carte", "«PASSÉ» “CAFÉ”", "привет, мир", "很好 😀👍🏽",
    "a\tb\nc\r\nd", "Âge, Ânes", "château", "Ñandú", "ð and þ", "e\u0301", "x" * 10_000, "\u200d\u202e",
]  # fmt: skip


@pytest.mark.parametrize("text", SOUND)
def test_a_sound_text_in_any_language_is_left_in_peace(text: str) -> None:
    assert text_findings([text], ["line 2"]) == []

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_project import FILLERS
from tldeploy.errors import DataError
from tldeploy.measuring.shapes import of_length


def lengths(texts: Sequence[str]) -> list[int]:
    """A tokenizer that adds two tokens, and cuts words into pieces of four letters."""
    return [2 + sum(-(-len(word) // 4) for word in text.split()) for text in texts]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([*FILLERS, "extraordinary"]), min_size=1, max_size=30), st.integers(3, 60))
def test_a_text_gets_exactly_so_many_tokens_out_of_its_own_words(words: list[str], tokens: int) -> None:
    text = " ".join(words)
    try:
        (made,) = of_length([text], tokens, lengths)
    except DataError:
        assert min(map(len, words)) > 4, "words of one token fill any gap"
        return
    assert lengths([made]) == [tokens]
    assert set(made.split()) <= set(words)


def test_a_long_text_is_cut_and_a_short_one_repeated() -> None:
    assert of_length(["a b c d e f", "x y"], 6, lengths) == ["a b c d", "x y x y"]


def test_a_text_that_cannot_have_that_length_is_left_out() -> None:
    assert of_length(["extraordinary", "", "a"], 5, lengths) == ["a a a"]


def test_a_length_that_no_text_can_have_is_refused() -> None:
    with pytest.raises(DataError, match="cannot make texts of 2 tokens"):
        of_length(["a b", "c"], 2, lengths)


def test_a_real_tokenizer_gives_the_length(tiny_export: Path) -> None:
    from tldeploy import artifacts
    from tldeploy.tasks import load_task

    manifest = artifacts.load(tiny_export, "export")
    task = load_task(manifest.task, tiny_export, manifest.labels)

    def counted(texts: Sequence[str]) -> Sequence[int]:
        return task.examples(texts).lengths or []

    made = of_length(["the camera was great", "good"], 16, counted)
    assert counted(made) == [16, 16]

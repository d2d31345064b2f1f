from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_project import FILLERS, write_backbone
from tldeploy.tasks.encoding import TextEncoder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("backbone"), layers=1) / "tokenizer.json"


@pytest.fixture(scope="module")
def encoder(tokenizer: Path) -> TextEncoder:
    return TextEncoder.from_file(tokenizer, {"max_length": 16, "pad_id": 0})


def test_rows_are_padded_at_the_end_to_the_longest(encoder: TextEncoder) -> None:
    tensors = encoder.encode(["the camera is great", "the"])
    assert tensors["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]
    assert tensors["input_ids"][1, 3:].tolist() == [0, 0, 0]
    assert {values.dtype for values in tensors.values()} == {np.dtype(np.int64)}


TRICKY = ["", " ", "\0", "😀", "很好", "a\0b", "word " * 10_000, "\u202e", "\ufffd", "e\u0301"]


@pytest.mark.parametrize("text", TRICKY)
def test_any_text_gets_tokens_within_the_limit(encoder: TextEncoder, text: str) -> None:
    (ids,) = encoder.token_ids([text])
    assert 2 <= len(ids) <= 16
    assert (ids[0], ids[-1]) == (2, 3)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.sampled_from(FILLERS), max_size=30).map(" ".join), min_size=1, max_size=6))
def test_a_row_is_encoded_the_same_alone_and_in_company(encoder: TextEncoder, texts: list[str]) -> None:
    together = encoder.encode(texts)
    for row, text in enumerate(texts):
        alone = encoder.encode([text])["input_ids"][0]
        assert together["input_ids"][row, : len(alone)].tolist() == alone.tolist()
        assert together["attention_mask"][row].sum() == len(alone)


def test_padding_goes_to_a_multiple_but_not_past_the_limit(tokenizer: Path) -> None:
    encoder = TextEncoder.from_file(tokenizer, {"max_length": 14, "pad_id": 0, "pad_to_multiple_of": 8})
    assert encoder.encode(["the camera"])["input_ids"].shape == (1, 8)
    assert encoder.encode(["the " * 9])["input_ids"].shape == (1, 14)


def test_a_text_without_tokens_keeps_one(tokenizer: Path) -> None:
    bare = json.loads(tokenizer.read_text(encoding="utf-8")) | {"post_processor": None}
    encoder = TextEncoder(json.dumps(bare), max_length=16, pad_id=0)
    tensors = encoder.encode(["", "the camera"])
    assert tensors["attention_mask"].tolist() == [[1, 0], [1, 1]]
    assert tensors["input_ids"][0].tolist() == [0, 0]


def test_no_rows_make_an_empty_batch(encoder: TextEncoder) -> None:
    assert encoder.encode([])["input_ids"].shape == (0, 0)


def test_an_unknown_setting_is_refused(tokenizer: Path) -> None:
    with pytest.raises(TypeError, match="lowercase"):
        TextEncoder.from_file(tokenizer, {"max_length": 16, "pad_id": 0, "lowercase": True})

"""Text classification: a text in, the probability of each class out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from tldeploy.tasks.classification import ENCODER, Classification, Row, Tensors
from tldeploy.tasks.encoding import TextEncoder

TOKENIZER = "tokenizer.json"
SAMPLE_BATCH, SAMPLE_LENGTH = 3, 19


class TextExamples:
    """Tokenized texts; `lengths` in tokens."""

    def __init__(self, ids: list[list[int]], encoder: TextEncoder) -> None:
        self.ids, self.encoder = ids, encoder
        self.lengths = [len(row) for row in ids]

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.ids).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> Tensors:
        return self.encoder.pad([self.ids[index] for index in indices])


class TextClassification(Classification):
    """Rows are texts; inputs are int64 [batch, sequence] each."""

    name = "text-classification"
    column = "text"
    inputs = ("input_ids", "attention_mask")
    axes = ("batch", "sequence")

    def __init__(self, labels: Sequence[str], encoder: TextEncoder, tokenizer: Path) -> None:
        super().__init__(labels)
        self.encoder = encoder
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, folder: Path, labels: Sequence[str]) -> TextClassification:
        settings: dict[str, Any] = json.loads((folder / ENCODER).read_text(encoding="utf-8"))
        tokenizer = folder / TOKENIZER
        return cls(labels, TextEncoder.from_file(tokenizer, settings), tokenizer)

    def save(self, folder: Path) -> None:
        if self._tokenizer != folder / TOKENIZER:
            (folder / TOKENIZER).write_bytes(self._tokenizer.read_bytes())
        (folder / ENCODER).write_text(json.dumps(self.encoder.settings, indent=2) + "\n", encoding="utf-8")

    @property
    def preprocessing(self) -> dict[str, Any]:
        return {"tokenizer": TOKENIZER, **self.encoder.settings}

    def encode(self, rows: Sequence[Row]) -> Tensors:
        return self.encoder.encode(_texts(rows))

    def token_id(self, *names: str) -> int | None:
        """The id of the first of these tokens that the tokenizer knows."""
        tokenizer = Tokenizer.from_file(str(self._tokenizer))
        return next((known for name in names if (known := tokenizer.token_to_id(name)) is not None), None)

    def examples(self, rows: Sequence[Row], cache: Path | None = None) -> TextExamples:
        return TextExamples(self.encoder.token_ids(_texts(rows)), self.encoder)

    def sample(self) -> Tensors:
        input_ids = np.arange(5, 5 + SAMPLE_BATCH * SAMPLE_LENGTH).reshape(SAMPLE_BATCH, SAMPLE_LENGTH)
        attention_mask = np.ones_like(input_ids)
        attention_mask[1, SAMPLE_LENGTH // 2 :] = 0
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def parity_batches(self, rows: Sequence[Row]) -> list[Tensors]:
        """Real token ids: one row; odd sizes; heavy padding (one long row among short ones); the longest."""
        ids = [token for row in self.encoder.token_ids(_texts(rows)) for token in row]
        longest = self.encoder.max_length
        lengths = [[7], [33, 5, 1], [longest, 3, longest // 3, 2, 1], [longest] * 2]
        batches, start = [], 0
        for wanted in lengths:
            batch = []
            for length in wanted:
                batch.append([ids[(start + offset) % len(ids)] for offset in range(min(length, longest))])
                start += length
            batches.append(self.encoder.pad(batch))
        return batches


def _texts(rows: Sequence[Row]) -> list[str]:
    return [row if isinstance(row, str) else row.decode() for row in rows]

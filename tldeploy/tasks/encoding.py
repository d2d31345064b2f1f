"""Text to tensors, once and for all: training, calibration, benchmarks and the served tokenizing step use this file.

`tldeploy deploy` copies it, byte for byte, beside the Triton step that runs it. So it may import only numpy and
tokenizers, which the server's workers have, and nothing of tldeploy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer


class TextEncoder:
    """Turns texts into `input_ids` and `attention_mask`, both int64 [texts, longest].

    max_length: tokens kept of a text, special tokens included; the rest of a longer text is cut off.
    pad_id: the token that fills short rows of a batch.
    pad_to_multiple_of: rows are padded to the next multiple, so that more requests have the same shape.
    """

    def __init__(
        self, tokenizer_json: str, max_length: int, pad_id: int, pad_to_multiple_of: int = 1, **unused: Any
    ) -> None:
        if unused:
            raise TypeError(f"unknown settings of a text encoder: {', '.join(sorted(unused))}")
        self.settings: dict[str, Any] = {
            "max_length": max_length,
            "pad_id": pad_id,
            "pad_to_multiple_of": pad_to_multiple_of,
        }
        self.max_length, self.pad_id, self.pad_to_multiple_of = max_length, pad_id, pad_to_multiple_of
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)

    @classmethod
    def from_file(cls, tokenizer: Path, settings: dict[str, Any]) -> TextEncoder:
        return cls(tokenizer.read_text(encoding="utf-8"), **settings)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, truncated and not padded, and never none.

        A tokenizer without special tokens has none for an empty text, and the mean over no tokens is not a number.
        """
        return [encoding.ids or [self.pad_id] for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def encode(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        return self.pad(self.token_ids(texts))

    def pad(self, rows: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
        """Rows of ids as one batch, padded at the end to the longest row's multiple of `pad_to_multiple_of`."""
        step = self.pad_to_multiple_of
        longest = max((len(row) for row in rows), default=0)
        width = min(-(-longest // step) * step, max(self.max_length, longest))
        input_ids = np.full((len(rows), width), self.pad_id, dtype=np.int64)
        attention_mask = np.zeros((len(rows), width), dtype=np.int64)
        for index, row in enumerate(rows):
            input_ids[index, : len(row)] = row
            attention_mask[index, : len(row)] = 1
        return {"input_ids": input_ids, "attention_mask": attention_mask}

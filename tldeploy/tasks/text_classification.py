"""Text classification: a text in, the probability of each class out; scored by weighted F1."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tldeploy.tasks.encoding import TextEncoder
from tldeploy.tasks.metrics import Classes, Drop, Metric, weighted_f1, weighted_f1_drop

TOKENIZER = "tokenizer.json"
ENCODER = "encoder.json"


class TextClassification:
    """What rows, tensors, predictions and metrics mean; rows are texts.

    inputs: the graph's inputs, int64 [batch, sequence] each.
    output: the graph's output, float32 [batch, classes], probabilities.
    """

    name = "text-classification"
    inputs = ("input_ids", "attention_mask")
    output = "probabilities"
    metric_name = "weighted_f1"

    def __init__(self, labels: Sequence[str], encoder: TextEncoder, tokenizer: Path) -> None:
        self.labels = list(labels)
        self.encoder = encoder
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, folder: Path, labels: Sequence[str]) -> TextClassification:
        """Read the tokenizer and its settings from an artifact, where `save` put them."""
        settings: dict[str, Any] = json.loads((folder / ENCODER).read_text(encoding="utf-8"))
        tokenizer = folder / TOKENIZER
        return cls(labels, TextEncoder.from_file(tokenizer, settings), tokenizer)

    def save(self, folder: Path) -> None:
        (folder / TOKENIZER).write_bytes(self._tokenizer.read_bytes())
        (folder / ENCODER).write_text(json.dumps(self.encoder.settings, indent=2) + "\n", encoding="utf-8")

    @property
    def preprocessing(self) -> dict[str, Any]:
        return {"tokenizer": TOKENIZER, **self.encoder.settings}

    def encode(self, rows: Sequence[str]) -> dict[str, NDArray[Any]]:
        return self.encoder.encode(rows)

    def decode(self, probabilities: NDArray[np.float32]) -> Classes:
        """The most probable class of each row, int64 [rows]."""
        classes: Classes = np.argmax(probabilities, axis=-1)
        return classes

    def measure(self, truth: Classes, predicted: Classes) -> Metric:
        return weighted_f1(truth, predicted, len(self.labels))

    def drop(self, truth: Classes, before: Classes, after: Classes) -> Drop:
        return weighted_f1_drop(truth, before, after, len(self.labels))

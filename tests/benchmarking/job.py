"""A small finished job for the bench stage: tune and export artifacts, and engines of known laws."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from tldeploy import artifacts
from tldeploy.artifacts import Choice, Manifest
from tldeploy.data.rows import Rows
from tldeploy.tasks.encoding import TextEncoder
from tldeploy.tasks.metrics import weighted_f1
from tldeploy.tasks.text_classification import TextClassification

LABELS = ["negative", "neutral", "positive"]
HASHES = {"tune": "a" * 64, "export": "b" * 64, "deploy": "c" * 64}


class Engine:
    """A Runner whose law is known: a row's text is its number, `answer` gives its class, `seconds` its latency."""

    provider = "numpy"

    def __init__(
        self,
        name: str,
        answer: Callable[[int], int],
        seconds: Callable[[int], float] = lambda number: 0.0,
        classes: int = len(LABELS),
    ) -> None:
        self.name, self.answer, self.seconds, self.classes = name, answer, seconds, classes

    def predict(self, rows: Sequence[str]) -> NDArray[np.float32]:
        numbers = [int(row) for row in rows]
        time.sleep(sum(map(self.seconds, numbers)))
        probabilities = np.full((len(rows), self.classes), 0.1, dtype=np.float32)
        probabilities[np.arange(len(rows)), [self.answer(number) for number in numbers]] = 0.8
        return probabilities

    def close(self) -> None: ...


def truth_of(number: int) -> int:
    return number % 3


def write_job(folder: Path, rows: int, labels: Sequence[str] = LABELS) -> tuple[Path, Path]:
    """The tuned and the exported artifact of a model with `rows` held-out rows, whose texts are their numbers."""
    held_out = Rows([str(n) for n in range(rows)], np.array([truth_of(n) for n in range(rows)], dtype=np.int64))
    tuned, exported = folder / "tuned", folder / "onnx"
    metric = weighted_f1(held_out.classes, held_out.classes, len(labels)).as_json()
    tune_choice = Choice(about="method", value="fine-tuning", reason="best weighted_f1 on validation rows")
    methods = {
        "feature-extraction": {"validation": metric, "test": metric, "seconds": 2.1},
        "fine-tuning": {"validation": metric, "test": metric, "seconds": 30.5},
    }
    with artifacts.writing(tuned) as beside:
        held_out.save(beside / "test.jsonl")
        manifest = Manifest(
            kind="tune", name="job", inputs="0", labels=list(labels), metrics=methods, decisions=[tune_choice]
        )
        artifacts.seal(beside, manifest)
    variants = [
        {"name": "fp32", "file": "fp32.onnx", "size_bytes": 90_000_000, "kept": True, "reason": "the reference"},
        {
            "name": "int8-dynamic",
            "file": "int8-dynamic.onnx",
            "size_bytes": 23_000_000,
            "parity": {"max_abs_diff": 0.0123, "label_agreement": 0.99},
            "metric": metric,
            "drop": {"points": 0.2, "low": -0.1, "high": 0.5, "agreement": 0.99, "rows": 60, "confidence": 0.95},
            "p50_ms": 1.5,
            "speedup": {"value": 2.5, "low": 2.4, "high": 2.6},
            "kept": True,
            "reason": "2.5 times as fast",
        },
    ]
    export_choice = Choice(about="variant", value="int8-dynamic", reason="the fastest within the budget")
    with artifacts.writing(exported) as beside:
        task = TextClassification(labels, _encoder(beside / "made.json"), beside / "made.json")
        task.save(beside)
        (beside / "made.json").unlink()
        manifest = Manifest(
            kind="export",
            name="job",
            inputs="0",
            task=task.name,
            labels=list(labels),
            decisions=[export_choice],
            details={"chosen": "int8-dynamic", "variants": variants},
        )
        artifacts.seal(beside, manifest)
    return tuned, exported


def _encoder(path: Path) -> TextEncoder:
    Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(path))
    return TextEncoder(path.read_text(encoding="utf-8"), max_length=8, pad_id=0)

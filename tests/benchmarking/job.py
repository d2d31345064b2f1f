"""A small finished job for the bench stage: a tune and an export artifact, with rows whose texts are their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from tests.tiny import make_graph
from tldeploy import artifacts
from tldeploy.artifacts import Choice, Manifest
from tldeploy.data.rows import Rows
from tldeploy.tasks.encoding import TextEncoder
from tldeploy.tasks.metrics import weighted_f1
from tldeploy.tasks.text_classification import TextClassification

LABELS = ["negative", "neutral", "positive"]
HASHES = {"tune": "a" * 64, "export": "b" * 64, "deploy": "c" * 64}


def truth_of(number: int) -> int:
    return number % 3


def write_job(folder: Path, rows: int, labels: Sequence[str] = LABELS) -> tuple[Path, Path]:
    """The tuned and the exported artifact of a model with `rows` held-out rows."""
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
    drop = {"points": 0.2, "low": -0.1, "high": 0.5, "agreement": 0.99, "rows": 60, "confidence": 0.95}
    variants = [
        {"name": "fp32", "file": "fp32.onnx", "size_bytes": 90_000_000, "kept": True, "reason": "the reference"},
        {
            "name": "fused",
            "file": None,
            "size_bytes": 90_000_000,
            "metric": metric,
            "p50_ms": 4.4,
            "kept": False,
            "reason": "not surely faster than fp32 & its like",
        },
        {
            "name": "int8-dynamic",
            "file": "int8-dynamic.onnx",
            "size_bytes": 23_000_000,
            "parity": {"max_abs_diff": 0.0123, "label_agreement": 0.99},
            "metric": metric,
            "drop": drop,
            "not_finite": 0,
            "p50_ms": 1.5,
            "speedup": {"value": 2.5, "low": 2.4, "high": 2.6},
            "rows_per_s": 812.5,
            "throughput_speedup": {"value": 2.125, "low": 2.0, "high": 2.25},
            "load_ms": 141.2,
            "memory_mb": 61.25,
            "providers": {"CPUExecutionProvider": 1.0},
            "kept": True,
            "reason": "2.5 times as fast",
        },
    ]
    export_choice = Choice(about="variant", value="int8-dynamic", reason="the fastest within the budget")
    with artifacts.writing(exported) as beside:
        task = TextClassification(labels, _encoder(beside / "made.json"), beside / "made.json")
        task.save(beside)
        (beside / "made.json").unlink()
        onnx.save(make_graph(2, len(labels), seed=0), beside / "int8-dynamic.onnx")
        manifest = Manifest(
            kind="export",
            name="job",
            inputs="0",
            task=task.name,
            labels=list(labels),
            decisions=[export_choice],
            details={
                "chosen": "int8-dynamic",
                "variants": variants,
                "held_out": {"drop": drop, "metric": metric, "fp32": metric},
            },
        )
        artifacts.seal(beside, manifest)
    return tuned, exported


def _encoder(path: Path) -> TextEncoder:
    Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(path))
    return TextEncoder(path.read_text(encoding="utf-8"), max_length=8, pad_id=0)

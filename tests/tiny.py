"""A tiny text classifier as a whole export artifact: random weights, a real tokenizer, a real graph."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from tldeploy import artifacts
from tldeploy.artifacts import Manifest
from tldeploy.tasks.encoding import TextEncoder

LABELS = ("negative", "neutral", "positive")
WORDS = ("great", "awful", "camera", "battery", "the", "good", "bad", "phone", "not", "very")
ROWS = ["great camera, awful battery", "", "the phone is not very good 😀", "电池很好", "nul \0 byte", "bad " * 10_000]
MAX_LENGTH = 32
WIDTH = 8


def write_export(folder: Path, labels: Sequence[str] = LABELS, seed: int = 0, **details: Any) -> Path:
    """Write an export artifact with three variants, `int8-dynamic` chosen; another seed gives other weights.

    details: what else the manifest says.
    """
    tokenizer = make_tokenizer()
    settings = {"max_length": MAX_LENGTH, "pad_id": 0, "pad_to_multiple_of": 16}
    with artifacts.writing(folder) as new:
        variants = []
        for index, name in enumerate(("fp32", "fused", "int8-dynamic")):
            file = f"{name}.onnx"
            onnx.save(make_graph(tokenizer.get_vocab_size(), len(labels), 10 * seed + index), new / file)
            variants.append({"name": name, "file": file, "size_bytes": (new / file).stat().st_size})
        (new / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
        (new / "encoder.json").write_text(json.dumps(settings), encoding="utf-8")
        probabilities = [answer(new, [row])[0].tolist() for row in ROWS]
        (new / "golden.json").write_text(json.dumps({"rows": ROWS, "probabilities": probabilities}), encoding="utf-8")
        manifest = Manifest(
            kind="export",
            name="tiny",
            inputs=artifacts.fingerprint([list(labels), seed]),
            task="text-classification",
            labels=list(labels),
            preprocessing={"tokenizer": "tokenizer.json", **settings},
            details={"chosen": "int8-dynamic", "variants": variants, **details},
        )
        artifacts.seal(new, manifest)
    return folder


def answer(export: Path, rows: Sequence[str], variant: str = "int8-dynamic") -> Any:
    """What onnxruntime answers in this process: each row alone, float32 [rows, classes]."""
    settings = json.loads((export / "encoder.json").read_text(encoding="utf-8"))
    encoder = TextEncoder.from_file(export / "tokenizer.json", settings)
    session = onnxruntime.InferenceSession(export / f"{variant}.onnx", providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["probabilities"], encoder.encode([row]))[0] for row in rows])


def make_tokenizer() -> Tokenizer:
    letters = [chr(code) for code in range(33, 127)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters), *WORDS]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(word, vocabulary[word]) for word in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


def make_graph(vocabulary: int, classes: int, seed: int, batch: str | int = "batch") -> onnx.ModelProto:
    """Embedding, masked mean, linear, softmax; with a number as `batch` the first dim is fixed."""
    random = np.random.default_rng(seed)
    weights = {
        "embedding": random.normal(size=(vocabulary, WIDTH)).astype(np.float32),
        "linear": 2 * random.normal(size=(WIDTH, classes)).astype(np.float32),
        "tokens_axis": np.array([1]),
        "width_axis": np.array([2]),
    }
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "width_axis"], ["column"]),
        helper.make_node("Mul", ["vectors", "column"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "tokens_axis"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["column", "tokens_axis"], ["count"], keepdims=0),
        helper.make_node("Div", ["total", "count"], ["mean"]),
        helper.make_node("MatMul", ["mean", "linear"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, [batch, "sequence"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, classes])
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, [output], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

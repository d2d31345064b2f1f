"""A whole job at the smallest size that still learns: a two-layer BERT with random weights, and made-up reviews."""

from __future__ import annotations

import csv
import hashlib
import io
import random
import tarfile
import zipfile
from pathlib import Path

import pytest

WORDS = {
    "negative": ["awful", "broken", "terrible", "useless", "bad"],
    "neutral": ["black", "square", "standard", "boxed", "plain"],
    "positive": ["great", "excellent", "lovely", "perfect", "good"],
}
FILLERS = ["the", "camera", "battery", "screen", "phone", "and", "a", "is", "it", "was", "very", "with", "this", "zoom"]

RECIPE = """\
name: tiny
task: text-classification
data:
  file: reviews.csv
  text: text
  label: label
  test: 0.3
  validation: 0.25
backbone:
  source: backbone
  max_length: 32
tune:
  epochs: 2
  learning_rate: 0.003
  batch_size: 16
deploy:
  repository: triton_repo
bench:
  engines: [onnxruntime, triton-http]
  seconds: 0.3
  concurrency: [1, 4]
"""

# For tests of what happens between the stages: one graph, and one engine that is measured for a moment.
QUICK = RECIPE.replace("deploy:\n", "export:\n  variants: [fp32]\ndeploy:\n").replace(
    "engines: [onnxruntime, triton-http]", "engines: [onnxruntime]\n  scenarios: []"
)

PACKED_TABLE = b"1\t0.5\tcaf\xe9, good\n2\t-1\tbad\n"
FETCH = f"""\
fetch:
  - package: tiny-data==1.0
    files:
      - member: inner.tar.gz!table.txt
        sha256: {hashlib.sha256(PACKED_TABLE).hexdigest()}
        to: deep/rows.csv
        table: {{columns: [id, rating, text], encoding: latin-1}}
"""


def write_backbone(folder: Path, layers: int = 2) -> Path:
    """config.json, model.safetensors and tokenizer.json of a small BERT."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *FILLERS, *(word for group in WORDS.values() for word in group)]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_reviews(path: Path, rows: int = 400) -> Path:
    """A CSV with the columns text and label; each text has one word that gives its class away."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        for row in range(rows):
            label = list(WORDS)[row % 3]
            words = draw.choices(FILLERS, k=draw.randint(2, 12))
            words.insert(draw.randrange(len(words)), draw.choice(WORDS[label]))
            writer.writerow([" ".join(words), label])
    return path


def write_index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pip find one wheel, with a table in an archive inside it, in a folder instead of on the network."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as tar:
        info = tarfile.TarInfo("top/table.txt")
        info.size = len(PACKED_TABLE)
        tar.addfile(info, io.BytesIO(PACKED_TABLE))
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_data-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_data/inner.tar.gz", inner.getvalue())
        wheel.writestr("tiny_data-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n")
        wheel.writestr("tiny_data-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        wheel.writestr("tiny_data-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def write_project(folder: Path, recipe: str = RECIPE) -> Path:
    """A folder with recipe.yaml, reviews.csv and backbone/, ready to run."""
    folder.mkdir(parents=True, exist_ok=True)
    write_backbone(folder / "backbone")
    write_reviews(folder / "reviews.csv")
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    return folder

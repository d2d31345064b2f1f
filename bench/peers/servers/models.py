"""What answers rows behind the peers' servers: one function an engine, each of a folder that a deployment would carry.

It runs in the peers' own environments, so it imports nothing of tldeploy. Each function returns one that takes rows,
texts or the bytes of image files, and gives the probability of each class, [rows][classes].
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Predict = Callable[[Sequence[Any]], list[list[float]]]
MAX_TOKENS = 128


def torch_eager(folder: Path) -> Predict:
    """As one writes it after a training: the network in fp32, as many threads as torch takes by itself."""
    import torch
    from network import load

    network = load(folder)
    if network.main_input_name == "pixel_values":
        scale = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        mean, std = (torch.tensor(scale[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))

        def encode(rows: Sequence[Any]) -> dict[str, Any]:
            pixels = torch.from_numpy(_pixels(rows, scale["size"]["height"]))
            return {"pixel_values": (pixels.permute(0, 3, 1, 2) / 255 - mean) / std}
    else:
        tokenizer = _tokenizer(folder)

        def encode(rows: Sequence[Any]) -> dict[str, Any]:
            return {name: torch.from_numpy(tensor) for name, tensor in _tokens(tokenizer, rows).items()}

    @torch.inference_mode()
    def predict(rows: Sequence[Any]) -> list[list[float]]:
        logits = network(**encode(rows)).logits
        return torch.softmax(logits, dim=-1).tolist()  # type: ignore[no-any-return]

    return predict


def pipeline(folder: Path) -> Predict:
    """transformers' pipeline, which finds the preprocessing in the folder itself."""
    from network import load
    from transformers import AutoImageProcessor, PreTrainedTokenizerFast, pipeline

    network = load(folder)
    if network.main_input_name == "pixel_values":
        pipe = pipeline(
            "image-classification", model=network, image_processor=AutoImageProcessor.from_pretrained(folder)
        )
        options: dict[str, Any] = {"top_k": network.config.num_labels}

        def inputs(rows: Sequence[Any]) -> list[Any]:
            return [Image.open(io.BytesIO(row)) for row in rows]
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        pipe = pipeline("text-classification", model=network, tokenizer=tokenizer)
        options, inputs = {"top_k": None, "truncation": True, "max_length": MAX_TOKENS}, list
    place = network.config.label2id

    def predict(rows: Sequence[Any]) -> list[list[float]]:
        found = []
        for scores in pipe(inputs(rows), **options):
            ordered = sorted(scores, key=lambda score: place[score["label"]])
            found.append([float(score["score"]) for score in ordered])
        return found

    return predict


def onnxruntime(folder: Path) -> Predict:
    """The very graph that tldeploy serves, by who has it already; onnxruntime takes the threads that it wants."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    tokenizer = _tokenizer(folder)
    return lambda rows: session.run(None, _tokens(tokenizer, rows))[0].tolist()  # type: ignore[no-any-return]


ENGINES: dict[str, Callable[[Path], Predict]] = {
    "torch": torch_eager,
    "pipeline": pipeline,
    "onnxruntime": onnxruntime,
}


def labels(folder: Path) -> list[str]:
    found: list[str] = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    return found


def _tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding()
    return tokenizer


def _tokens(tokenizer: Any, rows: Sequence[str]) -> dict[str, Any]:
    encoded = tokenizer.encode_batch(list(rows))
    return {
        "input_ids": np.array([row.ids for row in encoded], dtype=np.int64),
        "attention_mask": np.array([row.attention_mask for row in encoded], dtype=np.int64),
    }


def _pixels(rows: Sequence[bytes], size: int) -> Any:
    """uint8 [rows, size, size, 3]."""
    images = [Image.open(io.BytesIO(row)).convert("RGB") for row in rows]
    return np.stack([np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)) for image in images])

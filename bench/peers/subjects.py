"""What is served: a network, its rows, and the folders that a deployment of each kind carries.

1. text: MiniLM of models/review-sentiment, its held-out rows; the chosen int8 graph and the fp32 one.
2. images: a ResNet-18 with random weights, which serve for speed, on JPEGs (pictures.py).

`exports` is what tldeploy publishes, by variant; `checkpoint` what transformers reads (servers/network.py); `graphs`
the quantized graph, by variant, with what somebody needs who has it and runs it without us.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.pictures import photos, resnet18
from tldeploy import __version__, artifacts
from tldeploy.artifacts import Manifest
from tldeploy.backbones import quiet_transformers
from tldeploy.backbones.network import ImageNetwork, Network, TextNetwork, load_network
from tldeploy.data.rows import Rows
from tldeploy.tasks import load_task
from tldeploy.tasks.classification import Classification, Row, Tensors
from tldeploy.tasks.metrics import Classes

CHECKED = 24
IMAGE_SIZE = 224
LABELS = ["a", "b", "c"]


@dataclass(frozen=True)
class Subject:
    """rows: shuffled. classes: the true ones, int64 [rows]; None where the weights are random. expected: what the tuned
    network itself answers to the first CHECKED rows, float32 [CHECKED, classes]."""

    task: Classification
    rows: Sequence[Row]
    classes: Classes | None
    expected: NDArray[np.float32]
    exports: dict[str, Path]
    checkpoint: Path
    graphs: dict[str, Path]

    @property
    def chosen(self) -> str:
        return next(iter(self.exports))


def text(models: Path, folder: Path) -> Subject:
    quiet_transformers()
    exported, tuned = (models / "review-sentiment" / stage for stage in ("onnx", "tuned"))
    manifest = artifacts.load(exported, "export")
    task = load_task(manifest.task, exported, manifest.labels)
    held_out = Rows.load(tuned / "test.jsonl")
    shuffled = held_out.take(np.random.default_rng(0).permutation(len(held_out)))
    network = load_network(tuned)
    assert isinstance(network, TextNetwork)
    checkpoint = text_checkpoint(network, tuned, manifest.labels, folder / "checkpoint")
    chosen = manifest.details["chosen"]
    exports = {chosen: exported, "fp32": _with_chosen(exported, manifest, "fp32", folder / "fp32")}
    graph = _alone(exported / f"{chosen}.onnx", folder / "graph", manifest.labels)
    shutil.copy(exported / "tokenizer.json", graph)
    expected = probabilities(network, task, shuffled.inputs[:CHECKED])
    return Subject(task, shuffled.inputs, shuffled.classes, expected, exports, checkpoint, {chosen: graph})


def images(models: Path, folder: Path) -> Subject:
    from tldeploy.exporting.graph import export_graph, metadata
    from tldeploy.tasks.image_classification import ImageClassification
    from tldeploy.tasks.pixels import ImageEncoder

    quiet_transformers()
    pictures, network = photos(), resnet18(len(LABELS))
    task = ImageClassification(LABELS, ImageEncoder(image_size=IMAGE_SIZE, resize="squash"))
    with artifacts.writing(folder / "onnx") as new:
        export_graph(network, task, new / "fp32.onnx", 20, metadata(task, "", __version__))
        task.save(new)
        details = {"chosen": "fp32", "variants": [{"name": "fp32", "file": "fp32.onnx"}]}
        about = {"task": task.name, "labels": LABELS, "preprocessing": task.preprocessing, "details": details}
        _seal_without_golden(new, Manifest(kind="export", name="m", inputs="", **about))
    checkpoint = image_checkpoint(network, LABELS, IMAGE_SIZE, folder / "checkpoint")
    expected = probabilities(network, task, pictures[:CHECKED])
    return Subject(task, pictures, None, expected, {"fp32": folder / "onnx"}, checkpoint, {})


SUBJECTS: dict[str, Callable[[Path, Path], Subject]] = {"text": text, "images": images}


def probabilities(network: Network, task: Classification, rows: Sequence[Row]) -> NDArray[np.float32]:
    """What the network itself answers, row by row, float32 [rows, classes]."""
    import torch

    def answer(tensors: Tensors) -> NDArray[np.float32]:
        given = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
        with torch.inference_mode():
            found: NDArray[np.float32] = network.probabilities(**given).numpy()
        return found

    return np.concatenate([answer(task.encode([row])) for row in rows])


def text_checkpoint(network: TextNetwork, tokenizer: Path, labels: Sequence[str], folder: Path) -> Path:
    """The network as MeanPooledBert. Its head is divided by the temperature, so that a plain softmax is calibrated."""
    import torch
    from transformers import PreTrainedTokenizerFast

    from bench.peers.servers.network import MeanPooledBert

    if network.pooling != "mean" or network.backbone.config.model_type != "bert":
        raise SystemExit("MeanPooledBert is a BERT whose head takes the mean over tokens; this network is another")
    config = _labelled(network.backbone.config, labels)
    peer = MeanPooledBert(config)
    used = {name: tensor for name, tensor in network.backbone.state_dict().items() if not name.startswith("pooler.")}
    peer.bert.load_state_dict(used)
    with torch.no_grad():
        peer.classifier.weight.copy_(network.head.weight / network.temperature)
        peer.classifier.bias.copy_(network.head.bias / network.temperature)
    peer.save_pretrained(folder)
    file = str(tokenizer / "tokenizer.json")
    PreTrainedTokenizerFast(tokenizer_file=file, pad_token="[PAD]").save_pretrained(folder)
    return _with_labels(folder, labels)


def image_checkpoint(network: ImageNetwork, labels: Sequence[str], size: int, folder: Path) -> Path:
    """The network as ResNetForImageClassification, with what its images need."""
    from transformers import ResNetForImageClassification

    peer = ResNetForImageClassification(_labelled(network.backbone.config, labels))
    peer.resnet.load_state_dict(network.backbone.state_dict())
    peer.classifier[1].load_state_dict(network.head.state_dict())
    peer.save_pretrained(folder)
    about = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": size, "width": size},
        "resample": 2,
        "rescale_factor": network.normalisation["rescale_factor"],
        "image_mean": network.normalisation["mean"],
        "image_std": network.normalisation["std"],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(about), encoding="utf-8")
    return _with_labels(folder, labels)


def _labelled(config: Any, labels: Sequence[str]) -> Any:
    named = type(config).from_dict(config.to_dict())
    named.id2label = dict(enumerate(labels))
    named.label2id = {label: place for place, label in enumerate(labels)}
    return named


def _with_labels(folder: Path, labels: Sequence[str]) -> Path:
    (folder / "labels.json").write_text(json.dumps(list(labels)), encoding="utf-8")
    return folder


def _alone(graph: Path, folder: Path, labels: Sequence[str]) -> Path:
    folder.mkdir()
    shutil.copy(graph, folder / "model.onnx")
    return _with_labels(folder, labels)


def _with_chosen(export: Path, manifest: Manifest, variant: str, folder: Path) -> Path:
    """The same export, had it chosen another variant."""
    with artifacts.writing(folder) as new:
        for file in (f"{variant}.onnx", "tokenizer.json", "encoder.json"):
            shutil.copy(export / file, new)
        details = {**manifest.details, "chosen": variant}
        _seal_without_golden(new, manifest.model_copy(update={"details": details}))
    return folder


def _seal_without_golden(folder: Path, manifest: Manifest) -> None:
    (folder / "golden.json").write_text(json.dumps({"rows": [], "probabilities": []}), encoding="utf-8")
    artifacts.seal(folder, manifest)

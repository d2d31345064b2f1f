"""Small networks that learnt something, as sources of variants; and ways to make them hard to quantize."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from tests.tiny_images import COLOURS, SIZE, write_image_backbone, write_squares
from tests.tiny_project import write_backbone, write_reviews
from tldeploy.backbones.checkpoints import load_weights
from tldeploy.backbones.network import ImageNetwork, Network, TextNetwork
from tldeploy.data.rows import Rows
from tldeploy.exporting.graph import export_graph
from tldeploy.exporting.source import Source
from tldeploy.recipe import Export
from tldeploy.runtime.onnx import OnnxRunner
from tldeploy.tasks.classification import Classification
from tldeploy.tasks.encoding import TextEncoder
from tldeploy.tasks.image_classification import ImageClassification
from tldeploy.tasks.pixels import ImageEncoder
from tldeploy.tasks.text_classification import TextClassification

COLOUR_NAMES = sorted(COLOURS)
LABELS = ["negative", "neutral", "positive"]
CALIBRATION = 96
SILENT = "embeddings.LayerNorm*"  # what to freeze, so that it stays silent


def text_source(folder: Path, settings: Export | None = None, layers: int = 2) -> Source:
    """A BERT that answers from its first token, so that attention matters; 96 rows to learn from, 200 to choose by."""
    write_backbone(folder / "backbone", layers)
    tokenizer = folder / "backbone" / "tokenizer.json"
    encoder = TextEncoder.from_file(tokenizer, {"max_length": 32, "pad_id": 0})
    with write_reviews(folder / "reviews.csv", 296).open(encoding="utf-8") as stream:
        reviews = [(row["text"], row["label"]) for row in csv.DictReader(stream)]
    torch.manual_seed(1)
    network = TextNetwork(load_weights(str(folder / "backbone"), None, "test"), "cls", len(LABELS))
    rows = Rows([text for text, _ in reviews], np.array([LABELS.index(label) for _, label in reviews]))
    return _source(folder, network, TextClassification(LABELS, encoder, tokenizer), rows, settings)


def image_source(folder: Path, settings: Export | None = None) -> Source:
    """A ResNet of two stages; 96 images to learn from, 24 to choose by."""
    write_image_backbone(folder / "backbone")
    write_squares(folder / "squares")
    paths = sorted(str(path) for path in (folder / "squares").rglob("*.*"))
    paths = [paths[at] for at in np.random.default_rng(0).permutation(len(paths))]
    torch.manual_seed(1)
    normalisation = {"mean": [0.5] * 3, "std": [0.5] * 3, "rescale_factor": 1 / 255, "channels": "rgb"}
    network = ImageNetwork(load_weights(str(folder / "backbone"), None, "test"), normalisation, len(LABELS))
    task = ImageClassification(LABELS, ImageEncoder(image_size=SIZE, resize="squash"))
    classes = np.array([COLOUR_NAMES.index(Path(path).parent.name) for path in paths])
    return _source(folder, network, task, Rows(paths, classes, "image"), settings)


def _source(folder: Path, network: Network, task: Classification, rows: Rows, settings: Export | None) -> Source:
    learnt, others = rows.take(range(CALIBRATION)), rows.take(range(CALIBRATION, len(rows)))
    _learn(network, task, learnt)
    graph = folder / "fp32.onnx"
    export_graph(network, task, graph, 20, {})
    return Source(graph, network, task, learnt, others, settings or Export())


def _learn(network: Network, task: Classification, rows: Rows, steps: int = 60) -> None:
    examples, classes = task.examples(rows.inputs), torch.from_numpy(rows.classes)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    network.train()
    for _ in range(steps):
        chosen = torch.randint(len(rows), (32,))
        batch = {name: torch.from_numpy(values) for name, values in examples.batch(chosen.tolist()).items()}
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(**batch), classes[chosen]).backward()
        optimizer.step()
    network.eval()


def answers(graph: Path, task: Classification, rows: Rows) -> NDArray[np.float32]:
    """Probabilities, each row asked alone."""
    runner = OnnxRunner(graph, task)
    found = np.concatenate([runner.predict([row]) for row in rows.inputs])
    runner.close()
    return found


def with_a_loud_norm(source: Source, target: Path, factor: float = 1000) -> Source:
    """The same function, with channel 3 of every norm's result louder, and its readers deafer to it."""
    model = onnx.load(source.graph)
    loud = np.ones(32, dtype=np.float32)
    loud[3] = factor
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    add(model, "quieter", 1 / loud)
    for number, norm in enumerate(norms):
        for at in (1, 2):
            norm.input[at] = add(model, f"loud_{number}_{at}", constant(model, norm.input[at]) * loud)
        result = norm.output[0]
        others = f"{result}_as_before"
        for node in list(model.graph.node):
            if result not in node.input:
                continue
            if node.op_type == "MatMul":
                set_constant(model, node.input[1], constant(model, node.input[1]) / loud[:, None])
            else:
                node.input[list(node.input).index(result)] = others
        place = list(model.graph.node).index(norm) + 1
        model.graph.node.insert(place, helper.make_node("Mul", [result, "quieter"], [others], f"{norm.name}_quieter"))
    _save(model, target)
    return replace(source, graph=target)


def with_a_bad_product(source: Source, target: Path, layer: int = 0, factor: float = 1000) -> tuple[Source, str]:
    """The same function, with one channel of an attention's values louder; and the product that must bear it.

    No norm feeds that product, so smoothing does not mend it.
    """
    model = onnx.load(source.graph)
    loud = np.ones(32, dtype=np.float32)
    loud[5] = factor
    attention = f"backbone.encoder.layer.{layer}.attention"
    value, bad = named(model, f"{attention}.self.value/MatMul"), named(model, f"{attention}.output.dense/MatMul")
    bias = next(node for node in model.graph.node if value.output[0] in node.input)
    set_constant(model, value.input[1], constant(model, value.input[1]) * loud)
    bias.input[1] = add(model, "loud_bias", constant(model, bias.input[1]) * loud)
    set_constant(model, bad.input[1], constant(model, bad.input[1]) / loud[:, None])
    _save(model, target)
    return replace(source, graph=target), bad.name


def with_a_silent_channel(backbone: Path, weight: float = 20) -> Path:
    """Channel 3 of the embeddings, in a BERT's folder, is always zero, and has large weights in the first attention.

    In floats they do nothing, as long as the embeddings' norm is frozen. But in few bits the scale of each row of
    weights comes from them, and most others are rounded to zero.
    """
    network = load_weights(str(backbone), None, "test")
    with torch.no_grad():
        network.embeddings.LayerNorm.weight[3] = 0
        network.embeddings.LayerNorm.bias[3] = 0
        network.encoder.layer[0].attention.self.value.weight[:, 3] = weight
    network.save_pretrained(backbone)
    return backbone


def _save(model: ModelProto, target: Path) -> None:
    read = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.save(model, target)


def named(model: ModelProto, start: str) -> NodeProto:
    return next(node for node in model.graph.node if node.name.startswith(start))


def constant(model: ModelProto, name: str) -> NDArray[Any]:
    return numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == name))


def set_constant(model: ModelProto, name: str, values: NDArray[Any]) -> None:
    next(tensor for tensor in model.graph.initializer if tensor.name == name).CopyFrom(
        numpy_helper.from_array(values.astype(np.float32), name)
    )


def add(model: ModelProto, name: str, values: NDArray[Any]) -> str:
    model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return name

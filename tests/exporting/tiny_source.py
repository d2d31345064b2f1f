"""Small networks with random weights as sources of variants. Their labels are fp32's own answers: it scores 1."""

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

from tests.tiny_images import SIZE, write_image_backbone, write_squares
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

LABELS = ["negative", "neutral", "positive"]
CALIBRATION = 96


def text_source(folder: Path, settings: Export | None = None) -> Source:
    """A BERT of two layers; 96 rows to calibrate, 200 to choose by."""
    write_backbone(folder / "backbone")
    tokenizer = folder / "backbone" / "tokenizer.json"
    encoder = TextEncoder.from_file(tokenizer, {"max_length": 32, "pad_id": 0})
    with write_reviews(folder / "reviews.csv", 296).open(encoding="utf-8") as stream:
        texts = [row["text"] for row in csv.DictReader(stream)]
    torch.manual_seed(1)
    network = TextNetwork(load_weights(str(folder / "backbone"), None, "test"), "mean", len(LABELS))
    return _source(folder, network, TextClassification(LABELS, encoder, tokenizer), texts, "text", settings)


def image_source(folder: Path, settings: Export | None = None) -> Source:
    """A ResNet of two stages; 96 images to calibrate, 24 to choose by."""
    write_image_backbone(folder / "backbone")
    write_squares(folder / "squares")
    paths = sorted(str(path) for path in (folder / "squares").rglob("*.*"))
    paths = [paths[at] for at in np.random.default_rng(0).permutation(len(paths))]
    torch.manual_seed(1)
    normalisation = {"mean": [0.5] * 3, "std": [0.5] * 3, "rescale_factor": 1 / 255, "channels": "rgb"}
    network = ImageNetwork(load_weights(str(folder / "backbone"), None, "test"), normalisation, len(LABELS))
    task = ImageClassification(LABELS, ImageEncoder(image_size=SIZE, resize="squash"))
    return _source(folder, network, task, paths, "image", settings)


def _source(
    folder: Path, network: Network, task: Classification, inputs: list[str], column: Any, settings: Export | None
) -> Source:
    with torch.no_grad():
        network.head.weight *= 10
    network.eval()
    graph = folder / "fp32.onnx"
    export_graph(network, task, graph, 20, {})
    rows = Rows(inputs, np.zeros(len(inputs), dtype=np.int64), column)
    labelled = replace(rows, classes=task.decode(answers(graph, task, rows)))
    split = np.arange(len(inputs))
    return Source(
        graph,
        network,
        task,
        labelled.take(split[:CALIBRATION]),
        labelled.take(split[CALIBRATION:]),
        settings or Export(),
    )


def answers(graph: Path, task: Classification, rows: Rows) -> NDArray[np.float32]:
    """Probabilities, each row asked alone."""
    runner = OnnxRunner(graph, task)
    found = np.concatenate([runner.predict([row]) for row in rows.inputs])
    runner.close()
    return found


def with_a_loud_norm(source: Source, target: Path, factor: float = 100) -> Source:
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
    onnx.save(model, target)
    return replace(source, graph=target)


def with_a_bad_product(source: Source, target: Path, layer: int = 1, factor: float = 1000) -> tuple[Source, str]:
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
    onnx.save(model, target)
    return replace(source, graph=target), bad.name


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

"""PyTorch network to ONNX graph: named dynamic axes, softmax inside, metadata that says what the file is."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from tldeploy.backbones.network import TextNetwork
from tldeploy.errors import QualityError
from tldeploy.tasks.text_classification import TextClassification

IR_VERSION = 10  # what opset 20 came with, and what Triton's onnxruntime reads
# An unusual batch and length, so that an axis that was baked in shows at once.
SAMPLE_BATCH, SAMPLE_LENGTH = 3, 19


class _Served(nn.Module):
    """The network as it is served: probabilities out, so that no client needs to know of logits."""

    def __init__(self, network: TextNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return torch.softmax(self.network(input_ids, attention_mask), dim=-1)


def export_graph(
    network: TextNetwork, task: TextClassification, path: Path, opset: int, metadata: Mapping[str, str]
) -> None:
    """Write `network` as one ONNX file: int64 [batch, sequence] inputs, float32 [batch, classes] probabilities.

    Raises QualityError when a dynamic axis did not survive the export.
    """
    # A wrapper is born in training mode: without eval() here, dropout would be on again.
    served = _Served(network).eval()
    input_ids = torch.arange(5, 5 + SAMPLE_BATCH * SAMPLE_LENGTH).reshape(SAMPLE_BATCH, SAMPLE_LENGTH)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, SAMPLE_LENGTH // 2 :] = 0
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    with _quiet():
        program = torch.onnx.export(
            served,
            (input_ids, attention_mask),
            input_names=list(task.inputs),
            output_names=[task.output],
            dynamic_shapes=dict.fromkeys(task.inputs, axes),
            dynamo=True,
            opset_version=opset,
            verbose=False,
        )
    if program is None:
        raise QualityError("export the network", "torch.onnx gave no program", "use another opset")
    model = program.model_proto
    model.ir_version = IR_VERSION
    for part in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
    onnx.helper.set_model_props(model, dict(metadata))
    _check_axes(model, task)
    onnx.save(model, path)


def metadata(task: TextClassification, tuned_sha256: str, version: str) -> dict[str, str]:
    """What the file says about itself."""
    return {"tldeploy": version, "task": task.name, "labels": json.dumps(task.labels), "tuned_sha256": tuned_sha256}


def _check_axes(model: onnx.ModelProto, task: TextClassification) -> None:
    expected = {name: ["batch", "sequence"] for name in task.inputs} | {task.output: ["batch", str(len(task.labels))]}
    found = {
        value.name: [dim.dim_param or str(dim.dim_value) for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    if found != expected:
        fix = "this architecture needs its own export; use another backbone"
        raise QualityError("export with dynamic axes", f"the graph has {found}, expected {expected}", fix)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks of torchvision, axis names and its own steps, on every channel there is."""
    loggers = [logging.getLogger("torch.onnx"), logging.getLogger("onnxscript"), logging.getLogger("onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

"""PyTorch network to ONNX graph: named dynamic axes, softmax inside, metadata that says what the file is."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import torch
from onnx import GraphProto, numpy_helper
from torch import Tensor, nn

from tldeploy.backbones.network import Network
from tldeploy.errors import QualityError
from tldeploy.exporting.places import name_by_place
from tldeploy.exporting.soundness import check_operators, check_weights
from tldeploy.exporting.storage import save_graph
from tldeploy.tasks.classification import Classification, Tensors

IR_VERSION = 10  # what opset 20 came with, and what Triton's onnxruntime reads
OTHER_BACKBONE = "this architecture needs its own export; use another backbone"


class _Served(nn.Module):
    """The network as it is served: probabilities out, so that no client needs to know of logits."""

    def __init__(self, network: Network, inputs: Sequence[str]) -> None:
        super().__init__()
        self.network, self.inputs = network, inputs

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.network.probabilities(**dict(zip(self.inputs, tensors, strict=True)))


def export_graph(network: Network, task: Classification, path: Path, opset: int, metadata: Mapping[str, str]) -> None:
    """Write `network` as one ONNX file: the task's inputs, and float32 [batch, classes] probabilities.

    Raises QualityError when a dynamic axis did not survive the export, when a weight is no number, or when onnxruntime
    lacks an operator.
    """
    check_weights(network)
    # A wrapper is born in training mode: without eval() here, dropout would be on again.
    served = _Served(network, task.inputs).eval()
    sample = task.sample()
    try:
        program = _traced(served, task, sample, opset)
    except torch.onnx.errors.OnnxExporterError as error:
        try:
            with _patched():
                program = _traced(served, task, sample, opset)
        except (torch.onnx.errors.OnnxExporterError, ImportError):
            raise QualityError("export the network", _why(error), f"{OTHER_BACKBONE}, or another opset") from error
    if program is None:
        raise QualityError("export the network", "torch.onnx gave no program", "use another opset")
    model = program.model_proto
    model.ir_version = IR_VERSION
    name_by_place(model.graph.node)
    for part in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
    onnx.helper.set_model_props(model, dict(metadata))
    _check_axes(model, task, sample)
    _share_equal_weights(model.graph)
    save_graph(model, path)
    check_operators(path)


def _traced(served: nn.Module, task: Classification, sample: Tensors, opset: int) -> torch.onnx.ONNXProgram | None:
    axes = {at: torch.export.Dim(name) for at, name in enumerate(task.axes)}
    with _quiet():
        return torch.onnx.export(
            served,
            tuple(torch.from_numpy(sample[name]) for name in task.inputs),
            input_names=list(task.inputs),
            output_names=[task.output],
            dynamic_shapes={"tensors": (axes,) * len(task.inputs)},
            dynamo=True,
            opset_version=opset,
            verbose=False,
        )


@contextlib.contextmanager
def _patched() -> Iterator[None]:
    """What transformers changes in torch for its own exporter, which is experimental: without it Swin is not traced."""
    from transformers.exporters import exporter_onnx  # noqa: F401 — it registers them
    from transformers.exporters.utils import apply_patches

    with apply_patches("onnx"):
        yield


def metadata(task: Classification, tuned_sha256: str, version: str) -> dict[str, str]:
    """What the file says about itself."""
    return {"tldeploy": version, "task": task.name, "labels": json.dumps(task.labels), "tuned_sha256": tuned_sha256}


def _share_equal_weights(graph: GraphProto) -> None:
    """Store what layers share once: the exporter gives each use of a matrix a transposed copy of its own."""
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    instead = {}
    for tensor in graph.initializer:
        digest = hashlib.sha256(numpy_helper.to_array(tensor).tobytes()).digest()
        name = first.setdefault((tensor.data_type, tuple(tensor.dims), digest), tensor.name)
        if name != tensor.name:
            instead[tensor.name] = name
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = instead.get(name, name)
    for values in (graph.initializer, graph.value_info):
        for value in [value for value in values if value.name in instead]:
            values.remove(value)


def _check_axes(model: onnx.ModelProto, task: Classification, sample: Tensors) -> None:
    fixed = {name: map(str, sample[name].shape[len(task.axes) :]) for name in task.inputs}
    expected = {name: [*task.axes, *fixed[name]] for name in task.inputs}
    expected[task.output] = ["batch", str(len(task.labels))]
    found = {
        value.name: [dim.dim_param or str(dim.dim_value) for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    if found != expected:
        raise QualityError("export with dynamic axes", f"the graph has {found}, expected {expected}", OTHER_BACKBONE)


def _why(error: BaseException) -> str:
    """What torch.onnx met, below the pages of advice that it wraps it in."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300] or type(error).__name__


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

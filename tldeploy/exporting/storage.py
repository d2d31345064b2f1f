"""Graphs on disk: one file, or for what protobuf cannot hold, one file and its weights beside it."""

from __future__ import annotations

from pathlib import Path

from onnx import GraphProto, ModelProto, TensorProto, save_model

EXTERNAL = ".data"  # behind the whole name of the graph's file, as onnxruntime's quantizers have it
# Protobuf ends at 2 GiB. What quantizers and fusers add to a graph on its way must have room below that.
LIMIT_BYTES = 1_900_000_000
SMALLEST_BYTES = 1024  # what is smaller stays in the graph: shapes are inferred from such constants


def save_graph(model: ModelProto, path: Path) -> None:
    """Write a graph; over LIMIT_BYTES its weights go to `<file>.data`, and `model` is empty of them afterwards."""
    external(path).unlink(missing_ok=True)  # onnx would write behind what is there
    if is_large(model.graph):
        save_model(model, path, save_as_external_data=True, location=external(path).name, size_threshold=SMALLEST_BYTES)
    else:
        save_model(model, path)


def is_large(graph: GraphProto) -> bool:
    """Whether it must be saved in two files. The weights are counted: to ask protobuf, it would have to serialize."""
    return sum(map(_bytes, graph.initializer)) > LIMIT_BYTES


def external(path: Path) -> Path:
    return path.with_name(path.name + EXTERNAL)


def parts(path: Path) -> list[Path]:
    """The graph's file, and that of its weights if it has one."""
    return [path, external(path)] if external(path).exists() else [path]


def delete_graph(path: Path) -> None:
    for part in parts(path):
        part.unlink(missing_ok=True)


def _bytes(tensor: TensorProto) -> int:
    # Tensors of few numbers may hold them as numbers: they do not count here.
    return len(tensor.raw_data)

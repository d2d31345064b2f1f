"""What an ONNX file declares: tensors, opset, IR version, and where its weights are. Weights are not read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tldeploy.triton.config import triton_type


@dataclass(frozen=True)
class GraphTensor:
    """datatype: Triton's, or ONNX's name of one that Triton has not. dims: all, -1 for open; None without a shape."""

    name: str
    datatype: str
    dims: tuple[int, ...] | None


@dataclass(frozen=True)
class Graph:
    """lost: what is wrong with the files that its weights lie in, by file."""

    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    opset: int
    ir_version: int
    lost: dict[str, str]


def read_graph(path: Path) -> Graph | str:
    """What the file declares, or why it is no ONNX model."""
    import onnx
    from google.protobuf.message import DecodeError

    if not path.stat().st_size:
        return "it is empty"
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError:
        return "Protobuf parsing failed"
    if not model.graph.output:
        return "it has no outputs"
    values = (*model.graph.input, *model.graph.output, *model.graph.initializer)
    if any(isinstance(value.name, bytes) for value in values):
        return "it has a name that is no UTF-8 text"
    weights = {initializer.name for initializer in model.graph.initializer}
    return Graph(
        inputs=tuple(_tensor(value) for value in model.graph.input if value.name not in weights),
        outputs=tuple(_tensor(value) for value in model.graph.output),
        opset=max((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), default=1),
        ir_version=model.ir_version,
        lost=_lost(model.graph, path.parent),
    )


def external_files(path: Path) -> set[str]:
    """The files beside a graph that hold its weights, by the names that the graph has for them."""
    import onnx

    weights = _weights(onnx.load(path, load_external_data=False).graph)
    outside = (tensor for tensor in weights if tensor.data_location == onnx.TensorProto.EXTERNAL)
    return {entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"}


def _tensor(value: Any) -> GraphTensor:
    import onnx

    kind = value.type.tensor_type
    known = onnx.TensorProto.DataType.DESCRIPTOR.values_by_number.get(kind.elem_type)
    name = known.name if known and kind.elem_type else value.type.WhichOneof("value") or "none"
    if not kind.HasField("shape"):
        return GraphTensor(value.name, triton_type(kind.elem_type) or name, None)
    dims = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
    return GraphTensor(value.name, triton_type(kind.elem_type) or name, dims)


def _lost(graph: Any, folder: Path) -> dict[str, str]:
    """Files of external data that are not there or end too early, in words."""
    import onnx

    lost: dict[str, str] = {}
    for tensor in _weights(graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        name = entries.get("location", "")
        file = folder / name
        sizes = [entries.get(key, "0") for key in ("offset", "length")]
        if not name or not file.is_file():
            lost[name] = "External data path does not exist"
        elif not file.resolve().is_relative_to(folder.resolve()):
            lost[name] = "it lies outside the version folder, which onnxruntime refuses"
        elif not all(size.isdecimal() for size in sizes):
            lost[name] = f"{tensor.name} has the offset and length {', '.join(sizes)}"
        elif (size := file.stat().st_size) < sum(map(int, sizes)):
            lost.setdefault(name, f"it has {size} bytes, {tensor.name} needs {sum(map(int, sizes))}")
    return lost


def _weights(graph: Any) -> Iterator[Any]:
    """Every stored tensor of a graph and of the graphs inside its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _weights(attribute.g)
            for inner in attribute.graphs:
                yield from _weights(inner)

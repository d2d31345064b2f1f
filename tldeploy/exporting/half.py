"""A float32 graph to one of half precision, fp16 or bf16; some nodes stay in fp32. Inputs and outputs keep their types.

Between two nodes of the same precision there is no cast, and each tensor is cast once at most. onnxruntime's own
converter gives the casts of a tensor that two fp32 nodes read one name, so that its graph does not load, and between
two fp32 nodes it rounds to half and back: what overflows would overflow all the same. And it knows no bf16.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

FP32 = "tensor(float)"


@dataclass(frozen=True)
class Half:
    """Sixteen bits. step: from 1 to the next number. smallest: that has all its digits."""

    name: str
    dtype: np.dtype[Any]
    largest: float
    smallest: float
    step: float

    @property
    def onnx_type(self) -> str:
        return f"tensor({self.dtype.name})"

    @property
    def element(self) -> int:
        return int(helper.np_dtype_to_tensor_dtype(self.dtype))

    def rounded(self, values: NDArray[np.float32]) -> NDArray[Any]:
        """What is too large becomes the largest number, but infinity stays what it is."""
        bounded = np.where(np.isinf(values), values, np.clip(values, -self.largest, self.largest))
        halves: NDArray[Any] = bounded.astype(self.dtype)
        return halves


FP16 = Half("fp16", np.dtype(np.float16), largest=65504.0, smallest=2.0**-14, step=2.0**-10)
BF16 = Half("bf16", np.dtype(ml_dtypes.bfloat16), largest=2.0**128 - 2.0**120, smallest=2.0**-126, step=2.0**-7)


def to_half(model: ModelProto, tensors: Collection[str], kept: Collection[str], half: Half) -> None:
    """Convert in place. tensors: the float32 tensors that nodes make. kept: nodes that stay in fp32, by name."""
    _Conversion(model.graph, tensors, half, opsets(model)).run(kept)


def as_rounded(model: ModelProto, tensors: Collection[str], kept: Collection[str], half: Half) -> None:
    """Convert in place to a float32 graph that rounds what a half one would: weights, and every tensor between nodes.

    Sums inside of a node stay in fp32, as GPUs add them up.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    fine = {entry for node in graph.node if node.name in kept for entry in node.input}
    for entry in weights.keys() - fine:
        values = half.rounded(numpy_helper.to_array(weights[entry])).astype(np.float32)
        weights[entry].CopyFrom(numpy_helper.from_array(values, entry))
    results = {value.name for value in graph.output}
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for at, output in enumerate(node.output):
            if node.name not in kept and output in tensors and output not in results:
                node.output[at] = f"{output}_exact"
                nodes.append(_cast(node.output[at], f"{output}_half", half.element))
                nodes.append(_cast(f"{output}_half", output, TensorProto.FLOAT))
    _replace_nodes(graph, nodes)


def why_not_half(node: NodeProto, tensors: Collection[str], opset: Mapping[str, int], half: Half) -> str | None:
    """Why ONNX does not let this node compute in half precision; None where it does."""
    if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
        return "it has a graph inside"
    if any(attribute.name == "dtype" for attribute in node.attribute):
        return "it makes numbers of a type of its own"
    schema = _schema(node, opset)
    if schema is None:
        return "what types it takes is not known"
    formal = [*_formal(node.output, schema.outputs), *_formal(node.input, schema.inputs)]
    if all(half.onnx_type in kind.types or kind.type_str == FP32 for value, kind in formal if FP32 in kind.types):
        fixed = any(value in tensors and kind.type_str == FP32 for value, kind in _formal(node.output, schema.outputs))
        return "its result is fp32 by definition" if fixed else None
    return f"in opset {opset.get(node.domain, 1)} it does not take {half.name}"


def opsets(model: ModelProto) -> dict[str, int]:
    return {entry.domain: entry.version for entry in model.opset_import}


class _Conversion:
    def __init__(self, graph: GraphProto, tensors: Collection[str], half: Half, opset: Mapping[str, int]) -> None:
        self.graph, self.tensors, self.half, self.opset = graph, tensors, half, opset
        self.weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
        self.inputs = {value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.FLOAT}
        self.in_half: set[str] = set()  # the activations that are
        self.casts: dict[tuple[str, int], str] = {}  # what was cast to what, and the result's name
        self.nodes: list[NodeProto] = []

    def run(self, kept: Collection[str]) -> None:
        for node in self.graph.node:
            fixed = set(_always_float(node, self.opset))
            for at, value in enumerate(node.input):
                node.input[at] = self.read(
                    value, TensorProto.FLOAT if node.name in kept or at in fixed else self.half.element
                )
            self.nodes.append(node)
            if node.name not in kept:
                self.convert_attributes(node)
                self.in_half |= {output for output in node.output if output in self.tensors}
        for value in self.graph.output:
            if value.name in self.in_half:
                self.give_out(value.name)
        _replace_nodes(self.graph, self.nodes)

    def read(self, value: str, element: int) -> str:
        """The name under which `value` is to be had in this type."""
        if value in self.weights:
            if element == TensorProto.FLOAT:
                return value
            if (value, element) not in self.casts:
                self.casts[value, element] = f"{value}_half"
                halves = self.half.rounded(numpy_helper.to_array(self.weights[value]))
                self.graph.initializer.append(numpy_helper.from_array(halves, f"{value}_half"))
            return self.casts[value, element]
        if value not in self.tensors and value not in self.inputs:
            return value
        if (value in self.in_half) == (element == self.half.element):
            return value
        if (value, element) not in self.casts:
            name = f"{value}_{'fp32' if element == TensorProto.FLOAT else 'half'}"
            self.nodes.append(_cast(value, name, element))
            self.casts[value, element] = name
        return self.casts[value, element]

    def convert_attributes(self, node: NodeProto) -> None:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = self.half.element
            elif attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
                halved = self.half.rounded(numpy_helper.to_array(attribute.t))
                attribute.t.CopyFrom(numpy_helper.from_array(halved, attribute.t.name))
        if node.op_type == "ConstantOfShape" and not node.attribute:  # whose zeros are fp32
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1, self.half.dtype))))

    def give_out(self, result: str) -> None:
        inner = f"{result}_half"
        for node in self.nodes:
            for names in (node.input, node.output):
                for at, name in enumerate(names):
                    if name == result:
                        names[at] = inner
        self.nodes.append(_cast(inner, result, TensorProto.FLOAT))


def _replace_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    """The types that were inferred before are of no use any more, and weights that nothing reads are let go of."""
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    read = {name for node in nodes for name in node.input}
    unused = [tensor for tensor in graph.initializer if tensor.name not in read]
    for tensor in unused:
        graph.initializer.remove(tensor)


def _cast(source: str, target: str, element: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=element)


def _schema(node: NodeProto, opset: Mapping[str, int]) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(node.op_type, opset.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return None


def _formal(values: Any, declared: Any) -> Iterator[tuple[str, Any]]:
    """Each input or output that is there, with what the operator's definition says of it; the last one may repeat."""
    return ((value, declared[min(at, len(declared) - 1)]) for at, value in enumerate(values) if value)


def _always_float(node: NodeProto, opset: Mapping[str, int]) -> Iterator[int]:
    """Which inputs are fp32 by definition, such as the scales of a Resize."""
    schema = _schema(node, opset)
    for at in range(len(node.input) if schema else 0):
        if schema and schema.inputs[min(at, len(schema.inputs) - 1)].type_str == FP32:
            yield at

"""How large the activations of a graph become on real rows: what half precision cannot hold shows here.

The extremes are taken inside the graph, so that no activation is ever handed out: of each float tensor the largest and
the smallest number and, for what goes into a softmax, the smallest maximum of a row. Large negative numbers there are
a mask, which does no harm: all of them become nothing, whether at -65504 or at -1e38.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper

from tldeploy.runtime.session import open_session
from tldeploy.tasks.classification import Tensors

INTO_SOFTMAX = {"Add", "Where", "Expand", "Cast", "Identity"}


@dataclass(frozen=True)
class Magnitude:
    """The largest absolute value of a tensor that counts, over all rows. is_masked: it goes into a softmax, and only
    the largest number of each row counts."""

    largest: float
    is_masked: bool


def float_tensors(graph: Path) -> dict[str, int | None]:
    """The rank of each float32 tensor that a node of the graph makes; None where it is not known."""
    model = onnx.shape_inference.infer_shapes(onnx.load(graph, load_external_data=False))
    made = {name for node in model.graph.node for name in node.output}
    return {
        value.name: len(value.type.tensor_type.shape.dim) if value.type.tensor_type.HasField("shape") else None
        for value in (*model.graph.value_info, *model.graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT and value.name in made
    }


def measure_magnitudes(graph: Path, batches: Sequence[Tensors], scratch: Path) -> dict[str, Magnitude]:
    """The magnitude of each float tensor. scratch: a file beside the graph, written and deleted."""
    model = onnx.load(graph, load_external_data=False)
    ranks = float_tensors(graph)
    masked = masked_tensors(model.graph, ranks)
    taps = {name: [f"{name}__high", f"{name}__row" if name in masked else f"{name}__low"] for name in ranks}
    for name, (high, low) in taps.items():
        model.graph.node.append(helper.make_node("ReduceMax", [name], [high], keepdims=0))
        if name in masked:
            model.graph.node.append(helper.make_node("ReduceMax", [name, "__last"], [f"{low}s"], keepdims=0))
        whole = f"{low}s" if name in masked else name
        model.graph.node.append(helper.make_node("ReduceMin", [whole], [low], keepdims=0))
    model.graph.initializer.append(helper.make_tensor("__last", TensorProto.INT64, [1], [-1]))
    names = [tap for both in taps.values() for tap in both]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in names)
    try:
        onnx.save(model, scratch)
        session = open_session(scratch)
        found = np.array([session.run(names, batch) for batch in batches], dtype=np.float32).reshape(
            len(batches), -1, 2
        )
    finally:
        scratch.unlink(missing_ok=True)
    # A NaN that fp32 gives as well, and gets rid of again, is no matter of range.
    largest = np.nan_to_num(np.abs(found), nan=0.0, posinf=np.inf).max(axis=(0, 2))
    return {name: Magnitude(float(value), name in masked) for name, value in zip(taps, largest, strict=True)}


def masked_tensors(graph: GraphProto, ranks: Mapping[str, int | None]) -> set[str]:
    """The tensors that go nowhere but into a softmax over their last dimension."""
    readers: defaultdict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    results = {value.name for value in graph.output}
    masked: set[str] = set()
    for node in reversed(graph.node):
        for name in node.output:
            into = readers[name]
            if ranks.get(name) and into and name not in results and all(_masks(reader, masked) for reader in into):
                masked.add(name)
    return masked


def _masks(node: NodeProto, masked: set[str]) -> bool:
    if node.op_type == "Softmax":
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
        return axis == -1
    return node.op_type in INTO_SOFTMAX and node.output[0] in masked

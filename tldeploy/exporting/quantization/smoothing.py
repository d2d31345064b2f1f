"""SmoothQuant: channels with outliers are made smaller in the activations, and larger in the weights that follow.

One large channel takes up the range of all of a tensor, and the others are rounded away. For a norm that feeds
products with constant weights, the channels of its result are divided by s, and the rows of the weights multiplied by
it: the function stays the same. Where only those products read the result, 1 / s goes into the norm's own scale and
bias; where something else does too, such as a residual, a Mul is put before the products.

Source: Xiao et al., SmoothQuant, ICML 2023 (arXiv:2211.10438), equation 4.
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, numpy_helper

from tldeploy.exporting.quantization.calibration import covering_batches
from tldeploy.exporting.source import Source
from tldeploy.exporting.storage import save_graph
from tldeploy.runtime.session import open_session
from tldeploy.tasks.classification import Tensors

ALPHA = 0.5  # how much of the difficulty moves into the weights; what the paper found best for most networks
SMALLEST = 1e-5
Scales = NDArray[np.float32]


@dataclass(frozen=True)
class _Place:
    """A norm, the products that read its result, and what else does."""

    norm: NodeProto
    products: list[NodeProto]
    others: int


def smooth(source: Source, target: Path) -> list[dict[str, str]]:
    """Write the smoothed form of the source's fp32 graph, and say for each norm what was done, or why nothing."""
    settings = source.settings.calibration
    batches = covering_batches(source.task, source.calibration, settings.rows)
    return smooth_graph(source.graph, target, batches)


def smooth_graph(graph: Path, target: Path, batches: Sequence[Tensors], alpha: float = ALPHA) -> list[dict[str, str]]:
    """As `smooth`, with the largest absolute value of each channel taken from `batches`."""
    model = onnx.load(graph)
    weights = _Weights(model.graph)
    said, places = [], []
    for place in _places(model.graph, weights):
        if not place.products:
            said.append({"norm": place.norm.name, "done": "", "reason": "no product with constant weights reads it"})
        elif any(weights.readers[node.input[1]] > 1 for node in place.products):
            said.append({"norm": place.norm.name, "done": "", "reason": "its weights serve other places as well"})
        else:
            places.append(place)
    largest = _largest(graph, [place.norm.output[0] for place in places], batches)
    for place, activations in zip(places, largest, strict=True):
        s = _factors(activations, [weights.by_input(node) for node in place.products], alpha)
        for node in place.products:
            weights.put(node.input[1], weights.by_input(node) * s[:, None], node)
        folded = place.others == 0
        (_fold if folded else _insert)(model.graph, weights, place, s)
        reason = "nothing but products reads it" if folded else f"{place.others} other nodes read it"
        said.append({"norm": place.norm.name, "done": "folded" if folded else "inserted", "reason": reason})
    save_graph(model, target)
    return said


class _Weights:
    """The constants of a graph, and how many nodes read each."""

    def __init__(self, graph: GraphProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._graph = graph
        self.readers = Counter(name for node in graph.node for name in node.input)

    def is_matrix(self, name: str) -> bool:
        tensor = self._tensors.get(name)
        return tensor is not None and len(tensor.dims) == 2 and tensor.data_type == tensor.FLOAT

    def is_vector(self, name: str) -> bool:
        tensor = self._tensors.get(name)
        return tensor is not None and len(tensor.dims) == 1

    def get(self, name: str) -> Scales:
        return numpy_helper.to_array(self._tensors[name])

    def by_input(self, node: NodeProto) -> Scales:
        """A product's weights, [inputs, outputs], however they are stored."""
        return self.get(node.input[1]).T if _is_transposed(node) else self.get(node.input[1])

    def put(self, name: str, values: Scales, node: NodeProto | None = None) -> None:
        stored = values.T if node is not None and _is_transposed(node) else values
        self._tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(stored), name))

    def add(self, name: str, values: Scales) -> str:
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name


def _places(graph: GraphProto, weights: _Weights) -> list[_Place]:
    readers: defaultdict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in set(node.input):
            readers[name].append(node)
    results = {value.name for value in graph.output}
    places = []
    for norm in graph.node:
        if norm.op_type != "LayerNormalization" or not all(weights.is_vector(name) for name in norm.input[1:]):
            continue
        name = norm.output[0]
        products = [
            node
            for node in readers[name]
            if node.op_type in {"MatMul", "Gemm"} and node.input[0] == name and weights.is_matrix(node.input[1])
        ]
        places.append(_Place(norm, products, len(readers[name]) - len(products) + (name in results)))
    return places


def _is_transposed(node: NodeProto) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


def _largest(graph: Path, names: Sequence[str], batches: Sequence[Tensors]) -> list[Scales]:
    """The largest absolute value of each channel of these tensors, float32 [channels] each."""
    if not names:
        return []
    model = onnx.load(graph)
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    with tempfile.TemporaryDirectory() as folder:
        tapped = Path(folder) / "tapped.onnx"
        save_graph(model, tapped)
        session = open_session(tapped)
    seen = [
        [np.abs(values).reshape(-1, values.shape[-1]).max(axis=0) for values in session.run(names, batch)]
        for batch in batches
    ]
    return [np.max(parts, axis=0) for parts in zip(*seen, strict=True)]


def _factors(activations: Scales, products: Sequence[Scales], alpha: float) -> Scales:
    """s of each channel, float32 [channels]; 1 where a channel or its weights are nothing."""
    rows = np.max([np.abs(matrix).max(axis=1) for matrix in products], axis=0)
    s = np.maximum(activations, SMALLEST) ** alpha / np.maximum(rows, SMALLEST) ** (1 - alpha)
    factors: Scales = np.where((activations < SMALLEST) | (rows < SMALLEST), 1, s).astype(np.float32)
    return factors


def _fold(graph: GraphProto, weights: _Weights, place: _Place, s: Scales) -> None:
    """Into constants of the norm's own: equal ones are shared between norms."""
    for at in range(1, len(place.norm.input)):
        name = f"{place.norm.output[0]}_smoothed_{at}"
        place.norm.input[at] = weights.add(name, weights.get(place.norm.input[at]) / s)


def _insert(graph: GraphProto, weights: _Weights, place: _Place, s: Scales) -> None:
    name = place.norm.output[0]
    factor = weights.add(f"{name}_smoothing", np.reciprocal(s))
    node = onnx.helper.make_node("Mul", [name, factor], [f"{name}_smoothed"], f"{place.norm.name}_smoothing")
    graph.node.insert(list(graph.node).index(place.norm) + 1, node)
    for product in place.products:
        product.input[0] = node.output[0]

"""Static quantization: weights and activations in int8, the ranges of activations fixed by calibration.

1. The graph is prepared once: shapes, constants, norms folded into convolutions.
2. The ranges are found once; then it is quantized as often as the search asks, with other nodes left in floats.

The form is QDQ: each runtime fuses QuantizeLinear and DequantizeLinear around a node into its own integer kernel.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from tldeploy.errors import QualityError
from tldeploy.exporting.quantization.calibration import find_ranges
from tldeploy.exporting.quantization.quiet import quiet
from tldeploy.exporting.storage import external, save_graph
from tldeploy.recipe.serving import Target
from tldeploy.tasks.classification import Tensors

WEIGHTED = {"MatMul": 1, "Gemm": 1, "Conv": 1, "Gather": 0}  # where the weight is among the inputs
# What joins two quantized convolutions without leaving the integers. Softmax, norms and GELU stay in floats.
BETWEEN = {"Relu", "Clip", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten", "Reshape", "Concat"}


@dataclass(frozen=True)
class Scheme:
    """How integers stand for floats; weights are always symmetric int8 with a scale per output channel.

    signed: activations are int8 around zero (S8S8) instead of uint8 (U8S8). reduce_range: weights of 7 bits, for a CPU
    whose sums of int8 products saturate. paired: every tensor, weights too, goes through a QuantizeLinear of its own.
    float_results: operators that hand on floats.
    """

    signed: bool = False
    reduce_range: bool = False
    paired: bool = False
    float_results: tuple[str, ...] = ("MatMul", "Gemm")


def scheme_for(target: Target, has_vnni: bool) -> Scheme:
    """TensorRT wants symmetric int8 in pairs, and weighted operators with float results; others multiply U8S8."""
    if target == "tensorrt":
        return Scheme(signed=True, paired=True, float_results=tuple(WEIGHTED))
    return Scheme(reduce_range=target == "cpu" and not has_vnni)


class StaticInt8:
    """A Quantizer of one graph whose ranges are known."""

    def __init__(
        self, graph: Path, batches: Sequence[Tensors], scheme: Scheme, method: str = "minmax", between: bool = False
    ) -> None:
        """method: of calibration. between: what joins the convolutions too becomes integers."""
        self._scheme = scheme
        with tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            _prepare(graph, prepared)
            self._model = onnx.load(prepared)
            self.nodes = quantizable(self._model, between)
            chosen = set(self.nodes)
            self._operators = sorted({node.op_type for node in self._model.graph.node if node.name in chosen})
            self._ranges = find_ranges(prepared, batches, self._operators, method, scheme.signed)

    def write(self, target: Path, in_float: Collection[str] = ()) -> None:
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        chosen = set(self.nodes) - set(in_float)
        tables = [node.input[0] for node in self._model.graph.node if node.op_type == "Gather" and node.name in chosen]
        options: dict[str, Any] = {
            "ActivationSymmetric": self._scheme.signed,
            "AddQDQPairToWeight": self._scheme.paired,
            "DedicatedQDQPair": self._scheme.paired,
            "QuantizeBias": not self._scheme.paired,
            "OpTypesToExcludeOutputQuantization": list(self._scheme.float_results),
            # Nothing is multiplied by an embedding: it needs no 7 bits.
            "TensorQuantOverrides": {table: [{"reduce_range": False}] for table in tables},
        }
        with quiet():
            quantizer = QDQQuantizer(
                copy.deepcopy(self._model),
                per_channel=True,
                reduce_range=self._scheme.reduce_range,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QInt8 if self._scheme.signed else QuantType.QUInt8,
                tensors_range=copy.deepcopy(self._ranges),  # it adjusts them to the nodes that it quantizes
                nodes_to_quantize=[],
                nodes_to_exclude=[node.name for node in self._model.graph.node if node.name not in chosen],
                op_types_to_quantize=self._operators,
                extra_options=options,
            )
            quantizer.quantize_model()
        save_graph(quantizer.model.model, target)


def quantizable(model: onnx.ModelProto, between: bool) -> list[str]:
    """The nodes with weights, and with `between` what lies between convolutions; not what comes before the first one.

    Attention's products of two activations are left out: they have no weights to make smaller.
    """
    weights = {tensor.name for tensor in model.graph.initializer if tensor.data_type == tensor.FLOAT}
    chosen: list[str] = []
    for node in model.graph.node:
        at = WEIGHTED.get(node.op_type)
        is_weighted = at is not None and node.input[at] in weights
        if is_weighted or (between and chosen and node.op_type in BETWEEN):
            chosen.append(node.name)
    return chosen


def _prepare(graph: Path, prepared: Path) -> None:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    large = external(graph).exists()
    try:
        with quiet():
            quant_pre_process(
                graph,
                prepared,
                skip_symbolic_shape=True,  # it needs types, and those are known
                save_as_external_data=large,
                all_tensors_to_one_file=True,
                external_data_location=external(prepared).name if large else None,
            )
    except Exception as error:  # onnxruntime's exceptions share no base class
        reason = " ".join(str(error).split())[:300]
        raise QualityError("prepare the graph for quantization", reason, "leave this variant out") from error
    model = onnx.load(prepared)
    used = {node.domain for node in model.graph.node} | {""}  # it declares every domain that it knows
    domains = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(domains)
    save_graph(model, prepared)

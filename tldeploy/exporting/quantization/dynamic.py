"""Dynamic quantization: weights in int8, activations in uint8 with a scale taken from each batch as it comes."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import onnx

from tldeploy.exporting.quantization.quiet import quiet
from tldeploy.exporting.storage import is_large


class DynamicInt8:
    """A Quantizer of one graph.

    Signed weights with unsigned activations (U8S8) are what AVX512-VNNI multiplies fastest; a scale per output channel
    agrees with fp32 better than one per tensor, at the same speed. The embedding tables go to int8 as well, for size.
    """

    def __init__(self, graph: Path, reduce_range: bool = False) -> None:
        """reduce_range: weights of 7 bits, for a CPU whose sums of int8 products saturate."""
        self._model = onnx.load(graph)
        self._reduce_range = reduce_range
        # Shapes inferred while tracing are in the way of the quantizer's own ("Inferred shape and existing shape
        # differ"); they stay in the file, because the fuser needs them.
        del self._model.graph.value_info[:]
        weights = {tensor.name for tensor in self._model.graph.initializer if tensor.data_type == tensor.FLOAT}
        place = {"MatMul": 1, "Gather": 0, "Conv": 1}  # of the weight among the inputs
        self.nodes = [
            node.name
            for node in self._model.graph.node
            if node.op_type in place and node.input[place[node.op_type]] in weights
        ]

    def write(self, target: Path, in_float: Collection[str] = ()) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with quiet():
            quantize_dynamic(
                self._model,
                target,
                per_channel=True,
                reduce_range=self._reduce_range,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=list(in_float),
                use_external_data_format=is_large(self._model.graph),
            )

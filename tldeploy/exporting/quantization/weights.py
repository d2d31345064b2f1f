"""Weight-only quantization: weights in 8 or 4 bits, in blocks along the inputs; activations stay floats.

1. Products with constant weights become MatMulNBits, which unpacks a block at a time. Each block has a scale and a zero
   point of its own, so that no integer stands for values that are not in it. A Gemm stays: the head's is a few
   kilobytes, and what it says is the answer.
2. Embedding tables go to int8 with a scale per row: the rows that are asked for are looked up as integers, and become
   floats afterwards. At 4 bits too: a row is used as it is, with no sum over which its errors would even out.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tldeploy.exporting.quantization.quiet import quiet
from tldeploy.exporting.storage import save_graph
from tldeploy.recipe.serving import Target

# By bits, how many inputs share a scale and a zero point: the first that fits all products without padding, or else the
# last. Long blocks make a smaller file; 4 bits need short ones.
BLOCKS = {8: (128, 64, 32), 4: (32,)}
# On the CPU activations are rounded to int8 block by block, to be multiplied as integers; other providers do not know
# of it.
INTEGER_PRODUCTS = 4
PAYS = 0.01  # of all weights: what a table must have to be worth three more nodes


def quantize_weights(graph: Path, target: Path, bits: int, provider: Target) -> dict[str, Any]:
    """Write the graph with weights of 8 or 4 bits, and say how many products and tables there were."""
    model = onnx.load(graph)
    tables = _quantize_tables(model.graph)
    block = _block(model.graph, bits)
    with quiet():
        quantized = _quantize_products(model, bits, block, INTEGER_PRODUCTS if provider == "cpu" else 0)
    del quantized.graph.value_info[:]
    save_graph(quantized, target)
    products = sum(node.op_type == "MatMulNBits" for node in quantized.graph.node)
    return {"bits": bits, "block": block, "products": products, "tables_in_int8": tables}


def _quantize_products(model: ModelProto, bits: int, block: int, accuracy: int) -> ModelProto:
    handlers = list(logging.getLogger().handlers)
    # At import it sets up the root logger of whoever imports it.
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    logging.getLogger().handlers[:] = handlers
    config = DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=False, accuracy_level=accuracy, bits=bits)
    quantizer = MatMulNBitsQuantizer(model, algo_config=config)
    quantizer.process()
    found: ModelProto = quantizer.model.model
    return found


def _block(graph: GraphProto, bits: int) -> int:
    weights = {tensor.name: tensor for tensor in graph.initializer}
    sizes = [weights[node.input[1]].dims[-2] for node in graph.node if _has_weights(node, weights)]
    return next((block for block in BLOCKS[bits] if all(size % block == 0 for size in sizes)), BLOCKS[bits][-1])


def _has_weights(node: NodeProto, weights: dict[str, TensorProto]) -> bool:
    return node.op_type == "MatMul" and node.input[1] in weights and len(weights[node.input[1]].dims) > 1


def _quantize_tables(graph: GraphProto) -> list[str]:
    """In place; the tables that were, by name."""
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    enough = PAYS * sum(int(np.prod(tensor.dims)) for tensor in weights.values())
    readers: defaultdict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    tables = [
        tensor
        for name, tensor in weights.items()
        if len(tensor.dims) == 2
        and np.prod(tensor.dims) >= enough
        and all(_looks_up(node, name) for node in readers[name])
    ]
    for table in tables:
        rows = numpy_helper.to_array(table)
        scales = np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / 127
        integers, scale = f"{table.name}_int8", f"{table.name}_scale"
        graph.initializer.append(numpy_helper.from_array(np.rint(rows / scales).astype(np.int8), integers))
        graph.initializer.append(numpy_helper.from_array(scales.astype(np.float32), scale))
        for node in readers[table.name]:
            _look_up_integers(graph, node, integers, scale)
        graph.initializer.remove(table)
    return [table.name for table in tables]


def _looks_up(node: NodeProto, table: str) -> bool:
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    return node.op_type == "Gather" and axis == 0 and node.input[0] == table and node.input[1] != table


def _look_up_integers(graph: GraphProto, node: NodeProto, integers: str, scale: str) -> None:
    """Gather → Cast → Mul with the gathered scales, [..., 1]; every provider has these."""
    result, ids = node.output[0], node.input[1]
    found, as_floats, scales = f"{result}_int8", f"{result}_unscaled", f"{result}_scale"
    new = [
        helper.make_node("Gather", [integers, ids], [found], node.name),
        helper.make_node("Gather", [scale, ids], [scales], f"{node.name}_scale"),
        helper.make_node("Cast", [found], [as_floats], f"{node.name}_cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [as_floats, scales], [result], f"{node.name}_mul"),
    ]
    place = list(graph.node).index(node)
    del graph.node[place]
    for at, entry in enumerate(new):
        graph.node.insert(place + at, entry)

"""Products with packed weights: what the integers stand for, and that onnxruntime multiplies by just that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tldeploy.exporting.quantization.weights import quantize_weights

Weights = NDArray[np.float32]
OUTPUTS = 24


def product(folder: Path, inputs: int) -> tuple[Path, Weights]:
    """A graph of one product, and its weights, float32 [inputs, OUTPUTS], each column around a mean of its own."""
    draw = np.random.default_rng(inputs)
    weights = draw.normal(draw.normal(scale=2, size=OUTPUTS), 1, (inputs, OUTPUTS)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["y"], "product")],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", OUTPUTS])],
        [numpy_helper.from_array(weights, "weights")],
    )
    file = folder / "fp32.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
    return file, weights


def unpacked(file: Path) -> Weights:
    """The weights of the one MatMulNBits, as onnxruntime's ContribOperators.md says that they are stored."""
    model = onnx.load(file)
    (node,) = model.graph.node
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    said = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    packed, scales, zeros = (constants[name] for name in node.input[1:])
    outputs, blocks, _ = packed.shape
    if said["bits"] == 4:  # two numbers a byte, the first in the lower half
        packed, zeros = (np.stack([part & 15, part >> 4], axis=-1) for part in (packed, zeros.reshape(outputs, -1)))
    integers = packed.reshape(outputs, blocks, said["block_size"]).astype(np.float32)
    zero = zeros.reshape(outputs, -1)[:, :blocks, None].astype(np.float32)
    values: Weights = (integers - zero) * scales.reshape(outputs, blocks, 1)
    return values.reshape(outputs, -1)[:, : said["K"]].T


def symmetric(weights: Weights, bits: int, block: int) -> Weights:
    """The nearest numbers among steps of one size around zero, the largest of a block being the last step."""
    found = np.empty_like(weights)
    for start in range(0, len(weights), block):
        part = weights[start : start + block]
        largest = np.take_along_axis(part, np.abs(part).argmax(axis=0)[None], axis=0)
        step = largest / -(2 ** (bits - 1))
        found[start : start + block] = step * np.clip(np.rint(part / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return found


def root_mean_square(difference: Weights) -> float:
    return float(np.sqrt(np.square(difference).mean()))


def multiplied(file: Path, rows: Weights) -> Weights:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found: Weights = session.run(["y"], {"x": rows})[0]
    return found


@pytest.mark.parametrize(
    ("bits", "inputs", "block"), [(4, 384, 32), (4, 96, 32), (4, 80, 32), (8, 384, 128), (8, 96, 32)]
)
@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_zero_point_for_each_block_loses_less_and_the_session_multiplies_by_it(
    tmp_path: Path, bits: int, inputs: int, block: int, target: Any
) -> None:
    graph, weights = product(tmp_path, inputs)
    said = quantize_weights(graph, tmp_path / "packed.onnx", bits, target)
    assert (said["block"], said["products"]) == (block, 1)
    found = unpacked(tmp_path / "packed.onnx")
    lost = root_mean_square(found - weights)
    assert 0 < lost < 0.9 * root_mean_square(symmetric(weights, bits, block) - weights)
    rows = np.random.default_rng(0).normal(size=(9, inputs)).astype(np.float32)
    expected = rows @ found
    # On the CPU the rows are rounded to int8 as well; in floats nothing else is.
    most_off = (2e-2 if target == "cpu" else 1e-5) * np.abs(expected).max()
    for count in (9, 1):
        answer = multiplied(tmp_path / "packed.onnx", rows[:count])
        np.testing.assert_allclose(answer, expected[:count], rtol=0, atol=most_off)

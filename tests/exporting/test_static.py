from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto

from tests.exporting.tiny_source import constant
from tldeploy.exporting.quantization.calibration import BATCH, covering_batches, least_error_range
from tldeploy.exporting.quantization.judge import Judge
from tldeploy.exporting.quantization.static import Scheme, StaticInt8, scheme_for
from tldeploy.exporting.source import Source
from tldeploy.exporting.variants import VARIANTS
from tldeploy.recipe import Export

METHODS = ["minmax", "percentile", "entropy", "mse"]
ATTENTION_PRODUCTS = 2 * 2  # two in each of two layers, both of activations


def quantized(source: Source, folder: Path, scheme: Scheme, method: str = "minmax") -> ModelProto:
    batches = covering_batches(source.task, source.calibration, 96)
    target = folder / "int8.onnx"
    StaticInt8(source.graph, batches, scheme, method, between=source.is_convolutional).write(target)
    return onnx.load(target)


def weights_of(model: ModelProto, operators: set[str]) -> dict[str, list[onnx.NodeProto]]:
    """The DequantizeLinear before the weight of each such node, or nothing where it has none."""
    by_output = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    constants = {tensor.name for tensor in model.graph.initializer}
    return {
        node.name: [
            by_output[name] for name in node.input[1:2] if name in by_output and by_output[name].input[0] in constants
        ]
        for node in model.graph.node
        if node.op_type in operators
    }


def fused_operators(file: Path) -> Counter[str]:
    """What onnxruntime makes of a graph when it loads it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(file.with_suffix(".fused.onnx"))
    options.log_severity_level = 3
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def test_every_product_with_weights_has_them_in_int8_with_a_scale_per_output(text: Source, tmp_path: Path) -> None:
    model = quantized(text, tmp_path, Scheme())
    found = weights_of(model, {"MatMul", "Gemm"})
    assert sum(not nodes for nodes in found.values()) == ATTENTION_PRODUCTS
    for node in (nodes[0] for nodes in found.values() if nodes):
        weight, scale, zero = (constant(model, name) for name in node.input)
        assert weight.dtype == zero.dtype == np.int8
        axis = next(attribute.i for attribute in node.attribute if attribute.name == "axis")
        assert scale.shape == (weight.shape[axis],)
        assert not zero.any()
        assert np.abs(weight).max() == 127


def test_embedding_tables_are_a_byte_a_number(text: Source, tmp_path: Path) -> None:
    model = quantized(text, tmp_path, Scheme(reduce_range=True))
    tables = [
        tensor for tensor in model.graph.initializer if "embeddings.weight" in tensor.name and len(tensor.dims) == 2
    ]
    assert [tensor.data_type for tensor in tables] == [TensorProto.UINT8] * 3
    assert max(constant(model, tensor.name).max() for tensor in tables) == 255
    assert not any(t.data_type == TensorProto.FLOAT and np.prod(t.dims) > 64 for t in model.graph.initializer)


def test_softmax_norms_and_gelu_stay_in_floats(text: Source, tmp_path: Path) -> None:
    model = quantized(text, tmp_path, Scheme())
    of_integers = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    for node in model.graph.node:
        if node.op_type in {"Softmax", "LayerNormalization", "Gelu"}:
            assert of_integers.isdisjoint(node.input)


def test_onnxruntime_multiplies_integers(text: Source, tmp_path: Path) -> None:
    quantized(text, tmp_path, Scheme())
    operators = fused_operators(tmp_path / "int8.onnx")
    assert (operators["MatMulIntegerToFloat"], operators["QGemm"]) == (12, 1)
    assert operators["MatMul"] + operators["FusedMatMul"] == ATTENTION_PRODUCTS


def test_a_convolutional_network_stays_in_integers_from_the_first_layer_to_the_last(
    images: Source, tmp_path: Path
) -> None:
    model = quantized(images, tmp_path, Scheme())
    assert all(nodes for nodes in weights_of(model, {"Conv", "Gemm"}).values())
    operators = fused_operators(tmp_path / "int8.onnx")
    assert (operators["QLinearConv"], operators["QLinearAdd"], operators["QGemm"]) == (6, 2, 1)
    assert not {"Conv", "Relu"} & set(operators)
    assert operators["Add"] == 1, "what is added to the pixels to normalise them"
    # In at the pixels, out for the mean, and in again for the head.
    assert (operators["QuantizeLinear"], operators["DequantizeLinear"]) == (2, 1)


def test_weights_of_seven_bits_are_for_cpus_that_saturate(text: Source, tmp_path: Path) -> None:
    assert scheme_for("cpu", has_vnni=False).reduce_range
    assert not scheme_for("cpu", has_vnni=True).reduce_range
    assert not scheme_for("openvino", has_vnni=False).reduce_range
    model = quantized(text, tmp_path, scheme_for("cpu", has_vnni=False))
    weights = [constant(model, nodes[0].input[0]) for nodes in weights_of(model, {"MatMul", "Gemm"}).values() if nodes]
    assert {int(np.abs(weight).max()) for weight in weights} == {64}


@pytest.mark.parametrize("network", ["text", "images"])
def test_tensorrt_gets_signed_activations_around_zero(
    network: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model = quantized(request.getfixturevalue(network), tmp_path, scheme_for("tensorrt", has_vnni=True))
    pairs = [node for node in model.graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    zeros = [constant(model, node.input[2]) for node in pairs]
    assert {zero.dtype for zero in zeros} == {np.dtype(np.int8)}
    assert not any(zero.any() for zero in zeros)
    assert len(pairs) == 2 * sum(node.op_type == "QuantizeLinear" for node in pairs)


def test_cuda_is_refused_with_the_reason(text: Source) -> None:
    source = replace(text, settings=Export(target="cuda"))
    assert "no kernels" in str(VARIANTS["int8-static"].misfit(source))
    assert VARIANTS["int8-static"].misfit(text) is None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", ["text", "images"])
def test_answers_stay_near_those_of_fp32(
    network: str, method: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source: Source = request.getfixturevalue(network)
    quantized(source, tmp_path, Scheme(), method)
    assert Judge(source).loss(tmp_path / "int8.onnx") < 0.05


def test_the_graph_depends_on_calibration_rows_only(text: Source, tmp_path: Path) -> None:
    made = []
    others = text.validation.take(np.arange(100, 150))
    for source in (text, replace(text, validation=others), replace(text, calibration=others)):
        target = tmp_path / f"{len(made)}.onnx"
        settings = Export(max_drop=100, calibration={"rows": 40})
        VARIANTS["int8-static"].make(replace(source, settings=settings), target)
        made.append(target.read_bytes())
    assert made[0] == made[1] != made[2]


def test_minmax_is_all_that_the_calibration_rows_reach(text: Source, tmp_path: Path) -> None:
    model = quantized(text, tmp_path, Scheme())
    fp32 = onnx.load(text.graph)
    fp32.graph.output.append(onnx.helper.make_empty_tensor_value_info("gelu"))
    session = onnxruntime.InferenceSession(fp32.SerializeToString(), providers=["CPUExecutionProvider"])
    batches = covering_batches(text.task, text.calibration, 96)
    seen = [session.run(["gelu"], batch)[0] for batch in batches]
    expected = (max(part.max() for part in seen) - min(part.min() for part in seen)) / 255
    np.testing.assert_allclose(constant(model, "gelu_scale"), expected, rtol=1e-5)


def test_batches_are_small_cover_all_rows_and_hardly_pad(text: Source) -> None:
    batches = covering_batches(text.task, text.calibration, 64)
    masks = [batch["attention_mask"] for batch in batches]
    assert sum(len(mask) for mask in masks) == 64
    assert max(len(mask) for mask in masks) == BATCH
    assert sum(mask.sum() for mask in masks) > 0.9 * sum(mask.size for mask in masks)


def histogram(values: np.ndarray, bins: int = 2048) -> tuple[np.ndarray, np.ndarray, float, float]:
    most = np.abs(values).max()
    counts, edges = np.histogram(values, bins, range=(-most, most))
    return counts, edges.astype(np.float32), float(values.min()), float(values.max())


def rounding_loss(values: np.ndarray, low: float, high: float) -> float:
    """What quantizing to 255 steps between low and high really costs."""
    step = (max(high, 0) - min(low, 0)) / 255
    zero = round(-min(low, 0) / step)
    levels = np.clip(np.round(values / step) + zero, 0, 255) - zero
    return float(np.square(values - levels * step).mean())


@pytest.mark.parametrize("shape", ["bell", "outlier", "relu", "heavy tails"])
def test_the_least_error_is_what_trying_every_range_finds(shape: str) -> None:
    draw = np.random.default_rng(0)
    bell = draw.normal(size=20_000)
    values = {
        "bell": bell,
        "outlier": np.append(bell, [40.0, -35.0]),
        "relu": np.maximum(bell, 0),
        "heavy tails": draw.standard_t(3, size=20_000),
    }[shape]
    counts, edges, lowest, highest = histogram(values)
    low, high = least_error_range(counts, edges, lowest, highest, symmetric=False)
    tried = [rounding_loss(values, max(lowest, -t), min(highest, t)) for t in edges[1025::8]]
    assert rounding_loss(values, low, high) <= 1.03 * min(tried)
    assert lowest <= low <= 0 < high <= highest


def test_an_outlier_is_clipped_only_where_that_pays() -> None:
    bell = np.random.default_rng(0).normal(size=20_000)
    counts, edges, lowest, highest = histogram(np.append(bell, 8.0))
    assert least_error_range(counts, edges, lowest, highest, symmetric=False)[1] < 8
    # So far out that clipping one value costs more than rounding all the others coarsely.
    counts, edges, lowest, highest = histogram(np.append(bell, 3000.0))
    assert least_error_range(counts, edges, lowest, highest, symmetric=False)[1] == pytest.approx(3000, rel=0.01)


def test_a_symmetric_range_has_zero_in_the_middle() -> None:
    counts, edges, lowest, highest = histogram(np.maximum(np.random.default_rng(0).normal(size=5000), -0.1))
    low, high = least_error_range(counts, edges, lowest, highest, symmetric=True)
    assert low == -high

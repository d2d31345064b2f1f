"""Half precision and weight-only integers on small networks: what is written, how far off it is, what stays in fp32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper

from tests.exporting.tiny_source import add, answers, constant, named, set_constant
from tldeploy.errors import QualityError
from tldeploy.exporting.half import BF16, FP16, to_half
from tldeploy.exporting.precision import make_half, nodes_to_keep
from tldeploy.exporting.quantization.calibration import covering_batches
from tldeploy.exporting.ranges import measure_magnitudes
from tldeploy.exporting.selection import PREFERENCE
from tldeploy.exporting.source import Source
from tldeploy.exporting.variants import VARIANTS
from tldeploy.recipe import Export

HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@pytest.fixture(scope="module")
def text(text: Source) -> Source:
    return replace(text, settings=Export(target="cuda"))


@pytest.fixture(scope="module")
def images(images: Source) -> Source:
    return replace(images, settings=Export(target="cuda"))


def off(source: Source, graph: Path) -> float:
    rows = source.validation.take(np.arange(24))
    found = answers(graph, source.task, rows)
    assert np.isfinite(found).all()
    return float(np.abs(found - answers(source.graph, source.task, rows)).max())


def kept(source: Source, folder: Path) -> dict[str, str]:
    batches = covering_batches(source.task, source.calibration, 32)
    magnitudes = measure_magnitudes(source.graph, batches, folder / "scratch.onnx")
    return {node: str(why) for node, why in nodes_to_keep(onnx.load(source.graph), magnitudes, FP16).items()}


def changed(source: Source, folder: Path, change: Any) -> Source:
    model = onnx.load(source.graph)
    change(model)
    onnx.save(model, folder / "changed.onnx")
    return replace(source, graph=folder / "changed.onnx")


@pytest.mark.parametrize("kind", ["text", "images"])
def test_fp16_halves_the_weights_and_hardly_changes_the_answers(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source: Source = request.getfixturevalue(kind)
    said = make_half(source, tmp_path / "fp16.onnx", FP16)
    model, before = onnx.load(tmp_path / "fp16.onnx"), onnx.load(source.graph)
    assert {tensor.data_type for tensor in model.graph.initializer if tensor.data_type in {1, 10, 16}} == {10}
    assert [model.graph.input, model.graph.output] == [before.graph.input, before.graph.output]
    assert said["kept_in_fp32"] == 0
    assert 0 < off(source, tmp_path / "fp16.onnx") < 2e-3
    onnx.checker.check_model(model, full_check=True)


def test_bf16_is_a_sound_graph_whose_rounding_is_measured(text: Source, tmp_path: Path) -> None:
    said = make_half(text, tmp_path / "bf16.onnx", BF16)
    model = onnx.load(tmp_path / "bf16.onnx")
    onnx.checker.check_model(model, full_check=True)
    floats = {tensor.data_type for tensor in model.graph.initializer} - {TensorProto.INT64, TensorProto.BOOL}
    assert floats == {TensorProto.BFLOAT16}
    assert 1e-4 < said["max_abs_diff_to_fp32"] < 2e-2
    assert [path.name for path in tmp_path.iterdir()] == ["bf16.onnx"]


def test_bf16_that_cannot_be_measured_here_is_left_out_and_says_so(text: Source, tmp_path: Path) -> None:
    if any("CUDA" in name for name in onnxruntime.get_available_providers()) and Path("/dev/nvidia0").exists():
        pytest.skip("it can be measured here")
    with pytest.raises(QualityError, match="not measured on this machine: the CPU provider has no kernels for it"):
        VARIANTS["bf16"].make(text, tmp_path / "bf16.onnx")


@pytest.mark.parametrize(
    ("variant", "target", "said"),
    [
        ("fp16", "cpu", "no half-precision kernels"),
        ("bf16", "openvino", "chooses the precision itself"),
        ("fp16", "cuda", None),
        ("fp16", "tensorrt", None),
        ("int8-weights", "tensorrt", "no operator"),
        ("int4-weights", "cpu", None),
    ],
)
def test_variants_are_made_only_where_they_fit(text: Source, variant: str, target: Any, said: str | None) -> None:
    why = VARIANTS[variant].misfit(replace(text, settings=Export(target=target)))
    assert why is None if said is None else said in str(why)


@pytest.mark.parametrize("target", PREFERENCE)
def test_the_usual_order_of_a_target_names_only_what_is_made_for_it(text: Source, target: Any) -> None:
    source = replace(text, settings=Export(target=target))
    assert [VARIANTS[name].misfit(source) for name in PREFERENCE[target]] == [None] * len(PREFERENCE[target])


def test_convolutions_fit_neither_bf16_nor_packed_weights(images: Source) -> None:
    assert "opset 22" in str(VARIANTS["bf16"].misfit(images))
    assert "not convolutions" in str(VARIANTS["int8-weights"].misfit(images))
    assert VARIANTS["fp16"].misfit(images) is None


def test_a_mask_of_the_lowest_float_is_no_reason_for_fp32(text: Source, tmp_path: Path) -> None:
    model = onnx.load(text.graph)
    lowest = [t.name for t in model.graph.initializer if t.data_type == 1 and constant(model, t.name).min() < -1e38]
    assert lowest
    assert kept(text, tmp_path) == {}


def overflow(model: ModelProto) -> None:
    """One layer's hidden activations about 1e6, which its next product makes small again."""
    inner = named(model, "backbone.encoder.layer.0.intermediate.dense/MatMul")
    bias = next(node for node in model.graph.node if inner.output[0] in node.input)
    outer = named(model, "backbone.encoder.layer.0.output.dense/MatMul")
    set_constant(model, inner.input[1], 1e6 * constant(model, inner.input[1]))
    bias.input[1] = add(model, "loud_bias", 1e6 * constant(model, bias.input[1]))
    outer.input[1] = add(model, "deaf", 1e-6 * constant(model, outer.input[1]))


def test_nodes_that_overflow_stay_in_fp32_and_the_answers_stay_finite(text: Source, tmp_path: Path) -> None:
    loud = changed(text, tmp_path, overflow)
    said = make_half(loud, tmp_path / "fp16.onnx", FP16)
    places = {name.partition("/")[0] for name in kept(loud, tmp_path)}
    layer = "backbone.encoder.layer.0"
    assert places == {
        f"{layer}.intermediate.dense",
        f"{layer}.intermediate.intermediate_act_fn",
        f"{layer}.output.dense",
    }
    assert said["kept_in_fp32"] == 4
    assert said["by_reason"]["its numbers overflow"] >= 3
    assert off(loud, tmp_path / "fp16.onnx") < 2e-3
    assert said["max_abs_diff_to_fp32"] < 2e-3


def test_without_the_range_scan_what_overflows_is_no_number(
    text: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loud = changed(text, tmp_path, overflow)
    monkeypatch.setattr("tldeploy.exporting.precision.nodes_to_keep", lambda *_: {})
    with pytest.raises(QualityError, match="not finite"):
        make_half(loud, tmp_path / "fp16.onnx", FP16)


def test_weights_too_small_for_half_precision_keep_their_node_in_fp32(text: Source, tmp_path: Path) -> None:
    def shrink(model: ModelProto) -> None:
        node = named(model, "backbone.encoder.layer.1.output.dense/MatMul")
        node.input[1] = add(model, "tiny", 1e-7 * constant(model, node.input[1]))

    reasons = kept(changed(text, tmp_path, shrink), tmp_path)
    dense = "backbone.encoder.layer.1.output.dense"
    # The product, and what adds its result to a bias and to what went around it.
    found = {name.rpartition("_")[0] for name in reasons}
    assert {f"{dense}/MatMul"} < found <= {f"{dense}/MatMul", f"{dense}/Add", "backbone.encoder.layer.1.output/Add"}
    assert all("too small" in why for why in reasons.values())


def test_what_an_integer_is_made_of_stays_in_fp32(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["real"], "real", to=TensorProto.FLOAT),
        helper.make_node("Log", ["real"], ["log"], "log"),
        helper.make_node("Cast", ["log"], ["bucket"], "bucket", to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "bucket"], ["row"], "row"),
        helper.make_node("Tanh", ["row"], ["y"], "tanh"),
    ]
    graph = helper.make_graph(
        nodes,
        "positions",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    add(model, "table", np.linspace(0.5, 1, 20).reshape(10, 2))
    onnx.save(model, tmp_path / "graph.onnx")
    batches = [{"x": np.array([1, 5, 100, 5000])}]
    magnitudes = measure_magnitudes(tmp_path / "graph.onnx", batches, tmp_path / "scratch.onnx")
    unfit = nodes_to_keep(model, magnitudes, FP16)
    assert {node: why.kind for node, why in unfit.items()} == {
        "real": "an integer is made of it",
        "log": "an integer is made of it",
        "bucket": "an integer is made of it",
    }
    to_half(model, magnitudes, unfit, FP16)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = np.tanh(np.linspace(0.5, 1, 20).reshape(10, 2)[[0, 1, 4, 8]])
    np.testing.assert_allclose(session.run(None, batches[0])[0], expected, atol=1e-3)


@pytest.mark.parametrize(
    ("variant", "largest", "most_off"), [("int8-weights", 0.42, 5e-3), ("int4-weights", 0.34, 3e-2)]
)
@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_packed_weights_are_smaller_and_close(
    text: Source, tmp_path: Path, variant: str, target: Any, largest: float, most_off: float
) -> None:
    source, file = replace(text, settings=Export(target=target)), tmp_path / f"{variant}.onnx"
    said = VARIANTS[variant].make(source, file)["weights"][variant]
    model = onnx.load(file)
    products = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    assert len(products) == said["products"] == 12
    integers = {a.i for node in products for a in node.attribute if a.name == "accuracy_level"}
    assert integers == ({4} if target == "cpu" else set())
    assert [node.op_type for node in model.graph.node if node.name.startswith("head/")] == ["Gemm"]
    tables = {
        t.name: t.data_type for t in model.graph.initializer if "embeddings" in t.name and t.name.endswith("int8")
    }
    assert set(tables.values()) == {TensorProto.INT8}
    assert len(tables) == 2  # words and positions; two rows of token types are not worth it
    assert file.stat().st_size < largest * source.graph.stat().st_size
    assert 0 < off(source, file) < most_off


def test_packing_leaves_the_root_logger_as_it_was(text: Source, tmp_path: Path) -> None:
    import logging

    before = (logging.getLogger().level, list(logging.getLogger().handlers))
    VARIANTS["int8-weights"].make(text, tmp_path / "graph.onnx")
    assert (logging.getLogger().level, logging.getLogger().handlers) == before

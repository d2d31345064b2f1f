from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.exporting.tiny_source import answers, constant, with_a_loud_norm
from tldeploy.exporting.quantization.calibration import covering_batches
from tldeploy.exporting.quantization.dynamic import DynamicInt8
from tldeploy.exporting.quantization.judge import Judge
from tldeploy.exporting.quantization.search import quantize_within_budget
from tldeploy.exporting.quantization.smoothing import smooth, smooth_graph
from tldeploy.exporting.quantization.static import Scheme, StaticInt8
from tldeploy.exporting.source import Source
from tldeploy.recipe import Export

WIDTH = 16
RANDOM = np.random.default_rng(0)
X = [{"x": RANDOM.normal(size=(4, 5, WIDTH)).astype(np.float32)} for _ in range(3)]


@pytest.fixture(scope="module")
def text(text: Source) -> Source:
    return replace(text, settings=Export(max_drop=5))


def block(residual: bool = False, tied: bool = False) -> ModelProto:
    """A norm with a loud channel that two products read, and a second norm with the same parameters.

    residual: the norm's result is also added at the end. tied: both products have the same weights.
    """
    scale, bias = (RANDOM.normal(size=WIDTH).astype(np.float32) for _ in range(2))
    scale[3] *= 50
    matrices = {name: RANDOM.normal(size=(WIDTH, WIDTH)).astype(np.float32) for name in ("a", "b")}
    nodes = [
        helper.make_node("LayerNormalization", ["x", "scale", "bias"], ["normed"], "norm"),
        helper.make_node("MatMul", ["normed", "a"], ["left"], "left"),
        helper.make_node("MatMul", ["normed", "a" if tied else "b"], ["right"], "right"),
        helper.make_node("Add", ["left", "right"], ["sum"], "sum"),
        helper.make_node("LayerNormalization", ["sum", "scale", "bias"], ["last"], "last"),
        helper.make_node("Add", ["last", "normed" if residual else "x"], ["y"], "end"),
    ]
    shape = ["batch", "sequence", WIDTH]
    constants = {"scale": scale, "bias": bias, **matrices}
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def outputs(file: Path) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return [session.run(None, batch)[0] for batch in X]


@pytest.mark.parametrize(("residual", "done"), [(False, "folded"), (True, "inserted")])
def test_the_function_stays_the_same(residual: bool, done: str, tmp_path: Path) -> None:
    onnx.save(block(residual), tmp_path / "block.onnx")
    said = {entry["norm"]: entry for entry in smooth_graph(tmp_path / "block.onnx", tmp_path / "smooth.onnx", X)}
    assert (said["norm"]["done"], said["last"]["done"]) == (done, "")
    assert said["last"]["reason"] == "no product with constant weights reads it"
    for before, after in zip(outputs(tmp_path / "block.onnx"), outputs(tmp_path / "smooth.onnx"), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-4)
    muls = sum(node.op_type == "Mul" for node in onnx.load(tmp_path / "smooth.onnx").graph.node)
    assert muls == residual


def test_half_of_the_difficulty_moves_into_the_weights(tmp_path: Path) -> None:
    """With alpha 0.5, activations and weights of each channel reach equally far: the root of the product of both."""
    model = block()
    onnx.save(model, tmp_path / "block.onnx")
    smooth_graph(tmp_path / "block.onnx", tmp_path / "smooth.onnx", X)
    smoothed = onnx.load(tmp_path / "smooth.onnx")
    rows = np.max([np.abs(constant(smoothed, name)).max(axis=1) for name in ("a", "b")], axis=0)
    smoothed.graph.output.append(helper.make_empty_tensor_value_info("normed"))
    session = onnxruntime.InferenceSession(smoothed.SerializeToString(), providers=["CPUExecutionProvider"])
    reached = np.max([np.abs(session.run(["normed"], batch)[0]).max(axis=(0, 1)) for batch in X], axis=0)
    np.testing.assert_allclose(reached, rows, rtol=1e-4)


def test_a_channel_that_is_nothing_is_left_alone(tmp_path: Path) -> None:
    model = block()
    for tensor in model.graph.initializer:
        if tensor.name in {"scale", "bias", "a"}:
            values = numpy_helper.to_array(tensor).copy()
            values[0 if tensor.name != "a" else 1] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "block.onnx")
    smooth_graph(tmp_path / "block.onnx", tmp_path / "smooth.onnx", X)
    for before, after in zip(outputs(tmp_path / "block.onnx"), outputs(tmp_path / "smooth.onnx"), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-4)


def test_weights_that_serve_two_places_are_not_touched(tmp_path: Path) -> None:
    onnx.save(block(tied=True), tmp_path / "block.onnx")
    said = smooth_graph(tmp_path / "block.onnx", tmp_path / "smooth.onnx", X)
    assert {"norm": "norm", "done": "", "reason": "its weights serve other places as well"} in said
    assert (tmp_path / "block.onnx").read_bytes() == (tmp_path / "smooth.onnx").read_bytes()


def test_a_transformer_answers_the_same_when_smoothed(text: Source, tmp_path: Path) -> None:
    for source in (text, with_a_loud_norm(text, tmp_path / "loud.onnx")):
        said = smooth(source, tmp_path / "smooth.onnx")
        assert sum(entry["done"] == "inserted" for entry in said) == 4
        before = answers(text.graph, text.task, text.validation)
        np.testing.assert_allclose(answers(source.graph, text.task, text.validation), before, atol=1e-4)
        np.testing.assert_allclose(answers(tmp_path / "smooth.onnx", text.task, text.validation), before, atol=1e-4)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_transformer_with_a_loud_channel_breaks_in_int8_and_is_mended_by_smoothing(
    text: Source, tmp_path: Path, kind: str
) -> None:
    loud = with_a_loud_norm(text, tmp_path / "loud.onnx")
    batches = covering_batches(text.task, text.calibration, 96)

    def make(graph: Path) -> DynamicInt8 | StaticInt8:
        return (
            DynamicInt8(graph, reduce_range=True)
            if kind == "dynamic"
            else StaticInt8(graph, batches, Scheme(reduce_range=True))
        )

    naive = tmp_path / "naive.onnx"
    make(loud.graph).write(naive)
    judge = Judge(loud)
    assert judge.drop(naive).points > 5
    found = quantize_within_budget(make, loud, tmp_path / "mended.onnx")
    assert found["smoothed"]
    assert judge.drop(tmp_path / "mended.onnx").points <= 5
    assert judge.loss(tmp_path / "mended.onnx") < judge.loss(naive) / 10


def test_what_is_within_the_budget_is_not_smoothed(text: Source, tmp_path: Path) -> None:
    source = replace(text, settings=Export(max_drop=100))
    found = quantize_within_budget(DynamicInt8, source, tmp_path / "int8.onnx")
    assert (found["smoothed"], found["smoothing"], len(found["steps"])) == (False, [], 1)

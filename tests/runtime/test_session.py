"""Where a session runs. What needs a GPU is not here: no machine that runs these tests is known to have one."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as own

from tests.drivers import without_gpu
from tests.runtime.full import FULL, FullGpu, on_a_full_gpu
from tldeploy import artifacts
from tldeploy.devices import preload
from tldeploy.errors import MachineError
from tldeploy.measuring.profiling import profile
from tldeploy.runtime.onnx import OnnxRunner
from tldeploy.runtime.session import (
    COMPUTE,
    compute_on_the_cpu,
    missing_library,
    open_session,
    precisions_of,
    providers_for,
    running,
)
from tldeploy.tasks import load_task
from tldeploy.tasks.classification import Classification


def recorded(model: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return open_session(model, options=options)


def test_what_computes_on_the_cpu_is_named(tiny_export: Path) -> None:
    assert compute_on_the_cpu(recorded(tiny_export / "fp32.onnx")) == {"MatMul", "Softmax"}


def test_arithmetic_on_shapes_is_no_computation(tmp_path: Path) -> None:
    """The CUDA provider leaves such nodes to the CPU on purpose."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "x"], ["lengths"]),
        helper.make_node("Mul", ["lengths", "lengths"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.INT64, ["n"]) for name in "xy")
    model = helper.make_model(
        helper.make_graph(nodes, "shapes", [x], [y]), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    onnx.save(model, tmp_path / "shapes.onnx")
    assert compute_on_the_cpu(recorded(tmp_path / "shapes.onnx")) == set()


def test_fp32_is_fp32_and_open_shapes_are_not_searched_unless_a_caller_says_so(tiny_export: Path) -> None:
    graph = tiny_export / "fp32.onnx"
    exact = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    assert providers_for(graph, "CUDAExecutionProvider", {}) == [("CUDAExecutionProvider", exact)]
    asked = {"use_tf32": "1", "enable_cuda_graph": "1"}
    assert providers_for(graph, "CUDAExecutionProvider", asked) == [("CUDAExecutionProvider", {**exact, **asked})]
    assert providers_for(graph, "CPUExecutionProvider", {}) == [("CPUExecutionProvider", {})]


def test_tensorrt_leaves_to_cuda_what_it_cannot_do_and_may_compute_as_the_graph_says(tiny_export: Path) -> None:
    asked = {"trt_builder_optimization_level": "5"}
    first, second = providers_for(tiny_export / "fp32.onnx", "TensorrtExecutionProvider", asked)
    assert first == ("TensorrtExecutionProvider", asked)
    assert second == ("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})


@pytest.mark.parametrize(
    ("weights", "operator", "allowed"),
    [
        (TensorProto.FLOAT, "Neg", {}),
        (TensorProto.FLOAT16, "Neg", {"trt_fp16_enable": "1"}),
        (TensorProto.BFLOAT16, "Neg", {"trt_bf16_enable": "1"}),
        (TensorProto.FLOAT, "QuantizeLinear", {"trt_int8_enable": "1"}),
    ],
)
def test_the_precisions_that_tensorrt_may_use_are_those_of_the_graph(
    weights: int, operator: str, allowed: dict[str, str], tmp_path: Path
) -> None:
    weight = helper.make_tensor("w", weights, [1], [1.0])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
    node = helper.make_node(operator, ["x", "w"] if operator == "QuantizeLinear" else ["x"], ["y"])
    onnx.save(helper.make_model(helper.make_graph([node], "g", [x], [y], [weight])), tmp_path / "graph.onnx")
    assert precisions_of(tmp_path / "graph.onnx") == allowed


def test_what_fails_where_it_runs_is_not_run_again_on_the_cpu(tiny_export: Path) -> None:
    assert not open_session(tiny_export / "fp32.onnx")._enable_fallback


def test_integer_and_fused_operators_compute_too() -> None:
    """As a session would have it that leaves a quantized layer to the CPU."""
    left = ["DynamicQuantizeLinear", "MatMulInteger", "SkipLayerNormalization", "Shape", "Cast", "QuantizeLinear"]
    parts = {"CUDAExecutionProvider": ["MatMul", "Gelu"], "CPUExecutionProvider": [*left, "DequantizeLinear"]}
    info = [
        SimpleNamespace(ep_name=name, get_nodes=[SimpleNamespace(op_type=each) for each in nodes].copy)
        for name, nodes in parts.items()
    ]
    session: Any = SimpleNamespace(get_provider_graph_assignment_info=lambda: info)
    assert compute_on_the_cpu(session) == {"DynamicQuantizeLinear", "MatMulInteger", "SkipLayerNormalization"}


def test_what_computes_has_names_that_onnxruntime_knows() -> None:
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    assert {schema.name for schema in get_all_operator_schema()} >= COMPUTE


def test_a_provider_whose_library_is_missing_says_which(tiny_export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    provider = "CUDAExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no CUDA provider")
    preload(provider)
    missing = missing_library(provider)
    if missing is None:
        pytest.skip("this machine has the libraries")
    with pytest.raises(MachineError) as caught:
        open_session(tiny_export / "fp32.onnx", provider)
    assert caught.value.found == missing
    assert capsys.readouterr().out == ""
    assert re.fullmatch(r"lib[\w.]+: cannot open shared object file: No such file or directory", missing)


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
@pytest.mark.parametrize("kind", [own.RuntimeException, own.Fail, own.EPFail, own.InvalidArgument, RuntimeError])
def test_a_run_that_a_gpu_does_not_get_through_names_graph_and_provider(kind: type[Exception], provider: str) -> None:
    with pytest.raises(MachineError) as caught, running(Path("models/fp16.onnx"), provider):
        raise kind(FULL)
    assert caught.value.asked == f"run fp16.onnx on {provider}"
    assert caught.value.found.endswith("Failed to allocate memory for requested buffer of size 8388608000")
    assert "\n" not in caught.value.found
    assert "nvidia-smi" in caught.value.fix


@pytest.mark.parametrize(
    ("provider", "error"),
    [
        ("CPUExecutionProvider", own.InvalidArgument("Got invalid dimensions for input")),
        ("CPUExecutionProvider", RuntimeError("Error in execution")),
        ("CUDAExecutionProvider", ValueError("Required inputs (['attention_mask']) are missing")),
        ("CUDAExecutionProvider", NotImplementedError("ours")),
    ],
)
def test_a_wrong_input_and_a_bug_come_through_as_they_are(provider: str, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, running(Path("fp32.onnx"), provider):
        raise error
    assert caught.value is error


@pytest.fixture(scope="module")
def task(tiny_export: Path) -> Classification:
    manifest = artifacts.load(tiny_export, "export")
    return load_task(manifest.task, tiny_export, manifest.labels)


def test_a_runner_on_a_gpu_whose_memory_is_full_says_so(
    tiny_export: Path, task: Classification, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_full_gpu(monkeypatch, after=1)
    runner = OnnxRunner(tiny_export / "fp32.onnx", task, "cuda")
    assert runner.predict(["good"]).shape == (1, 3)
    with pytest.raises(MachineError, match=r"cannot run fp32\.onnx on CUDAExecutionProvider") as caught:
        runner.predict(["good"])
    assert isinstance(caught.value.__cause__, own.RuntimeException)


@without_gpu
def test_memory_for_a_shape_that_is_not_to_be_had_is_said_likewise(
    tiny_export: Path, task: Classification, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No stand-in refuses it here: onnxruntime has no GPU to bind memory on."""
    on_a_full_gpu(monkeypatch, after=1)
    runner = OnnxRunner(tiny_export / "fp32.onnx", task, "cuda", memory="bound")
    with pytest.raises(MachineError, match=r"cannot run fp32\.onnx on CUDAExecutionProvider") as caught:
        runner.predict(["good"])
    assert type(caught.value.__cause__) is RuntimeError


def test_a_profile_on_a_gpu_whose_memory_is_full_says_so(
    tiny_export: Path, task: Classification, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tldeploy.measuring.profiling.open_session", lambda graph, *_: FullGpu(open_session(graph), 1))
    with pytest.raises(MachineError, match="Failed to allocate memory"):
        profile(tiny_export / "fp32.onnx", [task.encode(["good"])], "CUDAExecutionProvider")


def test_on_the_cpu_a_wrong_input_is_onnxruntime_s_own_error(tiny_export: Path, task: Classification) -> None:
    flat = {name: values[0] for name, values in task.encode(["good"]).items()}
    with pytest.raises(own.InvalidArgument):
        OnnxRunner(tiny_export / "fp32.onnx", task).run(flat)

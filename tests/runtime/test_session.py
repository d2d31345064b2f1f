"""Where a session runs. What needs a GPU is not here: no machine that runs these tests is known to have one."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tldeploy.errors import MachineError
from tldeploy.runtime.session import compute_on_the_cpu, missing_library, open_session, preload


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


def test_a_provider_whose_library_is_missing_says_which(tiny_export: Path) -> None:
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
    assert re.fullmatch(r"lib[\w.]+: cannot open shared object file: No such file or directory", missing)

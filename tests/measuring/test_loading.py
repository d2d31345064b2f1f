from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tldeploy.errors import MachineError
from tldeploy.measuring import profiling
from tldeploy.measuring.loading import measure_loading
from tldeploy.measuring.profiling import NodeTime, placed, profile, provider_shares, refuse_strays, shares
from tldeploy.runtime.session import Provider, open_session

MEGABYTES = 40


def write_product(path: Path, megabytes: int) -> Path:
    """y = x W, with W of so many megabytes."""
    weights = np.random.default_rng(0).random((250_000 * megabytes // 100, 100), dtype=np.float32)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", len(weights)])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 100])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"], "multiply"),
        helper.make_node("Relu", ["product"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "product", [x], [y], [numpy_helper.from_array(weights, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def inputs(megabytes: int) -> dict[str, NDArray[np.float32]]:
    return {"x": np.ones((1, 250_000 * megabytes // 100), dtype=np.float32)}


def test_memory_is_what_the_weights_take_at_least(tmp_path: Path) -> None:
    large = write_product(tmp_path / "large.onnx", MEGABYTES)
    (found,) = measure_loading([large], inputs(MEGABYTES), "CPUExecutionProvider")
    assert MEGABYTES <= found.memory_mb < 5 * MEGABYTES
    assert found.load_ms > 0


def test_a_graph_that_does_not_load_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(MachineError, match=r"cannot load broken\.onnx in a process of its own"):
        measure_loading([tmp_path / "broken.onnx"], inputs(1), "CPUExecutionProvider")


def test_a_profile_has_every_node_with_its_provider(tmp_path: Path) -> None:
    nodes = profile(write_product(tmp_path / "small.onnx", 1), [inputs(1)] * 3, "CPUExecutionProvider")
    assert [(node.operator, node.provider) for node in nodes] == [
        ("MatMul", "CPUExecutionProvider"),
        ("Relu", "CPUExecutionProvider"),
    ]
    assert nodes[0].name == "multiply"
    assert provider_shares(nodes) == {"CPUExecutionProvider": 1.0}
    assert sum(shares(nodes, ["a", "b"]).values()) == pytest.approx(1)
    (found,) = placed(nodes)
    assert (found.provider, found.operators, found.share) == ("CPUExecutionProvider", {"MatMul": 1, "Relu": 1}, 1)


def test_a_profile_is_of_a_session_with_the_provider_s_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def opened(graph: Path, provider: Provider, options: Any, provider_options: Any) -> Any:
        asked.append(provider_options)
        return open_session(graph, provider, options)

    monkeypatch.setattr(profiling, "open_session", opened)
    graph = write_product(tmp_path / "small.onnx", 1)
    profile(graph, [inputs(1)], "CPUExecutionProvider", provider_options={"use_tf32": "1"})
    assert asked == [{"use_tf32": "1"}]


def test_computation_that_ran_elsewhere_than_asked_is_refused_by_its_nodes() -> None:
    nodes = [
        NodeTime("multiply", "MatMul", "CUDAExecutionProvider", 3.0),
        NodeTime("size", "Shape", "CPUExecutionProvider", 1.0),
    ]
    refuse_strays(nodes, "CUDAExecutionProvider", "m.onnx")
    assert [(found.provider, found.nodes, found.share) for found in placed(nodes)] == [
        ("CUDAExecutionProvider", 1, 0.75),
        ("CPUExecutionProvider", 1, 0.25),
    ]
    nodes += [NodeTime(f"layer.{number}", "Softmax", "CPUExecutionProvider", 1.0) for number in range(5)]
    with pytest.raises(MachineError, match=r"run m\.onnx on CUDAExecutionProvider") as caught:
        refuse_strays(nodes, "CUDAExecutionProvider", "m.onnx")
    named = "layer.0 (Softmax), layer.1 (Softmax), layer.2 (Softmax)"
    assert caught.value.found == f"{named} and 2 more ran on the CPU"


def test_the_graph_as_it_is_run_has_its_weights_in_a_file_beside(tmp_path: Path) -> None:
    """In one file, a graph of more than 2 GiB could not be written."""
    optimized = tmp_path / "optimized.onnx"
    profile(write_product(tmp_path / "small.onnx", 1), [inputs(1)], "CPUExecutionProvider", optimized)
    assert optimized.stat().st_size < 10_000
    assert (tmp_path / "optimized.onnx.data").stat().st_size >= 1_000_000

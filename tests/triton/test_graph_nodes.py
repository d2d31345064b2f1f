"""Where a served graph's nodes run, as its workers tell it in the metrics."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest

from tldeploy.errors import ServerError
from tldeploy.measuring.profiling import Placed
from tldeploy.triton import graph_nodes
from tldeploy.triton.graph_nodes import read_placement
from tldeploy.triton.server import Server

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def test_the_workers_tell_what_their_session_has(tiny_server: Server, tiny_export: Path) -> None:
    url = f"http://{tiny_server.host}:{tiny_server.metrics_port}/metrics"
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(tiny_export / "int8-dynamic.onnx", options, providers=[CPU])
    nodes = [node.op_type for part in session.get_provider_graph_assignment_info() for node in part.get_nodes()]
    assert len(nodes) == len(onnx.load(tiny_export / "int8-dynamic.onnx").graph.node)
    (told,) = read_placement(url, "tiny.graph", 1) or []
    assert told == Placed(CPU, {operator: nodes.count(operator) for operator in set(nodes)})
    assert next(iter(told.operators)) == "ReduceSum", "the most frequent first"
    assert read_placement(url, "tiny.graph", 2) is None
    assert read_placement(url, "tiny", 1) is None


def test_the_instance_that_leaves_most_to_the_cpu_speaks_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def line(device: str, provider: str, operator: str, nodes: int, model: str = "m.graph") -> str:
        of = {"device": device, "instance": f"{model}_0_0", "model": model, "version": "3"}
        of |= {"provider": provider, "operator": operator}
        inside = ",".join(f'{name}="{value}"' for name, value in of.items())
        return f"tldeploy_graph_nodes{{{inside}}} {nodes}.000000"

    lines = [
        "# TYPE tldeploy_graph_nodes gauge",
        line("GPU 0", CUDA, "MatMul", 6),
        line("GPU 1", CUDA, "MatMul", 6),
        line("GPU 1", CPU, "Shape", 1),
        line("GPU 1", CPU, "Gather", 2),
        line("GPU 0", CPU, "MatMul", 50, "n.graph"),
        'tldeploy_canary_requests_total{model="m",found="same"} 3',
    ]
    monkeypatch.setattr(graph_nodes, "fetch", lambda url: "\n".join(lines))
    told = read_placement("http://host/metrics", "m.graph", 3)
    assert told == [Placed(CUDA, {"MatMul": 6}), Placed(CPU, {"Gather": 2, "Shape": 1})]


def test_metrics_that_cannot_be_read_are_said() -> None:
    with pytest.raises(ServerError, match="cannot read the metrics at http://127"):
        read_placement("http://127.0.0.1:9/metrics", "m.graph", 1)

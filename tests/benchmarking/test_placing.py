"""Where each engine's nodes run, as the report proves it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarking.conftest import Job
from tests.benchmarking.job import write_job
from tests.engine import Engine
from tldeploy import artifacts
from tldeploy.benchmarking import placing
from tldeploy.benchmarking.placing import placements
from tldeploy.benchmarking.remarks import remarks
from tldeploy.measuring.profiling import NodeTime, Placed
from tldeploy.tasks import load_task

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def engine(name: str, provider: str, **told: Any) -> Engine:
    made = Engine(name, lambda number: 0)
    made.provider = provider
    for key, value in told.items():
        setattr(made, key, value)
    return made


def found(folder: Path, *engines: Engine) -> list[list[Placed] | None]:
    _, exported = write_job(folder, rows=3)
    manifest = artifacts.load(exported, "export")
    task = load_task(manifest.task, exported, manifest.labels)
    return placements(engines, exported, manifest.details["variants"], ["0", "1", "2"], task)


def test_a_graph_is_profiled_a_server_is_believed_and_others_have_no_providers(tmp_path: Path) -> None:
    told = [Placed(CUDA, {"MatMul": 3})]
    torch = engine("torch eager", "cpu")
    alone = engine("onnxruntime int8-dynamic", CPU)
    served = engine("triton http", "Triton 2.51.0, onnxruntime", placement=told)
    silent = engine("triton grpc", "Triton 2.62.0, onnxruntime")
    profiled = found(tmp_path, torch, alone, served, silent)
    assert (profiled[0], profiled[2], profiled[3]) == (None, told, None)
    assert profiled[1] is not None
    (all_of_it,) = profiled[1]
    assert (all_of_it.provider, all_of_it.share) == (CPU, 1)
    assert all_of_it.operators["MatMul"] == all_of_it.operators["Softmax"] == 1


def test_a_graph_is_profiled_as_its_engine_opened_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def profile(graph: Path, rows: Any, provider: str, *, provider_options: Any) -> list[NodeTime]:
        asked.append((graph.name, len(rows), provider, provider_options))
        return [NodeTime("multiply", "MatMul", CUDA, 1.0), NodeTime("size", "Shape", CPU, 3.0)]

    monkeypatch.setattr(placing, "profile", profile)
    options = {"use_tf32": "1", "prefer_nhwc": "1"}
    captured = {"settings": {"options": options, "memory": "captured"}}
    (placed,) = found(tmp_path, engine("onnxruntime int8-dynamic", f"{CUDA}, captured, use_tf32 1", **captured))
    assert asked == [("int8-dynamic.onnx", 3, CUDA, options)]
    assert placed == [Placed(CUDA, {"MatMul": 1}, 0.25), Placed(CPU, {"Shape": 1}, 0.75)]


def test_the_report_has_nodes_and_time_of_every_engine_that_has_providers(job: Job) -> None:
    torch, int8, served = (each["placement"] for each in job.report["engines"])
    assert torch is None
    assert [(part["provider"], part["share"]) for part in int8] == [(CPU, 1)]
    assert int8[0]["nodes"] == sum(int8[0]["operators"].values()) == 9
    assert [(part["provider"], part["nodes"], part["share"]) for part in served] == [(CUDA, 10, None), (CPU, 7, None)]
    assert "<td>CUDAExecutionProvider</td>" in job.page
    assert "MatMul 6, Softmax 4" in job.page
    markdown = (job.folder / "report.md").read_text(encoding="utf-8")
    assert "| triton http | CPUExecutionProvider | 7 |  | Shape 2," in markdown


def test_nodes_elsewhere_and_servers_that_do_not_tell_are_remarked(job: Job) -> None:
    said = [line for line in remarks(job.report) if "nodes" in line]
    assert said == [
        "triton http: 7 of 17 nodes are on CPUExecutionProvider, not on CUDAExecutionProvider: "
        "Shape, Gather, Concat, Slice, Cast, …"
    ]
    report = copy.deepcopy(job.report)
    report["engines"][1]["placement"].append({"provider": CPU, "nodes": 1, "share": 0.002, "operators": {"Shape": 1}})
    report["engines"][1]["placement"][0] |= {"provider": CUDA, "share": 0.998}
    report["engines"][2]["placement"] = None
    said = [line for line in remarks(report) if "nodes" in line]
    assert said == [
        "onnxruntime int8-dynamic: 1 of 10 nodes and 0.2% of the host's time are on CPUExecutionProvider, "
        "not on CUDAExecutionProvider: Shape",
        "triton http: its server does not tell which execution provider runs the graph's nodes",
    ]
    for each in report["engines"]:
        del each["placement"]  # as older reports
    assert remarks(report)

"""bench/gpu.py as far as it goes without a GPU: its engines on a CPU, its record, its tables and what it claims."""

from __future__ import annotations

import gc
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from bench.figures import gpu as tables
from tldeploy import artifacts
from tldeploy.data.rows import Rows
from tldeploy.errors import MachineError, TldeployError, UsageError
from tldeploy.runtime.session import open_session
from tldeploy.tasks import load_task
from tldeploy.tasks.classification import Classification

sys.path.append(str(Path(__file__).parent.parent / "bench"))
gpu_engine, gpu_engines, gpu_record, gpu_served = (
    importlib.import_module(f"gpu_{name}") for name in ("engine", "engines", "record", "served")
)

TEXTS = ["good", "a bad one, and long", "good and bad"]
ENVIRONMENT = {"cpu": "a CPU", "gpus": [{"name": "NVIDIA H100"}], "packages": {"torch": "2.11.0"}, "cores": 16}
MACHINE = {"bytes_per_s": 4e12, "fp32_per_s": 5e13, "tf32_per_s": 4e14, "fp16_per_s": 8e14, "bf16_per_s": 8e14}
ABOUT = {
    "parameters": 20_000_000,
    "operations": {"1 x 128": 4_000_000_000, "128 x 128": 512_000_000_000},
    "input_bytes": {"1 x 128": 2048, "128 x 128": 262_144},
}
EAGER, PLAIN, CAPTURED, COMPILED, SERVED = (
    "torch fp32",
    "onnxruntime fp16",
    "onnxruntime fp16 captured",
    "compile fp16 reduce-overhead",
    "served fp16 gRPC",
)


def rounds(wall_ms: float, device_ms: float | None = None, turned: int = 0) -> dict[str, list[float]]:
    """Three rounds that scatter by a percent. turned: another number scatters by itself."""
    noise = np.roll([0.99, 1.0, 1.01], turned)
    device = {} if device_ms is None else {"device_ms": (device_ms * noise).tolist()}
    return {"wall_ms": (wall_ms * noise).tolist(), **device}


def result(**requests: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """What is recorded of a subject; requests: their rounds, `one` of a row and `many` of 128."""
    named = {"one": "1 x 128", "many": "128 x 128"}
    return {
        "machine": MACHINE,
        "about": ABOUT,
        "requests": {
            named[request]: {
                "rounds": taken,
                "off": dict.fromkeys(taken, 2e-4),
                "busy": {CAPTURED: {"utilisation_percent": 71.4, "memory_mb": 812.6}},
                "left_out": {},
            }
            for request, taken in requests.items()
        },
    }


def claimed(request: str, found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(verdict, by) for _, verdict, by in tables.claimed(request, found["requests"][request]["rounds"], found)]


def test_claims_hold_for_the_fastest_way_to_run_the_fp16_graph() -> None:
    found = result(one={EAGER: rounds(6, 5), PLAIN: rounds(3, 1), CAPTURED: rounds(1, 0.02), COMPILED: rounds(2, 1)})
    times_eager, against_compiled, distance = claimed("1 x 128", found)
    assert times_eager[0] == against_compiled[0] == "holds"
    assert times_eager[1].startswith(f"{CAPTURED}: 6.00 [")
    assert against_compiled[1].startswith(f"ahead of {COMPILED}: 2.00 [")
    assert distance == ("50% of it", CAPTURED)  # 40 MB of weights at 4 TB/s take 0.01 ms


def test_claims_fail_where_the_interval_does_not_bear_them_out() -> None:
    found = result(one={EAGER: rounds(3.02, 3, 1), PLAIN: rounds(1, 0.1), COMPILED: rounds(0.9, 0.1)})
    times_eager, against_compiled, _ = claimed("1 x 128", found)
    assert times_eager[0] == "does not hold"  # 3.02, but it may be less than 3
    assert against_compiled == ("does not hold", f"behind {COMPILED}: 0.90 [0.90, 0.90]")


def test_level_with_a_peer_is_not_behind_it() -> None:
    (against, _) = claimed("128 x 128", result(many={PLAIN: rounds(1.001, 1), COMPILED: rounds(1, 1, 1)}))
    assert against[0] == "holds"
    assert against[1].startswith("level with")


def test_what_was_not_measured_is_said_to_be_so() -> None:
    found = result(one={EAGER: rounds(3, 3), SERVED: rounds(2)})
    assert claimed("1 x 128", found) == [("not measured", "")] * 3


def test_the_limit_is_the_slower_of_computing_and_moving() -> None:
    moving_ms, computing_ms = 1000 * (40e6 + 2048) / 4e12, 1000 * 512e9 / 8e14
    assert tables.limit_ms(PLAIN, ABOUT, MACHINE, "1 x 128") == pytest.approx(moving_ms)
    assert tables.limit_ms(PLAIN, ABOUT, MACHINE, "128 x 128") == pytest.approx(computing_ms)
    assert tables.limit_ms("torch tf32", ABOUT, MACHINE, "128 x 128") == pytest.approx(2 * computing_ms)
    weights_ms = 1000 * (10e6 + 2048) / 4e12
    assert tables.limit_ms("onnxruntime int4-weights", ABOUT, MACHINE | {"fp32_per_s": 1e18}, "1 x 128") == (
        pytest.approx(weights_ms)
    )


def test_the_page_has_a_line_an_engine_and_says_why_others_have_none(tmp_path: Path) -> None:
    record = gpu_record.Record(tmp_path, ENVIRONMENT, "cuda", None)
    found = record.of("minilm")
    found |= result(one={EAGER: rounds(6, 5), CAPTURED: rounds(1, 0.02), SERVED: rounds(2)})
    found["requests"]["1 x 128"]["left_out"] = {
        "served fp32 HTTP": "no GPU instances",
        "served fp32 gRPC": "no GPU instances",
    }
    found["placement"] = {"fp16": {"CUDAExecutionProvider": 0.995, "CPUExecutionProvider": 0.005}}
    drop = {"points": 0.1, "low": -0.2, "high": 0.4, "agreement": 0.998}
    metric = {"value": 0.78, "low": 0.75, "high": 0.81}
    found["quality"] = {
        "rows": 512,
        "metric": "weighted F1",
        "budget_points": 0.5,
        "engines": {
            PLAIN: {"metric": metric, "drop": drop},
            "onnxruntime int4-weights": {"metric": metric, "drop": drop | {"points": 0.7}},
        },
    }
    lines = tables.page(record.content).splitlines()
    assert lines[0].startswith(
        "NVIDIA H100; copying 4.00 TB/s counted both ways; matrix products in TFLOP/s: fp32 50.0"
    )
    assert "| torch fp32 | 6.000 | 1.00 [1.00, 1.00] | 5.000 | 1.00 [1.00, 1.00] | 2% |  |  | 2e-04 |" in lines
    captured = next(line for line in lines if line.startswith(f"| {CAPTURED} | 1.000"))
    assert captured.endswith("| 50% | 71 | 813 | 2e-04 |")
    assert next(line for line in lines if line.startswith(f"| {SERVED}")).endswith("|  |  |  |  |  | 2e-04 |")
    assert "served fp32 HTTP, served fp32 gRPC: not measured: no GPU instances" in lines
    assert f"| {PLAIN} | 0.780 [0.750, 0.810] | +0.10 [-0.20, +0.40] | yes | 0.998 |" in lines
    assert next(line for line in lines if "+0.70" in line).endswith("| no | 0.998 |")
    assert "| onnxruntime fp16 | CUDAExecutionProvider 99.5%, CPUExecutionProvider 0.5% |" in lines


def test_a_machine_that_tells_nothing_of_its_gpu_says_why(tmp_path: Path) -> None:
    record = gpu_record.Record(tmp_path, ENVIRONMENT, "cpu", "libnvidia-ml.so.1: cannot open shared object file")
    assert tables.page(record.content).splitlines()[0].startswith("a CPU, no GPU.")
    assert "are not told here: libnvidia-ml.so.1: cannot open" in tables.page(record.content)


def test_a_record_is_gone_on_with_and_loses_nothing(tmp_path: Path) -> None:
    first = gpu_record.Record(tmp_path, ENVIRONMENT, "cuda", None)
    first.of("minilm").update(result(one={EAGER: rounds(6, 5)}))
    first.keep()
    second = gpu_record.Record(tmp_path, ENVIRONMENT, "cuda", None)
    assert second.missing("minilm", ["1 x 128", "128 x 128"]) == ["128 x 128"]
    assert second.missing("resnet50", ["1 x 224"]) == ["1 x 224"]
    second.of("resnet50")["about"] = ABOUT
    second.keep()
    written = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert written["results"]["minilm"] == first.of("minilm")
    assert written["results"]["resnet50"] == {"about": ABOUT}


@pytest.mark.parametrize(
    ("environment", "device", "other"),
    [
        (ENVIRONMENT | {"packages": {"torch": "2.13.0"}}, "cuda", "packages"),
        (ENVIRONMENT | {"gpus": [{"name": "NVIDIA H200"}]}, "cuda", "gpus"),
        (ENVIRONMENT, "cpu", "device"),
    ],
)
def test_a_record_is_of_one_machine(tmp_path: Path, environment: dict[str, Any], device: str, other: str) -> None:
    gpu_record.Record(tmp_path, ENVIRONMENT, "cuda", None).keep()
    with pytest.raises(UsageError, match=f"its {other} were others"):
        gpu_record.Record(tmp_path, environment, device, None)


class Standing(gpu_engines.Engine):  # type: ignore[misc, name-defined]
    """An engine that only stands there."""

    def time(self, inputs: Path, times: int) -> dict[str, list[float]]:
        return {"wall_ms": [1.0] * times}

    def keep_busy(self, inputs: Path, seconds: float) -> None: ...

    def answer(self, inputs: Path) -> Any: ...

    def memory_mb(self) -> None: ...

    def close(self) -> None:
        self.closed = True


def test_engines_are_opened_once_but_one_that_failed_at_a_request_again_for_the_next() -> None:
    opened: list[str] = []

    def opening(name: str) -> Any:
        def found() -> Standing:
            opened.append(name)
            if name == "absent":
                raise MachineError("open it", "there is no GPU", "use the CPU")
            return Standing()

        return found

    engines = gpu_engines.Engines({name: opening(name) for name in (EAGER, "absent", "torch fp16")}, at_once=2)
    first = engines.for_request("1 x 16")
    assert list(first) == [EAGER, "torch fp16"]
    assert engines.refused == {"absent": "there is no GPU"}
    engines.drop("torch fp16")
    assert first["torch fp16"].closed
    assert list(engines.for_request("8 x 16")) == [EAGER, "torch fp16"]
    assert sorted(opened) == sorted([EAGER, "absent", "torch fp16", "torch fp16"])


def test_what_takes_minutes_to_compile_is_asked_some_shapes_only() -> None:
    shapes = ["1 x 16", "1 x 128", "8 x 224"]
    assert gpu_engines.takes("compile fp16 max-autotune", shapes) == ["1 x 128"]
    assert gpu_engines.takes("compile fp16", shapes) == shapes


def test_every_variant_is_run_in_each_way_and_on_a_gpu_in_those_that_only_it_knows() -> None:
    graphs = {variant: Path(f"{variant}.onnx") for variant in ("fp32", "fp16")}
    here = gpu_engines.wanted(graphs, Path("torch"), "cpu", None, convolutional=True)
    there = gpu_engines.wanted(graphs, Path("torch"), "cuda", None, convolutional=True)
    ways = [f"onnxruntime {variant}{how}" for variant in graphs for how in ("", " bound", " captured")]
    assert list(here) == [*gpu_engines.EAGER_HERE, *ways]
    assert set(there) - set(here) == {
        *gpu_engines.COMPILED,
        "torch bf16",
        "torch tf32",
        "onnxruntime fp32 captured tf32",
        "onnxruntime fp16 captured exhaustive",
        "onnxruntime fp16 captured exhaustive nhwc",
    }


@pytest.fixture(scope="module")
def task(tiny_export: Path) -> Classification:
    manifest = artifacts.load(tiny_export, "export")
    return load_task(manifest.task, tiny_export, manifest.labels)


@pytest.fixture(scope="module")
def inputs(task: Classification, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("inputs") / "inputs.npz"
    np.savez(file, **task.encode(TEXTS))
    return file


@pytest.mark.parametrize("kind", ["onnxruntime", "onnxruntime bound"])
def test_an_engine_in_a_process_answers_and_is_timed(kind: str, tiny_export: Path, inputs: Path) -> None:
    graph = tiny_export / "fp32.onnx"
    engine = gpu_engines.Process(kind, graph, "cpu", None)
    try:
        assert engine.proof["providers"] == ["CPUExecutionProvider"]
        took = engine.time(inputs, 4)
        assert [len(took["wall_ms"]), len(took["device_ms"])] == [4, 4]
        expected = open_session(graph).run(None, dict(np.load(inputs)))[0]
        np.testing.assert_allclose(engine.answer(inputs), expected, atol=1e-6)
        with pytest.raises(TldeployError, match="No such file"):
            engine.answer(inputs.with_name("none.npz"))
        assert len(engine.time(inputs, 2)["wall_ms"]) == 2  # and it goes on
    finally:
        engine.close()


def test_an_engine_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"no graph")
    with pytest.raises(MachineError, match="Protobuf parsing failed"):
        gpu_engines.Process("onnxruntime", tmp_path / "no.onnx", "cpu", None)


def test_what_c_code_writes_on_standard_output_is_no_answer(
    tiny_export: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that writes whenever the engine reads its inputs, below Python's own standard output."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, numpy\n"
        "load = numpy.load\n"
        "numpy.load = lambda *given: os.write(1, b'autotuning\\n') and load(*given)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    graph = tiny_export / "fp32.onnx"
    engine = gpu_engines.Process("onnxruntime", graph, "cpu", None)
    try:
        expected = open_session(graph).run(None, dict(np.load(inputs)))[0]
        np.testing.assert_allclose(engine.answer(inputs), expected, atol=1e-6)
        assert len(engine.time(inputs, 2)["wall_ms"]) == 2
    finally:
        engine.close()


@pytest.mark.parametrize("line", ["autotuning", "3"])
def test_an_engine_whose_line_is_no_answer_fails_alone_and_with_why(
    line: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_engines, "__file__", str(tmp_path / "gpu_engines.py"))
    (tmp_path / "gpu_engine.py").write_text(
        f"print('{{\"proof\": {{}}}}', flush=True)\ninput()\nprint('{line}\\n{{}}', flush=True)\ninput()\n"
    )
    engine = gpu_engines.Process("torch fp32", tmp_path, "cpu", None)
    for _ in range(2):  # the answer to the first request is not taken for one to the second
        with pytest.raises(MachineError) as caught:
            engine.time(inputs, 1)
        assert caught.value.found == f"it wrote '{line}', which is no answer"
    engine.close()
    (tmp_path / "gpu_engine.py").write_text(f"print('{line}', flush=True)\n")
    engines = gpu_engines.Engines({"one": lambda: gpu_engines.Process("one", tmp_path, "cpu", None)}, at_once=1)
    assert engines.for_request("1 x 16") == {}
    assert engines.refused == {"one": f"it wrote '{line}', which is no answer"}


def test_what_the_machine_s_limits_are_measured_with_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    limits = importlib.import_module("gpu_limits")
    monkeypatch.setattr(limits, "SMALL_SIZE", 67)
    sizes = [(limits.FEW_BYTES,), (limits.SMALL_SIZE, limits.SMALL_SIZE)]
    held: list[int] = []

    def counted() -> int:
        return sum(type(each) is torch.Tensor and tuple(each.shape) in sizes for each in gc.get_objects())

    before = counted()
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: held.append(counted() - before))
    found = limits.measured("cpu")
    assert held == [0]
    assert set(found) == {"bytes_per_s", "fp32_per_s", "tf32_per_s", "fp16_per_s", "bf16_per_s"}
    assert all(value > 0 for value in found.values())


def test_a_graph_is_served_and_answers_as_it_does_by_itself(
    tiny_export: Path, task: Classification, inputs: Path, tmp_path: Path
) -> None:
    graph = tiny_export / "fp32.onnx"
    expected = open_session(graph).run(None, dict(np.load(inputs)))[0]
    with gpu_served.serving({"fp32": graph}, task, "cpu", tmp_path, None) as openings:
        assert list(openings) == ["served fp32 HTTP", "served fp32 gRPC", "served fp32 shared memory"]
        for opening in openings.values():
            engine = opening()
            np.testing.assert_allclose(engine.answer(inputs), expected, atol=1e-6)
            assert len(engine.time(inputs, 3)["wall_ms"]) == 3
            assert psutil.Process(engine._worker).name().startswith("triton_python")
            engine.close()


def test_where_no_server_is_to_be_had_each_served_engine_says_why(
    tiny_export: Path, task: Classification, tmp_path: Path
) -> None:
    folder = tmp_path / "with a space"
    with gpu_served.serving({"fp32": tiny_export / "fp32.onnx"}, task, "cpu", folder, None) as openings:
        engines = gpu_engines.Engines(openings, at_once=1)
        assert engines.for_request("1 x 16") == {}
    assert list(engines.refused) == list(openings)
    assert set(engines.refused.values()) == {"Triton's workers hang below a path with spaces"}


def test_half_precision_is_within_rounding_of_fp32(tmp_path: Path) -> None:
    from tests.tiny_project import write_backbone
    from tldeploy.backbones.checkpoints import load_weights
    from tldeploy.backbones.network import TextNetwork

    write_backbone(tmp_path / "backbone")
    TextNetwork(load_weights(str(tmp_path / "backbone"), None, "test"), "mean", 3).eval().save(tmp_path / "network")
    given = {name: np.ones((2, 8), dtype=np.int64) for name in ("input_ids", "attention_mask")}
    half, whole = (gpu_engine.opened(f"torch {kind}", tmp_path / "network", "cpu") for kind in ("bf16", "fp32"))
    assert half.proof() == {"weights": ["cpu, torch.bfloat16"]}
    assert 0 < np.abs(half.answer(given) - whole.answer(given)).max() < 2e-2


def test_of_an_embedding_s_table_a_request_reads_next_to_nothing() -> None:
    from torch import nn

    suite = importlib.import_module("gpu")
    assert suite.weights_read(nn.Sequential(nn.Embedding(1000, 4), nn.Linear(4, 2))) == 4 * 2 + 2


class Scored(Standing):
    """Answers with the first class, or not at all."""

    def __init__(self, fails: bool) -> None:
        self._fails = fails

    def answer(self, inputs: Path) -> Any:
        if self._fails:
            raise MachineError("run it", "out of memory", "use the CPU")
        return np.eye(3, dtype=np.float32)[np.zeros(len(np.load(inputs)["input_ids"]), dtype=int)]


def test_an_engine_that_cannot_be_scored_is_left_out_with_why(
    task: Classification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = importlib.import_module("gpu")
    Rows(TEXTS, np.array([0, 1, 0])).save(tmp_path / "test.jsonl")
    monkeypatch.setattr(suite, "TUNED", tmp_path)
    subject = SimpleNamespace(name="minilm", task=task)

    def scored(**fails: bool) -> Any:
        openings = {name.replace("_", " "): lambda fails=fails: Scored(fails) for name, fails in fails.items()}
        engines = gpu_engines.Engines(openings, at_once=1)
        job = SimpleNamespace(subject=subject, few=True, found={}, engines=engines, scratch=tmp_path)
        suite.quality(job)
        return job.found["quality"]

    found = scored(torch_fp32=False, onnxruntime_fp16=True, onnxruntime_fp32=False)
    assert list(found["engines"]) == [EAGER, "onnxruntime fp32"]
    assert found["engines"]["onnxruntime fp32"]["drop"]["agreement"] == 1
    assert found["left_out"] == {PLAIN: "out of memory"}
    assert f"{PLAIN}: not measured: out of memory" in tables.quality("minilm", found)
    with pytest.raises(MachineError, match="out of memory"):
        scored(torch_fp32=True, onnxruntime_fp32=False)


def test_without_a_gpu_it_is_refused_in_one_message(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    suite = importlib.import_module("gpu")
    with pytest.raises(MachineError, match="PyTorch finds no CUDA GPU here"):
        suite.run(["resnet50"], ["speed"], "cuda", tmp_path)
    assert list(tmp_path.iterdir()) == []

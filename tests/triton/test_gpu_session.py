"""Instances on a GPU, as the workers open them: a stand-in for what onnxruntime finds, real refusals where it can."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime
import pytest

from tests.tiny import make_graph
from tests.triton.test_options import EVERYTHING, as_the_worker_gets_it, graph
from tldeploy.recipe import Cuda, Deploy
from tldeploy.triton.backends.onnxruntime import graph_session
from tldeploy.triton.backends.onnxruntime.graph_session import make_session, missing_library, remedy

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
ROOT = Path(__file__).parents[2]
LINKED = ("libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10", "libcudart.so.13")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(make_graph(50, 3, seed=0), tmp_path / "model.onnx")
    return tmp_path


class Found:
    """What onnxruntime would open on a machine with a GPU. placed: provider to nodes, as (name, operator)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, placed: Mapping[str, Sequence[tuple[str, str]]]) -> None:
        self.placed, self.providers, self.asked = placed, list(placed), []  # type: ignore[var-annotated]
        monkeypatch.setattr(graph_session.ort, "InferenceSession", self.open)
        monkeypatch.setattr(graph_session.ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])

    def open(self, path: str, options: Any, providers: Any, enable_fallback: bool) -> Any:
        assert not enable_fallback, "a run that fails on the GPU would be done again on the CPU"
        assert options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"
        self.asked = providers
        return self

    def get_providers(self) -> list[str]:
        return self.providers

    def get_provider_graph_assignment_info(self) -> list[Any]:
        nodes = {
            name: [SimpleNamespace(name=node, op_type=operator) for node, operator in found]
            for name, found in self.placed.items()
        }
        return [SimpleNamespace(ep_name=name, get_nodes=lambda each=each: each) for name, each in nodes.items()]


@pytest.mark.parametrize("number", ["0", "1"])
def test_each_instance_opens_its_own_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    found = Found(monkeypatch, {CUDA: [("multiply", "MatMul")], CPU: [("size", "Shape"), ("", "Gather")]})
    described = graph(Deploy(device="cuda", cuda=Cuda(gpus=[0, 1], use_tf32=False), instances=2))
    (group,) = described.instance_group
    assert (group.kind, list(group.gpus), group.count) == (group.KIND_GPU, [0, 1], 2)
    make_session(folder, as_the_worker_gets_it(described), "GPU", number)
    options = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC", "device_id": number}
    assert found.asked == [(CUDA, options)]


def test_tensorrt_may_leave_to_cuda_what_it_cannot_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Found(monkeypatch, {TENSORRT: [("all", "TRTKernel")], CUDA: [("multiply", "MatMul")], CPU: []})
    make_session(folder, as_the_worker_gets_it(graph(EVERYTHING)), "GPU", "2")
    assert [name for name, _ in found.asked] == [TENSORRT, CUDA]


def test_computation_that_would_be_left_to_the_cpu_is_refused_by_its_nodes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [("", "Softmax"), *((f"layer.{number}", "MatMulNBits") for number in range(4)), ("size", "Shape")]
    Found(monkeypatch, {CUDA: [("multiply", "MatMul")], CPU: left})
    with pytest.raises(ValueError, match="asks for CUDAExecutionProvider; it would leave") as caught:
        make_session(folder, as_the_worker_gets_it(graph(Deploy(device="cuda"))), "GPU", "0")
    assert "Softmax, layer.0 (MatMulNBits), layer.1 (MatMulNBits) and 2 more to the CPU; publish" in str(caught.value)


def test_another_provider_than_asked_for_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Found(monkeypatch, {CPU: []})
    monkeypatch.setattr(graph_session, "missing_library", lambda provider: None)
    found.providers = [CPU]
    with pytest.raises(ValueError, match="onnxruntime would use CPUExecutionProvider; `pip install"):
        make_session(folder, as_the_worker_gets_it(graph(Deploy(device="cuda"))), "GPU", "0")


def test_an_onnxruntime_without_the_provider_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_session.ort, "get_available_providers", lambda: [CPU])
    with pytest.raises(ValueError, match="was built without CUDAExecutionProvider; `pip install 'onnxruntime-gpu"):
        make_session(folder, as_the_worker_gets_it(graph(Deploy(device="cuda"))), "GPU", "0")


def test_a_captured_cuda_graph_is_refused(folder: Path) -> None:
    described = graph(Deploy(device="cuda"))
    accelerators = described.optimization.execution_accelerators.gpu_execution_accelerator
    accelerators.add(name="cuda", parameters={"enable_cuda_graph": "1"})
    with pytest.raises(ValueError, match="enable_cuda_graph is requested"):
        make_session(folder, as_the_worker_gets_it(described), "GPU", "0")


def test_a_graph_that_is_no_graph_is_not_blamed_on_the_gpu(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(Exception, match="Protobuf parsing failed"):
        make_session(folder, {"name": "m", "input": [], "output": []}, "CPU", "0")


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("libcuda.so.1: cannot open", "install NVIDIA's driver"),
        ("libnvinfer.so.10: cannot open", "put TensorRT's libraries on LD_LIBRARY_PATH"),
        ("libnvonnxparser.so.10: cannot open", "put TensorRT's libraries on LD_LIBRARY_PATH"),
        ("libnvrtc.so.13: cannot open", "`pip install 'onnxruntime-gpu[cuda,cudnn]'` where tldeploy is installed"),
        ("libcudnn.so.9: cannot open", "`pip install 'onnxruntime-gpu[cuda,cudnn]'` where tldeploy is installed"),
    ],
)
def test_what_is_missing_has_its_remedy(missing: str, said: str) -> None:
    assert remedy(missing).startswith(said)


def test_a_library_that_is_found_is_not_missing_whatever_else_is_wrong() -> None:
    def load(name: str) -> None:
        raise OSError("libcuda.so.1: version `libcuda.so.1' not found")

    assert missing_library(CUDA, load) is None
    assert missing_library(CPU, load) is None


@pytest.mark.skipif(CUDA not in onnxruntime.get_available_providers(), reason="this onnxruntime has no CUDA provider")
@pytest.mark.parametrize(
    ("there", "named"), [((), LINKED[0]), (LINKED, "libcuda.so.1"), ((*LINKED, "libcuda.so.1"), "libcudnn.so.9")]
)
def test_the_missing_library_is_named_until_none_is(tmp_path: Path, there: tuple[str, ...], named: str) -> None:
    """Stand-ins on the loader's path are found, as what pip installed beside tldeploy is."""
    for library in there:
        shutil.copyfile(
            Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_shared.so", tmp_path / library
        )
    code = (
        "from tldeploy.triton.backends.onnxruntime.graph_session import missing_library; "
        f"print(missing_library({CUDA!r}))"
    )
    variables = {"PYTHONPATH": str(ROOT), "LD_LIBRARY_PATH": str(tmp_path), "PATH": os.environ["PATH"]}
    found = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    if "None" in found.stdout:
        pytest.skip("this machine has the libraries")
    assert found.stdout == f"{named}: cannot open shared object file: No such file or directory\n"

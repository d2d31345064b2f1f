"""What only a GPU can show. `pytest -m gpu` runs these, and skips them where there is none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.exporting.tiny_source import text_source
from tldeploy.devices import lacking
from tldeploy.exporting.half import FP16
from tldeploy.exporting.precision import make_half
from tldeploy.exporting.source import Source
from tldeploy.measuring.nvml import Memory, find_gpus
from tldeploy.measuring.profiling import profile
from tldeploy.recipe import Export
from tldeploy.runtime.bound import BoundGraph
from tldeploy.runtime.session import COMPUTE, compute_on_the_cpu, open_session
from tldeploy.triton.backends.onnxruntime.resident import Resident, any_resident, on_host, places, run_bound

LACK = lacking("cuda", ["torch", "onnxruntime"])
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(LACK is not None, reason=LACK.found if LACK else "")]

CUDA = "CUDAExecutionProvider"
SHAPES = [(1, 8), (4, 8), (1, 16), (4, 8), (1, 8)]
EXACT = {"use_tf32": "0"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return text_source(tmp_path_factory.mktemp("text"), Export(target="cuda"))


def tensors(shape: tuple[int, int], seed: int) -> dict[str, NDArray[Any]]:
    ids = np.random.default_rng(seed).integers(1, 60, shape)
    return {"input_ids": ids, "attention_mask": np.ones(shape, dtype=np.int64)}


def on_the_cpu(graph: Path, given: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = open_session(graph).run(["probabilities"], dict(given))[0]
    return found


def test_a_session_computes_on_the_gpu_and_answers_as_on_the_cpu(source: Source) -> None:
    session = open_session(source.graph, CUDA, provider_options=EXACT)
    assert session.get_providers()[0] == CUDA
    assert compute_on_the_cpu(session) == set()
    given = tensors((4, 16), 0)
    np.testing.assert_allclose(session.run(None, given)[0], on_the_cpu(source.graph, given), atol=1e-5)


def test_the_profile_finds_every_node_that_computes_there(source: Source) -> None:
    nodes = profile(source.graph, [tensors((8, 32), 0)] * 3, CUDA, provider_options=EXACT)
    computing = [node.provider for node in nodes if node.operator in COMPUTE]
    assert computing
    assert set(computing) == {CUDA}


@pytest.mark.parametrize("captures", [False, True], ids=["bound", "captured"])
def test_memory_that_is_bound_and_graphs_that_are_captured_change_no_answer(source: Source, captures: bool) -> None:
    """Shapes that come again, with other rows: a replayed graph reads what was put there since it was captured."""
    options = EXACT | ({"enable_cuda_graph": "1"} if captures else {})
    graph = BoundGraph(
        open_session(source.graph, CUDA, provider_options=options), "probabilities", 3, "cuda", captures=captures
    )
    for seed, shape in enumerate(SHAPES):
        given = tensors(shape, seed)
        np.testing.assert_allclose(graph.run(given), on_the_cpu(source.graph, given), atol=1e-5)


def test_fp16_is_within_rounding_of_fp32(source: Source, tmp_path: Path) -> None:
    make_half(source, tmp_path / "fp16.onnx", FP16)
    session, given = open_session(tmp_path / "fp16.onnx", CUDA), tensors((16, 16), 0)
    off = np.abs(session.run(None, given)[0] - on_the_cpu(source.graph, given)).max()
    assert 0 < off < 5e-3


def test_the_network_itself_answers_there_as_on_the_cpu(source: Source) -> None:
    import torch

    given = {name: torch.from_numpy(values) for name, values in tensors((4, 16), 0).items()}
    with torch.inference_mode():
        here = source.network.probabilities(**given)
        try:
            there = source.network.to("cuda").probabilities(**{name: value.cuda() for name, value in given.items()})
        finally:
            source.network.to("cpu")
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.cpu(), here, atol=1e-4, rtol=0)


def test_tensors_that_lie_there_are_run_there_without_a_copy_through_the_host(source: Source) -> None:
    import onnxruntime
    import torch

    class Handed:
        """A tensor as Triton's Python backend hands it over."""

        def __init__(self, tensor: Any) -> None:
            self.tensor = tensor

        def to_dlpack(self) -> Any:
            return torch.utils.dlpack.to_dlpack(self.tensor)

    given = tensors((4, 16), 0)
    on_gpu = {name: Handed(torch.from_numpy(values).cuda()) for name, values in given.items()}
    feed = {name: Resident.of(handed, "tensor(int64)") for name, handed in on_gpu.items()}
    assert any_resident(feed)
    session = open_session(source.graph, CUDA, provider_options=EXACT)
    outputs = places({"probabilities": "tensor(float)"}, "cuda")
    values = {name: resident.value for name, resident in feed.items()}
    (answer,) = run_bound(session, values, outputs, 0, onnxruntime.RunOptions())
    assert isinstance(answer, Resident)
    assert answer.value.device_name() == "cuda"
    np.testing.assert_allclose(on_host(answer), on_the_cpu(source.graph, given), atol=1e-5)
    given_back = torch.utils.dlpack.from_dlpack(answer.to_dlpack())
    assert given_back.is_cuda


def test_the_driver_tells_what_the_gpu_does() -> None:
    import torch

    held = torch.zeros(64 * 2**20, device="cuda")  # 256 MiB
    gpu = next(gpu for gpu in find_gpus() if str(torch.cuda.get_device_properties(0).uuid) in gpu.uuid)
    assert 0 <= gpu.busy_percent() <= 100
    memory = Memory(gpu)
    with memory.growing():
        more = torch.zeros(64 * 2**20, device="cuda")
    assert memory.mb(os.getpid()) >= 268
    del held, more

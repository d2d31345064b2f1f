"""Instances on GPUs in the real server: what it does without one, and with a stand-in for CUDA's runtime."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import onnx
import pytest

from tests.tiny import make_graph
from tests.triton.test_backend import tensor
from tests.triton.test_options import graph
from tldeploy.errors import ServerError
from tldeploy.recipe import Cuda, Deploy
from tldeploy.triton import config, server
from tldeploy.triton.server import Server
from tldeploy.triton.watch import Watch
from tldeploy.triton.workers import Workers

pytestmark = pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU")

TELLING = """
import json
from pathlib import Path

class TritonPythonModel:
    def initialize(self, args):
        about = {{name: args[f"model_instance_{{name}}"] for name in ("name", "kind", "device_id")}}
        (Path({folder!r}) / f"{{about['device_id']}} {{about['name']}}").write_text(json.dumps(about))

    def execute(self, requests):
        return []
"""


def write_graph(repository: Path, settings: Deploy) -> None:
    """A graph with the configuration that is published for it."""
    folder = repository / "m.graph"
    (folder / "1").mkdir(parents=True)
    onnx.save(make_graph(50, 3, seed=0), folder / "1" / "model.onnx")
    (folder / "labels.txt").write_text("a\nb\nc\n", encoding="utf-8")
    (folder / "config.pbtxt").write_text(config.to_text(graph(settings)), encoding="utf-8")


def refusal(repository: Path) -> ServerError:
    with pytest.raises(ServerError) as caught:
        Server(repository, http_port=0, grpc_port=0, metrics_port=0).__enter__()
    return caught.value


@pytest.fixture(autouse=True)
def _nobody_looked_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shown here is what the server itself does."""
    monkeypatch.setattr(server, "check_servable", lambda repository, published: None, raising=False)


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs, as far as the server can see."""
    if shutil.which("cc") is None:
        pytest.skip("building the stand-in takes a C compiler")
    library = tmp_path / "gpus.so"
    source = Path(__file__).with_name("gpus.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("STAND_IN_GPUS", "2")


def test_without_the_gpu_the_server_says_which_one_and_where_to_go(tmp_path: Path) -> None:
    write_graph(tmp_path, Deploy(device="cuda", cuda=Cuda(gpus=[1])))
    refused = refusal(tmp_path)
    assert "m.graph_0 of model m.graph specifies invalid or unsupported gpu id 1" in refused.found
    assert refused.fix == "serve it where there is such a GPU, or publish it for the CPU (deploy.device: cpu)"


@pytest.mark.usefixtures("gpus")
def test_a_worker_names_the_library_that_it_lacks(tmp_path: Path) -> None:
    write_graph(tmp_path / "repository", Deploy(device="cuda"))
    refused = refusal(tmp_path / "repository")
    assert "model 'm.graph' asks for CUDAExecutionProvider; lib" in refused.found
    assert "cannot open shared object file" in refused.found or "built without CUDA" in refused.found
    assert "`pip install 'onnxruntime-gpu[cuda,cudnn]'` where tldeploy is installed" in refused.found
    assert refused.fix == "do what it says, then start the server again"


@pytest.mark.usefixtures("gpus")
def test_each_gpu_has_as_many_workers_as_instances_and_each_knows_its_own(tmp_path: Path) -> None:
    """The settings of a published graph, and a model in Python that tells what it is given."""
    (group,) = graph(Deploy(device="cuda", cuda=Cuda(gpus=[0, 1]), instances=2)).instance_group
    folder, told = tmp_path / "repository" / "m", tmp_path / "told"
    (folder / "1").mkdir(parents=True)
    told.mkdir()
    (folder / "1" / "model.py").write_text(TELLING.format(folder=str(told)), encoding="utf-8")
    described = f'name: "m" backend: "python" instance_group {{ {group} }}'
    parameter = 'parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "no" } }'
    tensors = tensor("input", "x", "FP32", "1") + tensor("output", "out", "FP32", "1")
    (folder / "config.pbtxt").write_text(f"{described}\n{parameter}\n{tensors}", encoding="utf-8")
    with Server(tmp_path / "repository", http_port=0, grpc_port=0, metrics_port=0):
        workers = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(told.iterdir())]
    found = [tuple(worker.values()) for worker in workers]
    assert found == [(f"m_0_{instance}", "GPU", str(gpu)) for gpu in (0, 1) for instance in (0, 1)]


NOTING = """
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        name = f"{{args['model_instance_device_id']}} {{args['model_instance_name']}}"
        self.told = Path({folder!r}) / name

    def execute(self, requests):
        shapes = [pb_utils.get_input_tensor_by_name(request, "input_ids").as_numpy().shape for request in requests]
        with self.told.open("a") as told:
            told.write(f"{{sum(rows for rows, _ in shapes)}} x {{shapes[0][1]}}\\n")
        outputs = [pb_utils.Tensor("probabilities", np.zeros((rows, 3), np.float32)) for rows, _ in shapes]
        return [pb_utils.InferenceResponse([out]) for out in outputs]
"""


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize("named", ["gpus: 0 gpus: 1", ""])
def test_each_worker_is_warmed_up_in_order_and_then_asked_by_the_watch(tmp_path: Path, named: str) -> None:
    """What is published for TensorRT, with a model in Python that notes what it is asked. Where the group names no GPU
    the server says itself that it is on both."""
    described = graph(Deploy(device="tensorrt", instances=2, max_batch_size=4), lengths=(16,))
    described.name, described.backend = "m", "python"
    del described.instance_group[:]
    described.ClearField("optimization")
    described.ClearField("parameters")
    described.output[0].label_filename = ""
    folder, told = tmp_path / "repository" / "m", tmp_path / "told"
    (folder / "1").mkdir(parents=True)
    told.mkdir()
    (folder / "1" / "model.py").write_text(NOTING.format(folder=str(told)), encoding="utf-8")
    group = f"instance_group {{ count: 2 kind: KIND_GPU {named} }}\n"
    (folder / "config.pbtxt").write_text(config.to_text(described) + group, encoding="utf-8")
    with Server(tmp_path / "repository", http_port=0, grpc_port=0, metrics_port=0) as server:
        warmed = noted(told)
        workers = Workers(f"{server.id}-", tmp_path / "repository")
        with Watch(server.http_url, server.key, workers, pytest.fail) as watch:
            assert watch.look() == []
    names = {f"{gpu} m_0_{instance}" for gpu in (0, 1) for instance in (0, 1)}
    assert warmed == {name: ["4 x 16", "1 x 1", "1 x 16"] for name in names}
    assert noted(told) == {name: ["4 x 16", "1 x 1", "1 x 16", "1 x 1"] for name in names}


def noted(folder: Path) -> dict[str, list[str]]:
    """By worker, the runs that it had."""
    return {file.name: file.read_text(encoding="utf-8").splitlines() for file in folder.iterdir()}

"""Workers of the real server that die or hang, and what becomes of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from tldeploy.recipe import Deploy
from tldeploy.triton.repository import publish
from tldeploy.triton.server import Server
from tldeploy.triton.watch import Watch
from tldeploy.triton.workers import Workers


def serving(repository: Path) -> Server:
    return Server(repository, http_port=0, grpc_port=0, metrics_port=0)


def test_a_dead_worker_is_not_replaced_by_files_that_have_changed(tiny_export: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    publish(tiny_export, repository, "tiny", Deploy(max_batch_size=8))
    said: list[str] = []
    with serving(repository) as server:
        workers = Workers(f"{server.id}-", repository.resolve())
        with Watch(server.http_url, server.key, workers, said.append) as watch:
            assert watch.look() == []
            step = repository / "tiny.tokenize" / "1" / "model.py"
            sound = step.read_bytes()
            step.write_bytes(sound + b"\n")
            assert workers.kill("tiny.tokenize") == 1
            assert watch.look() == []
            assert "tiny.tokenize/1/model.py has changed" in " ".join(said)
            step.write_bytes(sound)
            assert watch.look() == ["tiny.tokenize"]


HANGING_MODEL = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            time.sleep(float(pb_utils.get_input_tensor_by_name(request, "seconds").as_numpy()[0]))
        return [pb_utils.InferenceResponse([pb_utils.Tensor("done", np.ones(1, np.float32))]) for _ in requests]
"""
HANGING_CONFIG = """
name: "hanging" backend: "python" instance_group [{kind: KIND_CPU}]
input [{name: "seconds" data_type: TYPE_FP32 dims: [1]}]
output [{name: "done" data_type: TYPE_FP32 dims: [1]}]
"""


def test_a_worker_that_hangs_is_replaced_and_one_that_is_busy_is_not(tmp_path: Path) -> None:
    (tmp_path / "repo" / "hanging" / "1").mkdir(parents=True)
    (tmp_path / "repo" / "hanging" / "1" / "model.py").write_text(HANGING_MODEL, encoding="utf-8")
    (tmp_path / "repo" / "hanging" / "config.pbtxt").write_text(HANGING_CONFIG, encoding="utf-8")
    said: list[str] = []
    with serving(tmp_path / "repo") as server, ThreadPoolExecutor(8) as pool:
        workers = Workers(f"{server.id}-", (tmp_path / "repo").resolve())
        with Watch(server.http_url, server.key, workers, said.append, patience_s=1) as watch:
            busy = [pool.submit(sleep_there, server, 0.7) for _ in range(5)]
            assert watch.look() == watch.look() == []  # neither is answered in time, but runs do end
            assert [slept.result() for slept in busy] == [1.0] * 5
            before = workers.of("hanging")
            hung = pool.submit(sleep_there, server, 600)
            replaced = [watch.look() for _ in range(4)]  # the first may be answered before that request is there
            assert [] in replaced[:1]
            assert replaced.count(["hanging"]) == 1
            with pytest.raises(InferenceServerException):
                hung.result(30)
            assert sleep_there(server, 0) == 1.0
            assert len(workers.of("hanging")) == 1
            assert workers.of("hanging") != before


def sleep_there(server: Server, seconds: float) -> float:
    given = InferInput("seconds", [1], "FP32")
    given.set_data_from_numpy(np.array([seconds], dtype=np.float32))
    with InferenceServerClient(server.http_url, network_timeout=60) as client:
        return float(client.infer("hanging", [given]).as_numpy("done")[0])

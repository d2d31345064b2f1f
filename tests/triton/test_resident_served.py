"""Tensors handed over by DLPack in a worker of the real server, as on a GPU; here they lie in the CPU's memory.

The model is the backend's own, but that what comes to it says to lie on a device, and so does what it answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper
from tritonclient import grpc

from tests.triton.test_backend import BATCHED, ask, executions, tensor, write_model
from tldeploy.triton import home
from tldeploy.triton.server import Server

MODEL = """
import importlib.util, json, sys
sys.path.insert(0, {backend!r})
import onnxruntime
found = importlib.util.spec_from_file_location("backend", {backend!r} + "/model.py")
backend = importlib.util.module_from_spec(found)
found.loader.exec_module(backend)
take, bind, taken = backend.pb_utils.get_input_tensor_by_name, onnxruntime.IOBinding.bind_output, []

class OnADevice:
    def __init__(self, tensor):
        self.to_dlpack, self.is_cpu = tensor.to_dlpack, lambda: False

def on_a_device(request, name):
    tensor = take(request, name)
    return tensor if name.startswith("host") else OnADevice(tensor)

backend.pb_utils.get_input_tensor_by_name = on_a_device
onnxruntime.IOBinding.bind_output = lambda binding, name, device, number: bind(binding, name, "cpu", 0)

class TritonPythonModel(backend.TritonPythonModel):
    def initialize(self, args):
        config = json.loads(args["model_config"]) | {{"default_model_filename": "model.onnx"}}
        super().initialize(args | {{"model_config": json.dumps(config)}})
        types = {{each.name: each.type for each in self.session.get_outputs()}}
        self.places = backend.places({{name: types[name] for name in self.outputs}}, "cuda")
"""
TYPES = {"BOOL": bool, "UINT8": np.uint8, "INT64": np.int64, "FP16": np.float16, "FP32": np.float32}
ONNX = {"BOOL": "BOOL", "UINT8": "UINT8", "INT64": "INT64", "FP16": "FLOAT16", "FP32": "FLOAT", "BF16": "BFLOAT16"}


def as_if_on_a_device(repository: Path, name: str) -> None:
    """Turn a model of ours into one of the Python backend, whose tensors say that they lie on a device."""
    (repository / name / "1" / "model.py").write_text(MODEL.format(backend=str(home.BACKEND)), encoding="utf-8")
    config = repository / name / "config.pbtxt"
    config.write_text(config.read_text(encoding="utf-8").replace('"onnxruntime"', '"python"', 1), encoding="utf-8")


def write_every_type(repository: Path) -> None:
    """Hands on what it gets, of each type; and a sum of what lies on a device and what does not."""
    tensors = {f"in_{kind}": (getattr(TensorProto, onnx), ["n", 3]) for kind, onnx in ONNX.items() if kind != "BF16"}
    tensors |= {f"out_{kind}": tensors[f"in_{kind}"] for kind in TYPES}
    tensors |= {"host": tensors["in_FP32"], "out_sum": tensors["in_FP32"]}
    nodes = [helper.make_node("Identity", [f"in_{kind}"], [f"out_{kind}"]) for kind in TYPES]
    nodes.append(helper.make_node("Add", ["in_FP32", "host"], ["out_sum"]))
    config = BATCHED + "\n" + tensor("input", "host", "FP32", "3") + tensor("output", "out_sum", "FP32", "3")
    for kind in TYPES:
        config += tensor("input", f"in_{kind}", kind, "3") + tensor("output", f"out_{kind}", kind, "3")
    write_model(repository, "types", nodes, tensors, config)
    as_if_on_a_device(repository, "types")


def write_half(repository: Path) -> None:
    tensors = {"x": (TensorProto.BFLOAT16, ["n", 3]), "out": (TensorProto.BFLOAT16, ["n", 3])}
    config = BATCHED + "\n" + tensor("input", "x", "BF16", "3") + tensor("output", "out", "BF16", "3")
    write_model(repository, "half", [helper.make_node("Identity", ["x"], ["out"])], tensors, config)
    as_if_on_a_device(repository, "half")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.InferenceServerClient]:
    repository = tmp_path_factory.mktemp("resident") / "repo"
    write_every_type(repository)
    write_half(repository)
    with Server(repository, http_port=0, grpc_port=0, metrics_port=0) as server:
        own = grpc.InferenceServerClient(server.grpc_url)
        yield own
        own.close()


def inputs(rows: int, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    given = {f"in_{kind}": random.integers(0, 2, (rows, 3)).astype(dtype) for kind, dtype in TYPES.items()}
    return {**given, "host": np.full((rows, 3), seed, dtype=np.float32)}


def test_every_type_comes_and_goes_as_it_is(client: grpc.InferenceServerClient) -> None:
    given = inputs(2, seed=3)
    answer = ask(client, "types", **given)
    for kind, dtype in TYPES.items():
        found = answer.as_numpy(f"out_{kind}")
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, given[f"in_{kind}"])
    np.testing.assert_array_equal(answer.as_numpy("out_sum"), given["in_FP32"] + given["host"])


def test_requests_that_share_a_run_are_joined_and_split_again(client: grpc.InferenceServerClient) -> None:
    before = executions(client, "types")
    given = [inputs(1 + number % 2, number) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda each: ask(client, "types", **each).as_numpy("out_sum"), given))
    for each, answer in zip(given, answers, strict=True):
        np.testing.assert_array_equal(answer, each["in_FP32"] + each["host"])
    assert executions(client, "types") - before < 40


def test_bfloat16_is_answered_to_the_bit_although_it_cannot_be_joined(client: grpc.InferenceServerClient) -> None:
    given = [np.full((1 + number % 2, 3), number + 0.5, dtype=ml_dtypes.bfloat16) for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda x: ask(client, "half", x=x).as_numpy("out"), given))
    for x, answer in zip(given, answers, strict=True):
        np.testing.assert_array_equal(answer, x)

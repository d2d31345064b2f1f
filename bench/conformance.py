"""How many of onnx's own operator tests the served onnxruntime backend answers right, and why it misses the others.

The tests are those of onnx.backend.test (kind `node`): a graph, inputs, and the outputs of onnx's reference. Each
graph, as it is, becomes a model of one running server, with the configuration that Triton's documentation prescribes;
the inputs are sent over gRPC, and the answer is held against the outputs with onnx's own comparison and tolerance.

A miss is put into a class: by the graph's types, by what the server says when it loads the model, or by an onnxruntime
session in this process, which must then answer the same, to the bit. What nothing explains is WRONG.

.venv/bin/python -m bench.conformance bench/results [pattern…]     # e.g. 'test_a*': only these, added to the record
"""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto
from onnx.backend.test.loader import load_node_model_tests
from onnx.backend.test.runner import Runner
from tritonclient import grpc
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup
from tritonclient.utils import InferenceServerException

from bench.figures.conformance import page
from tldeploy.artifacts import write_file
from tldeploy.runtime.triton.address import key_headers
from tldeploy.triton.config import to_text, triton_type
from tldeploy.triton.home import SERVER_VERSION
from tldeploy.triton.server import Server

AT_A_TIME = 4  # models; each is a process of its own
RANDOM = {"Bernoulli", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial"}
WRONG = "WRONG"

TOO_NEW = "an IR version, or an operator's attribute, newer than onnxruntime knows"
LACKING = "an operator, or a use of one, that onnxruntime lacks"
# What the server says when it cannot load a graph, and the class of the miss; the first that is found counts.
SAYINGS = {
    r"Unsupported model IR version|under development|official support for domain|Unrecognized attribute": TOO_NEW,
    r"NOT_IMPLEMENTED|not a registered function/op|are not supported|bound to different types": LACKING,
    r"must specify": "no inputs, which a configuration must have",
    r"Failed to construct locale": "a locale that this machine lacks",
}


class Miss(Exception):
    """Why a test is not answered right: a class, and the words that put it there."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def operator_tests() -> list[Any]:
    """onnx's test cases of kind `node`; computing their outputs divides by zero and overflows, on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(load_node_model_tests())


def lay(name: str, case: Any, repository: Path) -> None:
    """Write the case's model folder. Raises Miss when no configuration can describe the graph."""
    config = config_of(name, case.model)
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    onnx.save(case.model, folder / "model.onnx")
    (folder.parent / "config.pbtxt").write_text(to_text(config), encoding="utf-8")


def config_of(name: str, model: onnx.ModelProto) -> ModelConfig:
    config = ModelConfig(name=name, backend="onnxruntime")
    for tensors, values in ((config.input, model.graph.input), (config.output, model.graph.output)):
        for value in values:
            tensors.add(name=value.name, data_type=DataType.Value(type_of(value)), dims=dims_of(value))
    config.instance_group.add(count=1, kind=ModelInstanceGroup.KIND_CPU)
    config.parameters["intra_op_thread_count"].string_value = "1"
    return config


def type_of(value: onnx.ValueInfoProto) -> str:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise Miss(f"a type that Triton lacks: {str(kind).removesuffix('_type')}", value.name)
    element = value.type.tensor_type.elem_type
    name = "TYPE_BF16" if element == TensorProto.BFLOAT16 else triton_type(element)
    if name is None:
        raise Miss(f"a type that Triton lacks: {TensorProto.DataType.Name(element).lower()}", value.name)
    return name


def dims_of(value: onnx.ValueInfoProto) -> list[int]:
    """As in the graph, -1 for an open dim; a scalar has the dims [1]."""
    dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim]
    if 0 in dims:
        raise Miss("a fixed dim of 0, which a configuration cannot have", f"{value.name} {dims}")
    return dims or [1]


def ask(client: grpc.InferenceServerClient, case: Any) -> None:
    """Send every data set of a loaded case, and compare. Raises Miss when an answer is not onnx's."""
    for given, expected in case.data_sets:
        inputs = [as_input(value, array) for value, array in zip(case.model.graph.input, given, strict=True)]
        try:
            answer = client.infer(case.name, inputs)
        except InferenceServerException as error:
            raise explained(case, given, None, str(error.message())) from None
        outputs = [as_output(value, answer.as_numpy(value.name)) for value in case.model.graph.output]
        try:
            Runner.assert_similar_outputs(expected, outputs, case.rtol, case.atol)
        except AssertionError as error:
            raise explained(case, given, outputs, str(error)) from None


def as_input(value: onnx.ValueInfoProto, array: Any) -> grpc.InferInput:
    array = np.asarray(array)
    if array.dtype.kind in "OU":
        array = np.array([str(cell).encode() for cell in array.reshape(-1)], dtype=object).reshape(array.shape)
    array = array.reshape(array.shape or (1,))
    tensor = grpc.InferInput(value.name, list(array.shape), type_of(value)[5:].replace("STRING", "BYTES"))
    return tensor.set_data_from_numpy(array)


def as_output(value: onnx.ValueInfoProto, array: Any) -> Any:
    if array.dtype == object:
        array = np.array([cell.decode() for cell in array.reshape(-1)], dtype=object).reshape(array.shape)
    scalar = not value.type.tensor_type.shape.dim and array.shape == (1,)
    return array.reshape(()) if scalar else array


def explained(case: Any, given: Sequence[Any], outputs: Sequence[Any] | None, complaint: str) -> Miss:
    """The class of an answer that is not onnx's: what onnxruntime itself does in this process decides.

    outputs: the served ones; None when the server refused the request.
    """
    training = "training" in case.name and "dropout" in case.name
    if training or RANDOM & {node.op_type for node in case.model.graph.node}:
        return Miss("a random draw", complaint)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(case.model.SerializeToString(), options, ["CPUExecutionProvider"])
    try:
        own = session.run(None, {value.name: a for value, a in zip(case.model.graph.input, given, strict=True)})
    except Exception as error:  # noqa: BLE001 — onnxruntime's exceptions share no base class
        return Miss("onnxruntime fails as well" if outputs is None else WRONG, f"{complaint}; {error}")
    if outputs is not None and all(map(same, own, outputs)):
        return Miss("onnxruntime itself answers otherwise than onnx's reference", complaint)
    return Miss(WRONG, complaint)


def same(one: Any, other: Any) -> bool:
    one = np.asarray(one)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def explained_load(message: str) -> Miss:
    reason = next((reason for words, reason in SAYINGS.items() if re.search(words, message)), WRONG)
    return Miss(reason, plain(message))


def plain(message: str) -> str:
    """A message without what differs from run to run: the model's folder, and where Python was."""
    message = re.sub(r"load failed for model '[^']*': version 1 is at UNAVAILABLE state: \w+: ", "", message)
    return re.sub(r"Load model from \S+ failed:", "", re.split(r"\s+At:\s", message, maxsplit=1)[0])


class Trial:
    """One running server, which loads a case, answers, and forgets it."""

    def __init__(self, server: Server) -> None:
        self.repository = server.repository
        self.client = grpc.InferenceServerClient(server.grpc_url)
        self.headers = key_headers("grpc", server.key)

    def result(self, case: Any) -> Miss | None:
        try:
            lay(case.name, case, self.repository)
            try:
                self.client.load_model(case.name, headers=self.headers)
            except InferenceServerException as error:
                raise explained_load(str(error.message())) from None
            try:
                ask(self.client, case)
            finally:
                self.client.unload_model(case.name, headers=self.headers)
        except Miss as miss:
            return miss
        finally:
            shutil.rmtree(self.repository / case.name, ignore_errors=True)
        return None


def run(cases: Iterable[Any]) -> dict[str, dict[str, str] | None]:
    """For each case by name: None when it is right, else the class of the miss and its detail."""
    with tempfile.TemporaryDirectory() as folder:
        # A server that serves nothing does not start.
        lay("first", next(case for case in operator_tests() if case.name == "test_identity"), Path(folder))
        with Server(Path(folder), http_port=0, grpc_port=0, metrics_port=0) as server:
            trial = Trial(server)
            with ThreadPoolExecutor(AT_A_TIME) as pool:
                results = pool.map(lambda case: (case.name, trial.result(case)), cases)
                return {name: miss and {"class": miss.reason, "detail": miss.detail[:600]} for name, miss in results}


def record(out: Path, results: dict[str, dict[str, str] | None]) -> None:
    """conformance.json: the versions, the counts by class, and each test's result. conformance.md: counts and names."""
    counts = dict(Counter(miss["class"] if miss else "right" for miss in results.values()).most_common())
    versions = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "server": SERVER_VERSION}
    report = {"versions": versions, "counts": counts, "results": dict(sorted(results.items()))}
    write_file(out / "conformance.json", json.dumps(report, indent=1) + "\n")
    write_file(out / "conformance.md", page(report))


def main(out: Path, patterns: Sequence[str]) -> int:
    file = out / "conformance.json"
    results = json.loads(file.read_text(encoding="utf-8"))["results"] if file.exists() and patterns else {}
    cases = [c for c in operator_tests() if any(fnmatch.fnmatch(c.name, p) for p in patterns or ["*"])]
    results |= run(cases)
    record(out, results)
    wrong = [name for name, miss in results.items() if miss and miss["class"] == WRONG]
    print(json.dumps({"right": sum(miss is None for miss in results.values()), "of": len(results), "wrong": wrong}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))

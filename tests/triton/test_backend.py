"""The pip server's onnxruntime backend, asked through the real server: merging, failures, options, optional inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tritonclient import grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.triton.lint_corpus import weights_outside
from tldeploy.errors import ServerError
from tldeploy.triton.server import Server

BATCHED = "max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 200000 }"


def write_model(
    repository: Path,
    name: str,
    nodes: Sequence[onnx.NodeProto],
    tensors: dict[str, tuple[int, Sequence[Any]]],
    config: str,
    initializers: Sequence[onnx.TensorProto] = (),
) -> None:
    """A model folder: names that start with `out` are outputs of the graph, the others inputs."""
    infos = [helper.make_tensor_value_info(key, kind, shape) for key, (kind, shape) in tensors.items()]
    outputs = [info for info in infos if info.name.startswith("out")]
    graph = helper.make_graph(nodes, name, [i for i in infos if i not in outputs], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    (repository / name / "1").mkdir(parents=True)
    onnx.save(model, repository / name / "1" / "model.onnx")
    header = f'name: "{name}" backend: "onnxruntime" instance_group {{ kind: KIND_CPU }}\n'
    (repository / name / "config.pbtxt").write_text(header + config, encoding="utf-8")


def tensor(kind: str, name: str, datatype: str, dims: str, more: str = "") -> str:
    return f'{kind} {{ name: "{name}" data_type: TYPE_{datatype} dims: [{dims}] {more} }}\n'


def write_rows(repository: Path) -> None:
    """Two outputs of two inputs, batched; a row whose index is out of bounds makes onnxruntime fail."""
    nodes = [
        helper.make_node("Gather", ["table", "index"], ["row"]),
        helper.make_node("Add", ["row", "shift"], ["out_sum"]),
        helper.make_node("Identity", ["index"], ["out_index"]),
    ]
    tensors = {
        "index": (TensorProto.INT64, ["n"]),
        "shift": (TensorProto.FLOAT, ["n", 1]),
        "out_sum": (TensorProto.FLOAT, ["n", 2]),
        "out_index": (TensorProto.INT64, ["n"]),
    }
    table = helper.make_tensor("table", TensorProto.FLOAT, [4, 2], [0, 1, 10, 11, 20, 21, 30, 31])
    config = BATCHED + "\n" + tensor("input", "index", "INT64", "1", "reshape { shape: [] }")
    config += tensor("input", "shift", "FP32", "1") + tensor("output", "out_sum", "FP32", "2")
    config += tensor("output", "out_index", "INT64", "1", "reshape { shape: [] }")
    write_model(repository, "rows", nodes, tensors, config, [table])


def write_optional(repository: Path) -> None:
    """A scalar, and an initializer that a request may give another value."""
    tensors = {"x": (TensorProto.FLOAT, []), "by": (TensorProto.FLOAT, []), "out": (TensorProto.FLOAT, [])}
    config = tensor("input", "x", "FP32", "1") + tensor("input", "by", "FP32", "1", "optional: true")
    config += tensor("output", "out", "FP32", "1")
    ten = helper.make_tensor("by", TensorProto.FLOAT, [], [10.0])
    write_model(repository, "optional", [helper.make_node("Add", ["x", "by"], ["out"])], tensors, config, [ten])


def write_half(repository: Path) -> None:
    """Doubles bfloat16, batched, on one thread and with the options of a configuration."""
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["wide", "wide"], ["double"]),
        helper.make_node("Cast", ["double"], ["out"], to=TensorProto.BFLOAT16),
    ]
    tensors = {"x": (TensorProto.BFLOAT16, ["n", 3]), "out": (TensorProto.BFLOAT16, ["n", 3])}
    options = {"intra_op_thread_count": 1, "execution_mode": 1, "enable_mem_arena": 0, "enable_mem_pattern": "false"}
    config = BATCHED + "\n" + tensor("input", "x", "BF16", "3") + tensor("output", "out", "BF16", "3")
    for name, value in options.items():
        config += f'parameters {{ key: "{name}" value {{ string_value: "{value}" }} }}\n'
    write_model(repository, "half", nodes, tensors, config)


def write_strings(repository: Path) -> None:
    """Hands on strings of any shape."""
    tensors = {"x": (TensorProto.STRING, ["n", "m"]), "out": (TensorProto.STRING, ["n", "m"])}
    config = tensor("input", "x", "STRING", "-1, -1") + tensor("output", "out", "STRING", "-1, -1")
    write_model(repository, "strings", [helper.make_node("Identity", ["x"], ["out"])], tensors, config)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.InferenceServerClient]:
    repository = tmp_path_factory.mktemp("backend") / "repo"
    for write in (write_rows, write_optional, write_half, write_strings):
        write(repository)
    with Server(repository, http_port=0, grpc_port=0, metrics_port=0) as server:
        own = grpc.InferenceServerClient(server.grpc_url)
        yield own
        own.close()


def ask(client: grpc.InferenceServerClient, model: str, **arrays: Any) -> Any:
    inputs = []
    for name, array in arrays.items():
        given = grpc.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        inputs.append(given.set_data_from_numpy(array))
    return client.infer(model, inputs)


def executions(client: grpc.InferenceServerClient, model: str) -> int:
    return int(client.get_inference_statistics(model).model_stats[0].execution_count)


def ask_rows(client: grpc.InferenceServerClient, index: int) -> list[float] | str:
    """The sum for one row, or what the server answers instead."""
    shift = np.array([[0.5]], dtype=np.float32)
    try:
        answer = ask(client, "rows", index=np.array([[index]]), shift=shift)
    except InferenceServerException as error:
        return str(error.message())
    assert answer.as_numpy("out_index").tolist() == [[index]]
    sums: list[float] = answer.as_numpy("out_sum")[0].tolist()
    return sums


def test_requests_are_merged_into_one_run_and_each_gets_its_own_rows(client: grpc.InferenceServerClient) -> None:
    before = executions(client, "rows")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda index: ask_rows(client, index % 4), range(16)))
    assert answers == [[10 * (i % 4) + 0.5, 10 * (i % 4) + 1.5] for i in range(16)]
    assert executions(client, "rows") - before < 16


def test_a_request_that_fails_does_not_fail_its_neighbours(client: grpc.InferenceServerClient) -> None:
    before = executions(client, "rows")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda index: ask_rows(client, index), [0, 1, 99, 2, 3, -99, 1, 0]))
    for index in (2, 5):
        assert "onnx runtime error" in answers[index]
        assert "out of" in answers[index]
    good = [answer for index, answer in enumerate(answers) if index not in {2, 5}]
    assert good == [[0.5, 1.5], [10.5, 11.5], [20.5, 21.5], [30.5, 31.5], [10.5, 11.5], [0.5, 1.5]]
    assert executions(client, "rows") - before < 8


def test_an_optional_input_is_the_graphs_own_value_unless_it_is_given(client: grpc.InferenceServerClient) -> None:
    one, five = np.array([1], dtype=np.float32), np.array([5], dtype=np.float32)
    assert ask(client, "optional", x=one).as_numpy("out").tolist() == [11]
    assert ask(client, "optional", x=one, by=five).as_numpy("out").tolist() == [6]


def test_bfloat16_is_merged_and_split_to_the_bit(client: grpc.InferenceServerClient) -> None:
    before = executions(client, "half")
    given = [np.full((1 + row % 2, 3), row + 0.5, dtype=ml_dtypes.bfloat16) for row in range(16)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda x: ask(client, "half", x=x).as_numpy("out"), given))
    for x, answer in zip(given, answers, strict=True):
        np.testing.assert_array_equal(answer, x + x)
    assert executions(client, "half") - before < 16


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (1, 2)])
def test_tensors_may_be_empty_and_strings_hold_anything(
    client: grpc.InferenceServerClient, shape: tuple[int, int]
) -> None:
    given = np.resize(np.array([b"", "nul \0 byte 😀".encode()], dtype=object), shape)
    answer = ask(client, "strings", x=given).as_numpy("out")
    assert answer.shape == shape
    assert answer.reshape(-1).tolist() == given.reshape(-1).tolist()


def test_a_string_that_is_not_utf8_is_refused_by_its_byte(client: grpc.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="a string is not UTF-8: invalid start byte at byte 1"):
        ask(client, "strings", x=np.array([[b"a\xff"]], dtype=object))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('parameters { key: "execution_mode" value { string_value: "2" } }', "execution_mode are 0 or 1 but got 2"),
        ('parameters { key: "intra_op_thread_count" value { string_value: "x" } }', "is 'x', not a number"),
        (
            'optimization { execution_accelerators { cpu_execution_accelerator { name: "magic" } } }',
            "unknown Execution Accelerator 'magic' is requested",
        ),
    ],
)
def test_options_that_mean_nothing_are_refused(tmp_path: Path, config: str, words: str) -> None:
    assert words in refusal(tmp_path, tensor("input", "x", "FP32", "1") + config)


def test_an_input_that_is_not_the_graphs_own_cannot_be_optional(tmp_path: Path) -> None:
    found = refusal(tmp_path, tensor("input", "x", "FP32", "1", "optional: true"))
    assert "configuration expects 0 inputs, model provides 1" in found


def test_a_scalar_has_dims_of_one(tmp_path: Path) -> None:
    found = refusal(tmp_path, tensor("input", "x", "FP32", "2"))
    assert "scalar tensor 'x', should only provide 1 in the model configuration" in found


def refusal(repository: Path, config: str) -> str:
    """What the server says to a graph of one scalar with this configuration."""
    tensors = {"x": (TensorProto.FLOAT, []), "out": (TensorProto.FLOAT, [])}
    config += tensor("output", "out", "FP32", "1")
    write_model(repository, "m", [helper.make_node("Neg", ["x"], ["out"])], tensors, config)
    with pytest.raises(ServerError) as caught:
        Server(repository, http_port=0, grpc_port=0, metrics_port=0).__enter__()
    return caught.value.found


@pytest.mark.parametrize("config", ['default_model_filename: "../../../m.onnx"', "", "labels"])
def test_what_leads_out_of_the_repository_is_refused(tmp_path: Path, config: str) -> None:
    labels = 'label_filename: "../../labels.txt"' if config == "labels" else ""
    (tmp_path / "labels.txt").write_text("one\n", encoding="utf-8")
    tensors = {"x": (TensorProto.FLOAT, [1]), "out": (TensorProto.FLOAT, [1])}
    described = tensor("input", "x", "FP32", "1") + tensor("output", "out", "FP32", "1", labels)
    described += config if config != "labels" else ""
    write_model(tmp_path / "repo", "m", [helper.make_node("Neg", ["x"], ["out"])], tensors, described)
    file = tmp_path / "repo" / "m" / "1" / "model.onnx"
    file.rename(tmp_path / "m.onnx")
    if labels:
        (tmp_path / "m.onnx").rename(file)
    elif not config:
        file.symlink_to(tmp_path / "m.onnx")
    with pytest.raises(ServerError, match="leads out of the model repository"):
        Server(tmp_path / "repo", http_port=0, grpc_port=0, metrics_port=0).__enter__()


def test_weights_outside_the_version_folder_are_refused(tmp_path: Path) -> None:
    weights_outside(tmp_path / "repo")
    with pytest.raises(ServerError, match=r"(?i)external data"):
        Server(tmp_path / "repo", http_port=0, grpc_port=0, metrics_port=0).__enter__()

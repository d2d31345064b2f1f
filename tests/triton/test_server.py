"""The real server: how it starts, fails to start, dies, hangs and stops."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import psutil
import pytest
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.http import InferenceServerClient
from tritonclient.utils import InferenceServerException

from tests.tiny import make_graph
from tldeploy import artifacts
from tldeploy.artifacts import file_sha256
from tldeploy.errors import ArtifactError, ServerError, UsageError
from tldeploy.recipe import Deploy
from tldeploy.runtime.triton import Client, Protocol
from tldeploy.runtime.triton.address import KEY_HEADER, key_headers
from tldeploy.triton import config, transaction
from tldeploy.triton.repository import publish
from tldeploy.triton.server import WATCH_EVERY_S, Server

ROOT = Path(__file__).parents[2]
STUB = "triton_python_backend_stub"
STEPS = ("tiny.tokenize", "tiny.graph")


@pytest.fixture
def repository(tiny_export: Path, tmp_path: Path) -> Path:
    publish(tiny_export, tmp_path / "repo", "tiny", Deploy(max_batch_size=8))
    return tmp_path / "repo"


def serving(repository: Path, ready_within_s: float = 60.0) -> Server:
    return Server(repository, http_port=0, grpc_port=0, metrics_port=0, ready_within_s=ready_within_s)


def family(pid: int) -> list[psutil.Process]:
    warden = psutil.Process(pid)
    return [warden, *warden.children(recursive=True)]


def shared_memory(server_id: str) -> list[Path]:
    return list(Path("/dev/shm").glob(f"{server_id}-*"))


def becomes_true(condition: Callable[[], bool], within_s: float = 30.0) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_clean_stop_leaves_no_process_and_no_shared_memory(repository: Path) -> None:
    with serving(repository) as server:
        assert server.pid is not None
        processes = family(server.pid)
        assert [process.name() for process in processes].count(STUB) == 2
        assert shared_memory(server.id)
    assert not any(process.is_running() for process in processes)
    assert not shared_memory(server.id)
    with socket.create_server(("127.0.0.1", server.http_port)):
        pass


def test_the_next_version_is_live_at_the_next_start(repository: Path, tiny_export: Path) -> None:
    publish(tiny_export, repository, "tiny", Deploy(max_batch_size=3))
    with serving(repository) as server, Client(server.http_url, model="tiny") as client:
        assert [publication.version for publication in server.published] == [2]
        assert client.max_batch_size == 3


def test_a_corrupt_graph_is_named(repository: Path) -> None:
    (repository / "tiny.graph" / "1" / "model.onnx").write_bytes(b"garbage")
    forget_hashes(repository)
    with pytest.raises(ServerError, match=r"(?s)ended by itself.*tiny\.graph.*Protobuf parsing failed") as caught:
        serving(repository).__enter__()
    assert "At:" not in caught.value.found


def forget_hashes(repository: Path) -> None:
    """As if another tool had published it."""
    (repository / "tiny" / "1" / artifacts.MANIFEST).unlink()


def test_what_is_not_as_it_was_published_is_not_served(repository: Path, tiny_export: Path) -> None:
    publish(tiny_export, repository, "tiny", Deploy(max_batch_size=3, keep_versions=2))
    for damaged in (
        "tiny.graph/2/model.onnx",
        "tiny.tokenize/1/model.py",
        "tiny.graph/labels.txt",
        "tiny/config.pbtxt",
    ):
        file = repository / damaged
        sound = file.read_bytes()
        file.write_bytes(sound + b"\n")
        with pytest.raises(
            ArtifactError, match=f"files are not as they were published: {damaged} has changed"
        ) as caught:
            serving(repository).__enter__()
        assert caught.value.exit_code == 5
        assert "tldeploy deploy" in caught.value.fix
        file.write_bytes(sound)
    (repository / "tiny.tokenize" / "2" / "encoding.py").unlink()
    with pytest.raises(ArtifactError, match=r"tiny\.tokenize/2/encoding\.py is missing"):
        serving(repository).__enter__()


def test_a_model_of_another_tool_is_served_and_said_to_have_no_hashes(repository: Path) -> None:
    forget_hashes(repository)
    said: list[str] = []
    server = Server(repository, http_port=0, grpc_port=0, metrics_port=0, log=said.append)
    with server, Client(server.http_url, model="tiny") as client:
        assert client.predict(["good phone"]).shape == (1, 3)
    assert "not published by tldeploy, and served without hashes to check: tiny, tiny.graph, tiny.tokenize" in said


def change_dims(described: ModelConfig) -> None:
    described.output[0].dims[0] = -1


def change_type(described: ModelConfig) -> None:
    described.input[0].data_type = described.input[0].data_type - 1  # TYPE_INT64 to TYPE_INT32


def change_name(described: ModelConfig) -> None:
    described.input[1].name = "mask"


def drop_input(described: ModelConfig) -> None:
    del described.input[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_type, "configuration expects datatype TYPE_INT32 for input 'input_ids', model provides TYPE_INT64"),
        (change_name, "unexpected inference input 'mask', allowed inputs are: attention_mask, input_ids"),
        (drop_input, "configuration expects 1 inputs, model provides 2"),
        (
            change_dims,
            "tensor 'probabilities': the model expects 2 dimensions (shape [-1,3]) but the model configuration "
            "specifies 2 dimensions",
        ),
    ],
)
def test_a_configuration_that_does_not_fit_the_graph_is_refused_as_the_native_backend_does(
    tmp_path: Path, change: Callable[[ModelConfig], None], words: str
) -> None:
    refusal = refusal_of(tmp_path, change, batch="batch")
    assert words in refusal


def test_a_fixed_batch_is_refused_as_the_native_backend_does(tmp_path: Path) -> None:
    refusal = refusal_of(tmp_path, lambda described: None, batch=2)
    assert "the first dimension must be -1; but shape expected by the model is [2,-1]" in refusal


def refusal_of(folder: Path, change: Callable[[ModelConfig], None], batch: str | int) -> str:
    """What the server says to a graph alone, with a configuration changed from the right one."""
    version = folder / "repo" / "m" / "1"
    version.mkdir(parents=True)
    onnx.save(make_graph(50, 3, seed=0), version / "model.onnx")
    described = config.graph_config("m", config.read_signature(version / "model.onnx"), [1], Deploy())
    described.output[0].label_filename = ""
    change(described)
    onnx.save(make_graph(50, 3, seed=0, batch=batch), version / "model.onnx")
    (version.parent / "config.pbtxt").write_text(config.to_text(described), encoding="utf-8")
    with pytest.raises(ServerError) as caught:
        serving(folder / "repo").__enter__()
    return caught.value.found


def test_a_server_that_hangs_while_it_loads_is_given_up_on(repository: Path) -> None:
    step = repository / "tiny.tokenize" / "1" / "model.py"
    step.write_text(f"{step.read_text()}\nimport time\ntime.sleep(600)\n", encoding="utf-8")
    forget_hashes(repository)
    server = serving(repository, ready_within_s=1.5)
    with pytest.raises(ServerError, match=r"(?s)not ready after 1.5 s; the end of its log.*tiny\.tokenize"):
        server.__enter__()
    assert server.pid is None
    assert not shared_memory(server.id)


def test_a_model_that_answers_otherwise_than_when_it_was_exported_is_not_served(repository: Path) -> None:
    onnx.save(make_graph(300, 3, seed=99), repository / "tiny.graph" / "1" / "model.onnx")
    folder = repository / "tiny" / "1"
    manifest = artifacts.load(folder, "deploy")
    hashes = manifest.details["repository_files"]
    hashes["tiny.graph/1/model.onnx"] = file_sha256(repository / "tiny.graph" / "1" / "model.onnx")
    artifacts.seal(folder, manifest)
    with pytest.raises(ServerError, match=r"serve tiny version 1: for the golden row .* it answers .* expected"):
        serving(repository).__enter__()


def test_a_port_in_use_is_named_with_its_option(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"127.0.0.1:{port}: another program listens there") as caught:
            Server(repository, http_port=0, grpc_port=port, metrics_port=0).__enter__()
    assert "--grpc-port" in caught.value.fix


def test_an_empty_repository_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    with pytest.raises(ServerError, match="no model is in it"):
        serving(tmp_path).__enter__()


def test_the_same_port_twice_is_a_mistake(repository: Path) -> None:
    with pytest.raises(UsageError, match="port 8000 is given twice"):
        Server(repository, http_port=8000, grpc_port=8000).__enter__()


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_dead_worker_behind_a_server_that_says_ready_is_noticed(repository: Path, protocol: str) -> None:
    with serving(repository) as server:
        url = server.http_url if protocol == "http" else server.grpc_url
        with Client(url, model="tiny", protocol=protocol, timeout_s=30) as client:  # type: ignore[arg-type]  # a str
            assert client.predict(["good phone"]).shape == (1, 3)
            assert server.pid is not None
            for process in family(server.pid):
                if process.name() == STUB:
                    process.kill()
            with pytest.raises(ServerError, match="worker is dead") as caught:
                client.predict(["good phone"])
            assert caught.value.fix == "ask again soon: `tldeploy serve` replaces it; restart another server"


def test_a_dead_worker_is_replaced_while_the_server_serves(repository: Path) -> None:
    serving = owner(repository, watch_every_s=2)
    with serving as (_, processes, server_id, url), Client(url, model="tiny", timeout_s=30) as client:
        before = client.predict(["good phone"])
        stubs = [process for process in processes if process.name() == STUB]
        workers = {step: stub for stub in stubs for step in STEPS if step in " ".join(stub.cmdline())}
        for step in STEPS:
            workers[step].kill()
            with pytest.raises(ServerError):
                client.predict(["good phone"])
            assert becomes_true(lambda: answers(client))
            assert client.predict(["good phone"]).tolist() == before.tolist()
        assert shared_memory(server_id)


def answers(client: Client) -> bool:
    try:
        client.predict(["good phone"])
    except ServerError:
        return False
    return True


OWNERS = [
    ("unload_model", "tiny.graph"),
    ("get_model_repository_index",),
    ("register_system_shared_memory", "region", "/region", 64),
    ("get_system_shared_memory_status",),
    ("get_cuda_shared_memory_status",),
    ("update_trace_settings", None, {"trace_file": "/tmp/trace"}),
    ("get_trace_settings",),
    ("update_log_settings", {"log_file": "/tmp/log"}),
    ("get_log_settings",),
]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_what_changes_the_server_or_maps_its_memory_is_for_nobody_without_the_key(
    tiny_server: Server, protocol: Protocol
) -> None:
    url = tiny_server.http_url if protocol == "http" else tiny_server.grpc_url
    with importlib.import_module(f"tritonclient.{protocol}").InferenceServerClient(url) as client:
        for method, *arguments in OWNERS:
            with pytest.raises(InferenceServerException, match="restricted"):
                getattr(client, method)(*arguments)
        assert client.is_model_ready("tiny.graph")
        assert client.get_server_metadata()
        assert client.get_model_config("tiny")
        assert client.get_inference_statistics("tiny")
        assert client.get_log_settings(headers=key_headers(protocol, tiny_server.key))


def test_a_protocol_may_be_opened(repository: Path) -> None:
    key = "0123456789abcdef"
    with Server(repository, http_port=0, grpc_port=0, metrics_port=0, key=key, opened=["shared-memory"]) as server:
        with Client(server.http_url, model="tiny", shared_memory=True) as client:
            assert client.predict(["good phone"]).shape == (1, 3)
        with InferenceServerClient(server.http_url) as client:
            with pytest.raises(InferenceServerException, match="This API is restricted"):
                client.unload_model("tiny.graph")
            assert client.get_model_repository_index(headers={KEY_HEADER: key})


@pytest.mark.parametrize("key", ["", "short", "with, comma and spaces", "0" * 129])
def test_a_key_that_is_short_or_fits_no_header_is_refused(repository: Path, key: str) -> None:
    with pytest.raises(UsageError, match="16 to 128 letters, digits") as caught:
        Server(repository, key=key)
    assert key not in str(caught.value) or not key


def test_a_server_that_dies_while_serving_is_noticed(repository: Path) -> None:
    with serving(repository) as server:
        assert server.pid is not None
        for process in family(server.pid):
            if process.name() == "tritonserver":
                process.kill()
        with pytest.raises(ServerError, match=r"keep serving .* the server ended by itself"):
            server.wait()
    assert not shared_memory(server.id)


@contextmanager
def owner(
    repository: Path, watch_every_s: float = WATCH_EVERY_S
) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process], str, str]]:
    """Another process that serves the repository: itself, its server's processes and id, and its HTTP address."""
    command = [sys.executable, str(Path(__file__).with_name("owner.py")), str(repository), str(watch_every_s)]
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as process:
        try:
            assert process.stdout is not None
            pid, server_id, url = process.stdout.readline().split()
            yield process, family(int(pid)), server_id, url
        finally:
            process.kill()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_well_when_it_is_told_to_stop(repository: Path, stop: signal.Signals) -> None:
    with owner(repository) as (process, processes, server_id, _):
        process.send_signal(stop)
        assert process.wait(30) == 0
        assert not any(process.is_running() for process in processes)
        assert not shared_memory(server_id)


def test_no_server_outlives_an_owner_that_is_killed(repository: Path) -> None:
    with owner(repository) as (process, processes, server_id, _):
        process.kill()
        assert becomes_true(lambda: not any(process.is_running() for process in processes))
        assert not shared_memory(server_id)


def test_a_server_starts_on_what_a_killed_publisher_left(
    repository: Path, tiny_export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(transaction, "_go_live", end)
        publish(tiny_export, repository, "second", Deploy())
    assert not (repository / "second").exists()
    with serving(repository) as server:
        assert [publication.name for publication in server.published] == ["second", "tiny"]

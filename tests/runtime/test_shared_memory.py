"""Memory shared with the real server: what is registered, what is given back, and that nothing of it stays."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest

from tests.runtime.doors import PROTOCOLS, TOLERANCE, address, left_in_shared_memory, some_texts
from tests.tiny import answer
from tldeploy.errors import ServerError, UsageError
from tldeploy.runtime.triton import Client, Protocol
from tldeploy.runtime.triton.address import KEY_VARIABLE, key_headers
from tldeploy.runtime.triton.memory import RELEASE_WITHIN_S, SMALLEST_BYTES
from tldeploy.triton.server import Server

SLOW_CONFIG = """
name: "slow" backend: "python" max_batch_size: 8 instance_group [{kind: KIND_CPU}]
input [{name: "text" data_type: TYPE_STRING dims: [1]}]
output [{name: "probabilities" data_type: TYPE_FP32 dims: [3]}]
"""
SLOW_MODEL = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(pb_utils.get_input_tensor_by_name(request, "text").as_numpy()) for request in requests]

    def answer(self, text):
        time.sleep(float(text[0, 0]))
        return pb_utils.InferenceResponse([pb_utils.Tensor("probabilities", np.ones((len(text), 3), np.float32))])
"""


@pytest.fixture(scope="module")
def slow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model that takes as many seconds as its text says."""
    version = tmp_path_factory.mktemp("slow") / "repo" / "slow" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(SLOW_MODEL, encoding="utf-8")
    (version.parent / "config.pbtxt").write_text(SLOW_CONFIG, encoding="utf-8")
    repository = version.parents[1]
    with Server(repository, http_port=0, grpc_port=0, metrics_port=0) as server:
        yield server


def sharing(server: Server, protocol: Protocol, **settings: Any) -> Client:
    settings = {"model": "tiny", "key": server.key, **settings}
    return Client(address(server, protocol), protocol=protocol, shared_memory=True, **settings)


def registered(server: Server) -> dict[str, int]:
    """The regions that the server knows, and the bytes of each."""
    asked = Request(f"http://{server.http_url}/v2/systemsharedmemory/status", headers=key_headers("http", server.key))
    with urlopen(asked) as answered:
        return {region["name"]: region["byte_size"] for region in json.load(answered)}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_region_serves_request_after_request_until_a_larger_one_is_needed(
    protocol: Protocol, tiny_server: Server, tiny_export: Path
) -> None:
    with sharing(tiny_server, protocol) as client:
        first = registered(tiny_server)
        assert list(first.values()) == [SMALLEST_BYTES]
        for row in some_texts(3):
            np.testing.assert_allclose(client.predict([row]), answer(tiny_export, [row]), atol=TOLERANCE, rtol=0)
        assert registered(tiny_server) == first
        long = "good " * SMALLEST_BYTES
        np.testing.assert_allclose(client.predict([long]), answer(tiny_export, [long]), atol=TOLERANCE, rtol=0)
        assert list(registered(tiny_server).values()) == [8 * SMALLEST_BYTES]
        assert not left_in_shared_memory()
    assert registered(tiny_server) == {}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_thread_has_its_own(protocol: Protocol, tiny_server: Server, tiny_export: Path) -> None:
    rows = some_texts(96)
    with sharing(tiny_server, protocol) as client:
        with ThreadPoolExecutor(16) as pool:
            predicted = np.concatenate(list(pool.map(lambda row: client.predict([row]), rows)))
        assert len(registered(tiny_server)) > 2
    np.testing.assert_allclose(predicted, answer(tiny_export, rows), atol=TOLERANCE, rtol=0)
    assert registered(tiny_server) == {}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_region_with_which_a_request_failed_is_not_used_again(
    protocol: Protocol, tiny_server: Server, tiny_export: Path
) -> None:
    with sharing(tiny_server, protocol) as client:
        before = registered(tiny_server)
        ids = np.full((1, 16), 10**6)
        with pytest.raises(ServerError, match="onnx runtime error"):
            client.predict_tensors({"input_ids": ids, "attention_mask": np.ones_like(ids)})
        assert registered(tiny_server) == {}
        np.testing.assert_allclose(client.predict(["good"]), answer(tiny_export, ["good"]), atol=TOLERANCE, rtol=0)
        assert len(registered(tiny_server)) == 1
        assert not before.keys() & registered(tiny_server).keys()
    assert not left_in_shared_memory()


def test_a_region_that_the_server_still_uses_is_given_back_when_it_can_be(slow_server: Server) -> None:
    with sharing(slow_server, "http", model="slow", timeout_s=0.5) as client:
        (given_up_on,) = registered(slow_server)
        with pytest.raises(ServerError, match=r"no answer within 0\.5 s"):
            client.predict([str(0.5 + RELEASE_WITHIN_S + 0.5)])
        assert given_up_on in registered(slow_server)
        with Client(slow_server.http_url, model="slow") as patient:
            patient.predict(["0"])  # waits for the one before it
        time.sleep(RELEASE_WITHIN_S)
        client.predict(["0"])
        (in_use,) = registered(slow_server)
        assert in_use != given_up_on
        assert not left_in_shared_memory()
    assert registered(slow_server) == {}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("key", [None, "0" * 32])
def test_memory_is_shared_with_nobody_who_lacks_the_key(
    protocol: Protocol, key: str | None, tiny_server: Server
) -> None:
    url = address(tiny_server, protocol)
    with pytest.raises(ServerError, match=f"cannot share memory with the server at {url}") as caught:
        sharing(tiny_server, protocol, key=key)
    assert "restricted" in caught.value.found
    assert "TLDEPLOY_KEY" in caught.value.fix
    assert not left_in_shared_memory()


def test_the_key_may_be_in_the_environment(tiny_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, tiny_server.key)
    with sharing(tiny_server, "grpc", key=None) as client:
        assert client.predict(["good"]).shape == (1, 3)


def test_a_server_elsewhere_is_said_plainly_and_so_is_too_little_memory(tiny_server: Server) -> None:
    """Elsewhere is where /dev/shm is another one; that one has 1 MB."""
    program = f"""
import os
import tldeploy
from tldeploy.runtime.triton.memory import Region

os.environ[{KEY_VARIABLE!r}] = {tiny_server.key!r}
for ask in (
    lambda: tldeploy.Client({tiny_server.http_url!r}, model="tiny", shared_memory=True),
    lambda: tldeploy.Client({tiny_server.grpc_url!r}, model="tiny", protocol="grpc", shared_memory=True),
    lambda: Region(2 << 20),
):
    try:
        ask()
    except tldeploy.errors.TldeployError as error:
        print(type(error).__name__, str(error).replace(chr(10), " "))
"""
    elsewhere, mount = ["unshare", "--mount", "sh", "-c"], "mount -t tmpfs -o size=1m tmpfs /dev/shm"
    if subprocess.run([*elsewhere, mount], capture_output=True, check=False).returncode:
        pytest.skip("another /dev/shm needs root")
    command = [*elsewhere, f'{mount} && exec "$0" -c "$1"', sys.executable, program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    over_http, over_grpc, too_much = done.stdout.splitlines()
    for found in (over_http, over_grpc):
        assert found.startswith("ServerError cannot share memory with the server at 127.0.0.1:")
        assert "nable to open shared memory region" in found
    assert too_much.startswith("StorageError cannot share memory with the server: /dev/shm does not give 2097152 bytes")


def test_a_client_that_is_closed_makes_no_new_region(tiny_server: Server) -> None:
    client = sharing(tiny_server, "http")
    client.close()
    client.close()
    with pytest.raises(UsageError, match="the client is closed"):
        client.predict(["good"])
    assert registered(tiny_server) == {}
    assert not left_in_shared_memory()

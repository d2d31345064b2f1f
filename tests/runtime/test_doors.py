"""The same answers and the same errors through every door: HTTP, gRPC, shared memory, asyncio; rows and tensors."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.runtime.doors import DOORS, PROTOCOLS, TOLERANCE, Door, address, left_in_shared_memory, some_texts
from tests.tiny import LABELS, ROWS, answer
from tldeploy.errors import RequestError, ServerError, UsageError
from tldeploy.recipe import Deploy
from tldeploy.runtime.triton import AsyncClient, Client
from tldeploy.runtime.triton.address import KEY_VARIABLE
from tldeploy.tasks.encoding import TextEncoder
from tldeploy.triton.ports import free_ports
from tldeploy.triton.repository import publish
from tldeploy.triton.server import Server

IDS = np.ones((2, 16), dtype=np.int64)


@pytest.fixture(params=DOORS, ids=str)
def door(request: pytest.FixtureRequest) -> Door:
    chosen: Door = request.param
    return chosen


@pytest.fixture(autouse=True)
def key(tiny_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """As somebody has it who shares memory with a running server."""
    monkeypatch.setenv(KEY_VARIABLE, tiny_server.key)


@pytest.fixture(scope="module")
def encoder(tiny_export: Path) -> TextEncoder:
    settings = json.loads((tiny_export / "encoder.json").read_text(encoding="utf-8"))
    return TextEncoder.from_file(tiny_export / "tokenizer.json", settings)


def test_rows_get_the_answers_of_onnxruntime(door: Door, tiny_server: Server, tiny_export: Path) -> None:
    many = some_texts(19)
    calls = [*([row] for row in ROWS), many]
    *alone, together = door.ask(address(tiny_server, door.protocol), "predict", calls)
    np.testing.assert_allclose(np.concatenate(alone), answer(tiny_export, ROWS), atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(together, answer(tiny_export, many), atol=TOLERANCE, rtol=0)
    assert together.dtype == np.float32


@pytest.mark.parametrize("model", ["tiny", "tiny.graph"])
def test_tensors_get_them_too(
    door: Door, tiny_server: Server, tiny_export: Path, encoder: TextEncoder, model: str
) -> None:
    many = some_texts(19)
    transposed = {name: np.asfortranarray(array) for name, array in encoder.encode(many).items()}
    calls = [*(encoder.encode([row]) for row in ROWS), transposed]
    *alone, together = door.ask(address(tiny_server, door.protocol), "predict_tensors", calls, model)
    np.testing.assert_allclose(np.concatenate(alone), answer(tiny_export, ROWS), atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(together, answer(tiny_export, many), atol=TOLERANCE, rtol=0)
    assert together.dtype == np.float32


def test_labels_come_best_first(door: Door, tiny_server: Server, tiny_export: Path) -> None:
    (classified,) = door.ask(address(tiny_server, door.protocol), "classify", [ROWS])
    best = answer(tiny_export, ROWS).argmax(axis=1)
    assert [[found.label for found in row] for row in classified] == [[LABELS[index]] for index in best]


@pytest.mark.parametrize(
    ("tensors", "found"),
    [
        ({"input_ids": IDS, "mask": IDS}, "there is no input 'mask'; attention_mask is missing"),
        ({"input_ids": IDS.astype(np.int32), "attention_mask": IDS}, "input_ids is int32, not int64"),
        ({"input_ids": IDS.astype(">i8"), "attention_mask": IDS}, "input_ids is >i8, not int64"),
        ({"input_ids": IDS[0], "attention_mask": IDS}, r"input_ids has the shape \[16\], not \[any, any\]"),
        ({"input_ids": IDS[:0], "attention_mask": IDS[:0]}, r"input_ids has the shape \[0, 16\]"),
        ({"input_ids": IDS[:1], "attention_mask": IDS}, "different numbers of rows: 1, 2"),
        ({"input_ids": IDS.tolist(), "attention_mask": IDS}, "input_ids is of type list, not a numpy array"),
        ([IDS, IDS], "the tensors are of type list, not a dictionary"),
    ],
)
def test_wrong_tensors_are_named_before_they_are_sent(tiny_server: Server, tensors: Any, found: str) -> None:
    with pytest.raises(UsageError, match=f"cannot call 'tiny.graph': .*{found}") as caught:
        Door("http").ask(tiny_server.http_url, "predict_tensors", [tensors])
    assert caught.value.fix == "give input_ids: int64 [any, any], attention_mask: int64 [any, any]"


def test_rows_are_not_for_the_graph(door: Door, tiny_server: Server) -> None:
    with pytest.raises(UsageError, match=r"it takes tensors \(input_ids, attention_mask\), not texts or image files"):
        door.ask(address(tiny_server, door.protocol), "predict", [["good phone"]], model="tiny.graph")


def test_what_the_graph_cannot_run_is_the_servers_error(door: Door, tiny_server: Server) -> None:
    past_the_vocabulary = {"input_ids": IDS * 10**6, "attention_mask": IDS}
    with pytest.raises(ServerError, match="onnx runtime error"):
        door.ask(address(tiny_server, door.protocol), "predict_tensors", [past_the_vocabulary])


def test_a_server_that_is_gone_is_said_plainly(tiny_export: Path, tmp_path: Path) -> None:
    publish(tiny_export, tmp_path / "repo", "tiny", Deploy())
    server = Server(tmp_path / "repo", http_port=0, grpc_port=0, metrics_port=0).__enter__()
    urls = {protocol: address(server, protocol) for protocol in PROTOCOLS}
    plain = [
        Client(
            urls[door.protocol], model="tiny", protocol=door.protocol, shared_memory=door.shared_memory, key=server.key
        )
        for door in DOORS
        if not door.asyncio
    ]

    async def ask() -> None:
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(AsyncClient(url, model="tiny", protocol=protocol))
                for protocol, url in urls.items()
            ]
            for client in clients:
                await client.predict(["good"])
            kill(server)
            for client in clients:
                with pytest.raises(ServerError, match=f"no server answers at {client.url} over {client.protocol}"):
                    await client.predict(["good"])

    try:
        asyncio.run(ask())
        for client in plain:
            with client, pytest.raises(ServerError, match=f"no server answers at {client.url} over {client.protocol}"):
                client.predict(["good"])
    finally:
        server.stop()
    assert not left_in_shared_memory()


def kill(server: Server) -> None:
    """As the kernel does to a program that takes too much memory."""
    assert server.pid is not None
    for process in psutil.Process(server.pid).children(recursive=True):
        if process.name() == "tritonserver":
            process.kill()
            process.wait()


def test_an_unknown_model_is_refused(door: Door, tiny_server: Server) -> None:
    with pytest.raises(RequestError, match="unknown model: 'nothing'"):
        door.ask(address(tiny_server, door.protocol), "predict", [], model="nothing")


def test_nobody_there_is_said_plainly(door: Door) -> None:
    (port,) = free_ports(1)
    with pytest.raises(ServerError, match=f"no server answers at 127.0.0.1:{port} over {door.protocol}"):
        door.ask(f"127.0.0.1:{port}", "predict", [])


def test_the_port_of_the_other_protocol_is_said_plainly(door: Door, tiny_server: Server) -> None:
    other = tiny_server.grpc_url if door.protocol == "http" else tiny_server.http_url
    spoken = "grpc" if door.protocol == "http" else "http"
    with pytest.raises(ServerError, match=f"what listens at {other} looks like {spoken}, not {door.protocol}"):
        door.ask(other, "predict", [], timeout_s=5)


def test_a_server_that_never_answers_is_given_up_on(door: Door) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ServerError, match=r"no answer within 0\.3 s"):
            door.ask(url, "predict", [], timeout_s=0.3)

"""Requests that are written beforehand: they are what Client sends, and fail as Client's do."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.measuring.answering import Answering, answering, answering_grpc
from tests.tiny_images import square
from tldeploy.errors import RequestError, ServerError
from tldeploy.measuring.load import wire
from tldeploy.measuring.load.generator import Generator
from tldeploy.measuring.load.sending import closed_loop
from tldeploy.measuring.load.wire import Grpc, Http, messages
from tldeploy.runtime.triton import Client
from tldeploy.runtime.triton.address import Address

ROWS = {"text": ["Great camera", "", "größer\0\U0001f600", "a" * 70_000], "image": [square("red"), square("blue")]}
WHERE_IT_MATTERS = ("host", "content-length", "inference-header-content-length", "authorization")


@pytest.fixture
def server() -> Iterator[Answering]:
    with answering() as started:
        yield started


def over(url: str, use: Callable[[Http], Awaitable[Any]], timeout_s: float = 20.0) -> Any:
    async def run() -> Any:
        async with Http(Address.of(url, "http", timeout_s), "ask m") as http:
            return await use(http)

    return asyncio.run(run())


def written(server: Answering) -> bytes:
    with Client(server.url, model="m") as client:
        return messages(client, ["good"])[0]


@pytest.mark.parametrize("column", ["text", "image"])
def test_over_http_the_very_bytes_of_the_client_are_sent(column: str) -> None:
    with answering(column) as server, Client(server.url, model="m", api_key="secret") as client:
        for row in ROWS[column]:
            client.predict([row])
        ready = messages(client, ROWS[column])

        async def ask(http: Http) -> None:
            for message in ready:
                await http.ask(message)

        over(server.url, ask)
        theirs, ours = server.sent[: len(ready)], server.sent[len(ready) :]
        assert len(ours) == len(theirs) == len(ROWS[column])
        for (path, headers, body), (our_path, our_headers, our_body) in zip(theirs, ours, strict=True):
            assert (our_path, our_body) == (path, body)
            assert {name: our_headers.get(name) for name in WHERE_IT_MATTERS} == {
                name: headers.get(name) for name in WHERE_IT_MATTERS
            }
        assert ours[0][1]["authorization"] == "Bearer secret"


@pytest.mark.parametrize("column", ["text", "image"])
def test_over_grpc_the_very_bytes_of_the_client_are_sent(column: str) -> None:
    with (
        answering_grpc(column) as (url, sent),
        Client(url, model="m", protocol="grpc", api_key="secret") as client,
    ):
        for row in ROWS[column]:
            client.predict([row])
        ready = messages(client, ROWS[column])

        async def ask() -> None:
            async with Grpc(client.address, "ask m") as channel:
                for message in ready:
                    await channel.ask(message)

        asyncio.run(ask())
        theirs, ours = sent[: len(ready)], sent[len(ready) :]
        assert [body for _, body in ours] == [body for _, body in theirs]
        assert {headers["authorization"] for headers, _ in sent} == {"Bearer secret"}


def test_image_files_go_through_the_process_as_bytes() -> None:
    with (
        answering("image") as server,
        Client(server.url, model="m") as client,
        Generator(client, ROWS["image"]) as generator,
    ):
        generator.closed_loop(1, 0.2)
        client.predict([ROWS["image"][0]])
        assert server.sent[0][2] == server.sent[-1][2]


def test_each_client_keeps_its_connection(server: Answering) -> None:
    message = written(server)
    sent = over(server.url, lambda http: closed_loop(http.ask, [message], 4, 0.3))
    assert len(server.ports) == len(sent.sent) > 8
    assert len(set(server.ports)) == 4


def test_requests_wait_for_a_connection_when_there_are_many(server: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MOST_CONNECTIONS", 3)
    message = written(server)

    async def ask(http: Http) -> None:
        await asyncio.gather(*(http.ask(message) for _ in range(20)))

    over(server.url, ask)
    assert len(server.ports) == 20
    assert len(set(server.ports)) == 3


@pytest.mark.parametrize("pause_s", [0.0, 0.05])
def test_a_connection_that_the_server_closed_is_opened_anew(server: Answering, pause_s: float) -> None:
    """Seen before the next request is sent, and only then."""
    server.hangs_up = True
    message = written(server)

    async def ask(http: Http) -> None:
        for _ in range(5):
            await http.ask(message)
            await asyncio.sleep(pause_s)

    over(server.url, ask)
    assert len(set(server.ports)) == 5


def test_connections_may_be_closed_between_rounds(server: Answering) -> None:
    server.hangs_up = True
    with Client(server.url, model="m") as client, Generator(client, ["good"]) as generator:
        for _ in range(2):
            assert len(generator.closed_loop(2, 0.1).sent.sent) >= 2


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        ((400, b'{"error": "no such input"}'), RequestError),
        ((401, b'{"error": "who are you?"}'), RequestError),
        ((500, b'{"error": "out of memory"}'), ServerError),
        ((503, b'{"error": ""}'), ServerError),
    ],
)
def test_what_is_not_200_is_the_error_of_the_client(
    server: Answering, refusal: tuple[int, bytes], kind: type[ServerError]
) -> None:
    with Client(server.url, model="m") as client, Generator(client, ["good"]) as generator:
        server.refusal = refusal
        with pytest.raises(kind) as theirs:
            client.predict(["good"])
        with pytest.raises(kind) as ours:
            generator.closed_loop(2, 0.1)
        assert (type(ours.value), str(ours.value)) == (type(theirs.value), str(theirs.value))
        server.refusal = None
        assert len(generator.closed_loop(2, 0.1).sent.sent) >= 2, "the next round is made"


def test_a_gate_that_answers_in_plain_text_is_quoted(server: Answering) -> None:
    message, server.refusal = written(server), (503, b"no healthy upstream\n")
    with pytest.raises(ServerError, match="no healthy upstream"):
        over(server.url, lambda http: http.ask(message))


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_that_is_gone_is_an_error(protocol: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as once:
        url = f"127.0.0.1:{once.getsockname()[1]}"
    connection = Http if protocol == "http" else Grpc

    async def ask() -> None:
        async with connection(Address.of(url, protocol, 20.0), "ask m") as opened:
            await opened.ask(b"")

    with pytest.raises(ServerError, match=f"no server answers at {url} over {protocol}"):
        asyncio.run(ask())


def test_an_answer_that_does_not_come_in_time_is_an_error(server: Answering) -> None:
    message, server.slow_s = written(server), 1.0
    with pytest.raises(ServerError, match=r"no answer within 0\.2 s"):
        over(server.url, lambda http: http.ask(message), timeout_s=0.2)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n123", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_an_answer_that_is_none_is_an_error(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(100)
                connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(ServerError, match="no server answers"):
            over(url, lambda http: http.ask(b"POST"))
        thread.join()

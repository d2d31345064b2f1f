"""Requests that are written before the load begins, as bytes for the wire, so that making load costs little.

1. `messages` writes what Client would send of each row: over HTTP head and body, over gRPC a ModelInferRequest.
2. `Http` and `Grpc` send such bytes and wait; of an answer they look at nothing but that it is one.

What goes wrong is the error that Client would raise (runtime/triton/address.py).
"""

from __future__ import annotations

import asyncio
import importlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from tldeploy.runtime.triton import Client
from tldeploy.runtime.triton.address import Address
from tldeploy.runtime.triton.request import Request
from tldeploy.tasks.classification import Row

# More requests wait in this process for a connection: a server, and select(2), take no more than some 1,000.
MOST_CONNECTIONS = 256
END_OF_HEAD = b"\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
INFER = "/inference.GRPCInferenceService/ModelInfer"


def messages(client: Client, rows: Sequence[Row]) -> list[bytes]:
    """What the client would send of each row. Raises what `predict` does for a row that cannot be sent."""
    write = _http if client.protocol == "http" else _grpc
    return [write(request, client.address) for row in rows for request in client.requests([row])]


def post(host: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """A request of HTTP/1.1 with its head."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Http:
    """HTTP/1.1 over connections that are kept, each for one request at a time. An answer must tell its length.

    asked: completes "cannot …" when a request fails.
    """

    def __init__(self, address: Address, asked: str) -> None:
        self._address, self._asked = address, asked
        self._tls = address.connection_options(asyncio=True).get("ssl_context")
        self._idle: list[_Connection] = []
        self._room = asyncio.Semaphore(MOST_CONNECTIONS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._idle:
            self._idle.pop().close()

    async def ask(self, message: bytes) -> bytes:
        """The body of the answer, whose status is 200. Raises RequestError and ServerError."""
        with self._address.errors(self._asked):
            async with self._room:
                status, body = await self._answer(message)
            if status != b"200":
                raise _refusal(_said(body), status.decode())
            return body

    async def _answer(self, message: bytes) -> tuple[bytes, bytes]:
        """Status and body, over a connection that is open, or else a new one."""
        while self._idle:
            with suppress(Unanswered):  # a server may close what was idle, even as we send
                return await self._over(self._idle.pop(), message)
        return await self._over(await self._opened(), message)

    async def _over(self, connection: _Connection, message: bytes) -> tuple[bytes, bytes]:
        try:
            found = await connection.send(message)
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return found

    async def _opened(self) -> _Connection:
        host, _, port = self._address.url.rpartition(":")
        make = asyncio.get_running_loop().create_connection
        async with asyncio.timeout(self._address.timeout_s):
            _, connection = await make(
                lambda: _Connection(self._address.timeout_s), host.strip("[]"), int(port), ssl=self._tls
            )
        return connection


class Unanswered(ConnectionResetError):
    """The connection was closed before anything of an answer came."""


class _Connection(asyncio.Protocol):
    """One connection, and the answer that it waits for."""

    _transport: asyncio.Transport
    _answer: asyncio.Future[tuple[bytes, bytes]] | None = None
    _limit: asyncio.TimerHandle

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._received = b""

    def send(self, message: bytes) -> asyncio.Future[tuple[bytes, bytes]]:
        """Status and body of the answer. Raises OSError, of which TimeoutError is one."""
        answer: asyncio.Future[tuple[bytes, bytes]] = self._loop.create_future()
        self._received, self._answer = b"", answer
        self._limit = self._loop.call_later(self._timeout_s, self._fail, TimeoutError())
        if self._transport.is_closing():
            self._fail(Unanswered())
        else:
            self._transport.write(message)
        return answer

    def close(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            return  # nothing was asked: a server that is about to close may say so
        self._received += data
        head, ended, body = self._received.partition(END_OF_HEAD)
        if not ended:
            return
        length = LENGTH.search(head)
        if length is None or not head.startswith(b"HTTP/1."):
            self._fail(ConnectionError("this is no answer of HTTP/1.1 that tells its length"))
        elif len(body) >= int(length[1]):
            self._limit.cancel()
            self._answer.set_result((head[9:12], body))

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(ConnectionError("the answer was cut off") if self._received else Unanswered())

    def _fail(self, error: OSError) -> None:
        if self._answer is not None and not self._answer.done():
            self._limit.cancel()
            self._answer.set_exception(error)


class Grpc:
    """gRPC over one connection, whatever the number of requests: what is sent and received is bytes.

    asked: completes "cannot …" when a request fails.
    """

    def __init__(self, address: Address, asked: str) -> None:
        import grpc

        self._address, self._asked = address, asked
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        if address.has_tls:
            trusted = grpc.ssl_channel_credentials(Path(address.ca).read_bytes() if address.ca else None)
            self._channel = grpc.aio.secure_channel(address.url, trusted, options)
        else:
            self._channel = grpc.aio.insecure_channel(address.url, options)
        self._infer = self._channel.unary_unary(INFER)
        self._options = {"timeout": address.timeout_s, "metadata": tuple(_shown(address).items())}
        self._error = grpc.RpcError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def ask(self, message: bytes) -> bytes:
        """The ModelInferResponse. Raises RequestError and ServerError."""
        with self._address.errors(self._asked):
            try:
                found: bytes = await self._infer(message, **self._options)
            except self._error as error:
                raise _refusal(error.details(), str(error.code())) from error
            return found


def _http(request: Request, address: Address) -> bytes:
    library = importlib.import_module("tritonclient.http")
    given = request.arguments(library)
    body, json_bytes = library.InferenceServerClient.generate_request_body(given["inputs"], outputs=given["outputs"])
    version = f"/versions/{request.version}" if request.version else ""
    binary = {} if json_bytes is None else {"Inference-Header-Content-Length": str(json_bytes)}
    path = f"/v2/models/{quote(request.model)}{version}/infer"
    return post(address.url, path, body, {**_shown(address), **binary})


def _grpc(request: Request, address: Address) -> bytes:
    from tritonclient.grpc.service_pb2 import ModelInferRequest
    from tritonclient.utils import np_to_triton_dtype

    inputs = [
        {"name": name, "datatype": np_to_triton_dtype(array.dtype), "shape": array.shape}
        for name, array in request.inputs.items()
    ]
    contents = [content.tobytes() for content in request.contents]
    about = {"model_name": request.model, "model_version": request.version}
    wanted = [{"name": request.output.name}]
    written: bytes = ModelInferRequest(
        **about, inputs=inputs, outputs=wanted, raw_input_contents=contents
    ).SerializeToString()
    return written


def _shown(address: Address) -> Mapping[str, str]:
    """The headers that show who asks."""
    found: Mapping[str, str] = address.call_options().get("headers", {})
    return found


def _said(body: bytes) -> str:
    """The message of an answer that is not 200."""
    try:
        said: str = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip()
    return said


def _refusal(message: str | None, status: str) -> Exception:
    """What tritonclient raises for a request that is refused."""
    from tritonclient.utils import InferenceServerException

    error: Exception = InferenceServerException(message or "", status)
    return error

"""The clients: one process with one event loop, which asks every peer alike.

1. `message` writes a request beforehand, as bytes; what sends it is our load generator's (measuring/load/wire.py).
   So a request costs the client little, and the same, whoever answers. gRPC goes through tldeploy's own client.
2. `load` keeps some clients busy for some seconds and gives the times; `answers` asks for every row once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from tldeploy.measuring.load.sending import closed_loop
from tldeploy.measuring.load.wire import Http, post
from tldeploy.runtime.triton import AsyncClient
from tldeploy.runtime.triton.address import Address
from tldeploy.tasks.classification import Row

HOST = "127.0.0.1"
AT_ONCE = 4
PATIENCE_S = 60.0
Kind = Literal["fastapi", "triton", "grpc"]


@dataclass(frozen=True)
class Endpoint:
    """Where a peer answers, and how it is asked. model, column: of Triton, the model and its input."""

    kind: Kind
    port: int
    model: str = ""
    column: str = ""


def message(endpoint: Endpoint, row: Row) -> bytes:
    """One row as the endpoint takes it, with its head."""
    if endpoint.kind == "fastapi":
        if isinstance(row, bytes):
            return post(HOST, "/image", row, {"Content-Type": "image/jpeg"})
        return post(HOST, "/text", json.dumps({"text": row}).encode(), {"Content-Type": "application/json"})
    path = f"/v2/models/{endpoint.model}/infer"
    tensor: dict[str, Any] = {"name": endpoint.column, "datatype": "BYTES", "shape": [1, 1]}
    if isinstance(row, str):
        body = json.dumps({"inputs": [{**tensor, "data": [row]}]}).encode()
        return post(HOST, path, body, {"Content-Type": "application/json"})
    raw = len(row).to_bytes(4, "little") + row
    about = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}]}).encode()
    return post(HOST, path, about + raw, {"Inference-Header-Content-Length": str(len(about))})


def probabilities(endpoint: Endpoint, answer: Any) -> list[float]:
    found: list[float] = answer["probabilities"] if endpoint.kind == "fastapi" else answer["outputs"][0]["data"]
    return found


def load(endpoint: Endpoint, rows: Sequence[Row], clients: int, seconds: float) -> list[tuple[float, float]]:
    """When each request was sent and answered, in seconds from the start."""

    async def run() -> list[tuple[float, float]]:
        async with _asking(endpoint, rows) as ask:
            await asyncio.gather(*(ask(number) for number in range(clients)))  # opens the connections
            sent = await closed_loop(ask, range(len(rows)), clients, seconds)
        return list(zip(sent.sent.tolist(), sent.answered.tolist(), strict=True))

    return asyncio.run(run())


def answers(endpoint: Endpoint, rows: Sequence[Row], at_once: int = AT_ONCE) -> list[list[float]]:
    """The probabilities of every row, in their order."""

    async def run() -> list[list[float]]:
        found: list[list[float]] = [[]] * len(rows)
        async with _asking(endpoint, rows) as ask:

            async def client(first: int) -> None:
                for row in range(first, len(rows), at_once):
                    found[row] = await ask(row)

            await asyncio.gather(*map(client, range(at_once)))
        return found

    return asyncio.run(run())


@asynccontextmanager
async def _asking(endpoint: Endpoint, rows: Sequence[Row]) -> AsyncIterator[Callable[[int], Any]]:
    """A function that asks for the row of a number."""
    if endpoint.kind == "grpc":
        async with AsyncClient(f"{HOST}:{endpoint.port}", model=endpoint.model, protocol="grpc") as client:

            async def by_grpc(number: int) -> list[float]:
                answer: list[float] = (await client.predict([rows[number]]))[0].tolist()
                return answer

            yield by_grpc
        return
    ready, address = [message(endpoint, row) for row in rows], Address.of(f"{HOST}:{endpoint.port}", "http", PATIENCE_S)
    async with Http(address, f"ask port {endpoint.port}") as http:

        async def by_http(number: int) -> list[float]:
            return probabilities(endpoint, json.loads(await http.ask(ready[number])))

        yield by_http

"""The client for asyncio, against the real server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.doors import PROTOCOLS, TOLERANCE, address, some_texts
from tests.tiny import answer
from tldeploy.errors import RequestError, UsageError
from tldeploy.runtime.triton import AsyncClient, Protocol
from tldeploy.runtime.triton.request import plain
from tldeploy.triton.server import Server

pytestmark = pytest.mark.parametrize("protocol", PROTOCOLS)


def opened(server: Server, protocol: Protocol) -> AsyncClient:
    return AsyncClient(address(server, protocol), model="tiny", protocol=protocol)


def test_fifty_requests_at_once_are_merged_and_each_gets_its_own_answer(
    protocol: Protocol, tiny_server: Server, tiny_export: Path
) -> None:
    rows = some_texts(50)

    async def executions(client: AsyncClient) -> int:
        answered = plain(await client._ask("get_inference_statistics", "tiny.graph"))
        return int(answered["model_stats"][0]["execution_count"])

    async def ask() -> list[object]:
        async with opened(tiny_server, protocol) as client:
            before = await executions(client)
            predicted = await asyncio.gather(*(client.predict([row]) for row in rows))
            assert await executions(client) - before < len(rows)
            return predicted

    np.testing.assert_allclose(np.concatenate(asyncio.run(ask())), answer(tiny_export, rows), atol=TOLERANCE, rtol=0)


def test_no_labels_is_a_mistake(protocol: Protocol, tiny_server: Server) -> None:
    async def ask() -> None:
        async with opened(tiny_server, protocol) as client:
            await client.classify(["good phone"], top=0)

    with pytest.raises(UsageError, match="top is 0"):
        asyncio.run(ask())


def test_a_refused_or_cancelled_request_leaves_the_others_alone(
    protocol: Protocol, tiny_server: Server, tiny_export: Path
) -> None:
    async def ask() -> tuple[object, ...]:
        async with opened(tiny_server, protocol) as client:
            tasks = [asyncio.create_task(client.predict([text])) for text in ("good", "bad \ud800", "late", "awful")]
            await asyncio.sleep(0)
            tasks[2].cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            return (*answers, await client.predict(["good"]))

    good, surrogate, cancelled, awful, again = asyncio.run(ask())
    assert isinstance(surrogate, RequestError)
    assert isinstance(cancelled, asyncio.CancelledError)
    np.testing.assert_allclose([good, awful, again], answer(tiny_export, ["good", "awful", "good"])[:, None], atol=1e-6)


def test_it_says_what_computes(protocol: Protocol, tiny_server: Server) -> None:
    async def ask() -> AsyncClient:
        async with opened(tiny_server, protocol) as client:
            return client

    client = asyncio.run(ask())
    assert client.name == f"triton {protocol} asyncio"
    assert client.provider == "Triton 2.51.0, onnxruntime"
    assert client.max_batch_size == 8


def test_outside_its_block_it_is_closed(protocol: Protocol, tiny_server: Server) -> None:
    async def ask() -> None:
        client = opened(tiny_server, protocol)
        with pytest.raises(UsageError, match="the client is closed"):
            await client.predict(["good"])
        async with client:
            await client.predict(["good"])
        with pytest.raises(UsageError, match="the client is closed"):
            await client.classify(["good"])

    asyncio.run(ask())

"""Every way to ask a served model, called alike."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.tiny import WORDS
from tldeploy.runtime.triton import AsyncClient, Client, Protocol
from tldeploy.triton.server import Server

PROTOCOLS: tuple[Protocol, ...] = ("http", "grpc")
TOLERANCE = 1e-6


def address(server: Server, protocol: Protocol) -> str:
    return server.http_url if protocol == "http" else server.grpc_url


def some_texts(count: int) -> list[str]:
    random = np.random.default_rng(0)
    return [" ".join(random.choice(WORDS, random.integers(0, 30))) for _ in range(count)]


def left_in_shared_memory() -> list[Path]:
    """What clients of this process have left in /dev/shm."""
    return list(Path("/dev/shm").glob(f"tldeploy-client-{os.getpid()}-*"))


@dataclass(frozen=True)
class Door:
    protocol: Protocol
    shared_memory: bool = False
    asyncio: bool = False

    def __str__(self) -> str:
        return f"{self.protocol}{' shared memory' * self.shared_memory}{' asyncio' * self.asyncio}"

    def ask(self, url: str, method: str, calls: Sequence[Any], model: str = "tiny", timeout_s: float = 60.0) -> Any:
        """Open a client, call its method once with each of `calls`, and close it."""
        if self.asyncio:
            return asyncio.run(self._ask(url, method, calls, model, timeout_s))
        settings: Any = {"protocol": self.protocol, "timeout_s": timeout_s, "shared_memory": self.shared_memory}
        with Client(url, model=model, **settings) as client:
            return [getattr(client, method)(call) for call in calls]

    async def _ask(self, url: str, method: str, calls: Sequence[Any], model: str, timeout_s: float) -> Any:
        async with AsyncClient(url, model=model, protocol=self.protocol, timeout_s=timeout_s) as client:
            return [await getattr(client, method)(call) for call in calls]


DOORS = tuple(
    Door(protocol, **kind) for protocol in PROTOCOLS for kind in ({}, {"shared_memory": True}, {"asyncio": True})
)

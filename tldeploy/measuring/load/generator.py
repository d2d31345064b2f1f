"""The process that makes load on a served model, so that the bench's own threads and heap are not what is measured.

    python -m tldeploy.measuring.load.generator FOLDER

It is told by lines of JSON (see measuring/process.py), first whom to ask and with which rows, then round by round what
load to make. Before the first round it writes all requests (see wire.py), so image files are in its memory.
"""

from __future__ import annotations

import asyncio
import gc
import selectors
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from tldeploy.errors import TldeployError
from tldeploy.measuring.load.health import Health, health
from tldeploy.measuring.load.sending import (
    MOST_UNANSWERED,
    Ask,
    Sent,
    arrivals,
    closed_loop,
    most_unanswered,
    open_loop,
)
from tldeploy.measuring.load.wire import Grpc, Http, messages
from tldeploy.measuring.process import Parent, Process, packed, unpacked
from tldeploy.runtime import Runner
from tldeploy.runtime.triton import Client
from tldeploy.runtime.triton.address import TLS_SCHEME
from tldeploy.tasks.classification import Row


@dataclass(frozen=True)
class Round:
    """One round of load, and whether the generator kept up with it."""

    sent: Sent
    health: Health


class Generator:
    """Load on the model that `client` asks, made by another process with a connection of its own.

    Raises what the requests raise there, and MachineError when the process is gone.
    """

    def __init__(self, client: Client, rows: Sequence[Row]) -> None:
        at = client.address
        whom = {
            "url": f"{TLS_SCHEME if at.has_tls else ''}{at.url}",
            "model": client.model,
            "protocol": at.protocol,
            "timeout_s": at.timeout_s,
            "shared_memory": client.shared_memory,
            "key": client.key,
            "ca": at.ca,
            "api_key": at.api_key,
        }
        self._process = Process(__name__, f"make load on {client.name}", {"client": whom, "rows": packed(rows)})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        (self._process.close if error is None else self._process.kill)()

    def open_loop(self, rate_per_s: float, seconds: float, seed: int) -> Round:
        """Requests that arrive at random, at this rate on average. See sending.py."""
        return self._round({"load": "open", "rate_per_s": rate_per_s, "seconds": seconds, "seed": seed})

    def closed_loop(self, clients: int, seconds: float) -> Round:
        """So many clients, each asking again as soon as it is answered."""
        return self._round({"load": "closed", "clients": clients, "seconds": seconds})

    def _round(self, load: dict[str, Any]) -> Round:
        answer = self._process.tell(load)
        due, sent, answered = (np.array(answer[name], dtype=np.float64) for name in ("due", "sent", "answered"))
        found = Sent(due, due if load["load"] == "closed" else sent, answered, answer["dropped"])
        return Round(found, health(found, answer["cpu_s"]))


@contextmanager
def generators(runners: Sequence[Runner], rows: Sequence[Row]) -> Iterator[dict[int, Generator]]:
    """A generator for each runner that asks a server, by its place among the runners."""
    with ExitStack() as stack:
        yield {
            place: stack.enter_context(Generator(runner, rows))
            for place, runner in enumerate(runners)
            if isinstance(runner, Client)
        }


async def _serve(parent: Parent) -> None:
    """Make whatever load is asked for, until no more is."""
    told = iter(parent)
    about = next(told)
    parent.answer({})
    gc.freeze()
    gc.disable()
    rows = unpacked(about["rows"])
    known: tuple[Client, Sequence[Any]] | None = None
    for load in told:
        try:
            known = known or _encoded(about["client"], rows)
            client, items = known
            # Connections of each round's own: an idle one may have been closed by the server.
            async with _asking(client, about["client"]) as ask:
                found = await _made(ask, items, load)
        except* TldeployError as group:
            failed = group.exceptions[0]
            while isinstance(failed, BaseExceptionGroup):
                failed = failed.exceptions[0]
            found = failed.as_json() if isinstance(failed, TldeployError) else {}
        parent.answer(found)
        gc.collect()


async def _made(ask: Ask[Any], items: Sequence[Any], load: dict[str, Any]) -> dict[str, Any]:
    await asyncio.gather(*(ask(items[0]) for _ in range(load.get("clients", 1))))  # not kept: they open connections
    cpu_s = time.process_time()
    if load["load"] == "open":
        rate = load["rate_per_s"]
        sent = await open_loop(ask, items, arrivals(rate, load["seconds"], load["seed"]), most_unanswered(rate))
    else:
        sent = await closed_loop(ask, items, load["clients"], load["seconds"])
    times = {name: getattr(sent, name).tolist() for name in ("due", "sent", "answered")}
    return {**times, "dropped": sent.dropped, "cpu_s": time.process_time() - cpu_s}


def _encoded(whom: dict[str, Any], rows: Sequence[Row]) -> tuple[Client, Sequence[Any]]:
    """A client that knows the model, and what is sent one by one: messages, or single rows where memory is shared."""
    with Client(**whom) as client:
        return client, [[row] for row in rows] if client.shared_memory else messages(client, rows)


@asynccontextmanager
async def _asking(client: Client, whom: dict[str, Any]) -> AsyncIterator[Ask[Any]]:
    if not client.shared_memory:
        protocol = Http if client.protocol == "http" else Grpc
        async with protocol(client.address, f"call {client.model!r} at {client.url}") as wire:
            yield wire.ask
        return
    loop = asyncio.get_running_loop()
    # Memory is shared by the client that waits for its answer only: each request has a thread.
    with Client(**whom) as waiting, ThreadPoolExecutor(MOST_UNANSWERED) as pool:
        yield lambda rows: loop.run_in_executor(pool, waiting.predict, rows)


def _precise_loop() -> asyncio.AbstractEventLoop:
    """An event loop that wakes within microseconds: epoll's sleeps, the usual ones, are whole milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=_precise_loop) as runner:
        runner.run(_serve(Parent()))

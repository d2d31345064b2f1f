"""The process that makes load on a served model, so that the bench's own threads and heap are not what is measured.

    python -m tldeploy.measuring.load.generator

It is told by lines of JSON (see measuring/process.py), first whom to ask and with which rows, then round by round what
load to make.
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
from tldeploy.measuring.load.sending import MOST_UNANSWERED, Ask, Sent, arrivals, closed_loop, open_loop
from tldeploy.measuring.process import Parent, Process
from tldeploy.runtime import Runner
from tldeploy.runtime.triton import AsyncClient, Client
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
        texts = [row if isinstance(row, str) else row.decode() for row in rows]
        whom = {"url": client.url, "model": client.model, "protocol": client.protocol, "timeout_s": client.timeout_s}
        about = {"client": whom, "shared_memory": client.shared_memory, "key": client.key, "rows": texts}
        self._process = Process(__name__, f"make load on {client.name}", about)

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
    for load in told:
        try:
            # A connection for each round: one that was idle may have been closed by the server.
            async with _asking(about) as ask:
                found = await _made(ask, about["rows"], load)
        except* TldeployError as group:
            failed = group.exceptions[0]
            while isinstance(failed, BaseExceptionGroup):
                failed = failed.exceptions[0]
            found = failed.as_json() if isinstance(failed, TldeployError) else {}
        parent.answer(found)
        gc.collect()


async def _made(ask: Ask, rows: list[str], load: dict[str, Any]) -> dict[str, Any]:
    await asyncio.gather(*(ask([rows[0]]) for _ in range(load.get("clients", 1))))  # not kept: they open connections
    cpu_s = time.process_time()
    if load["load"] == "open":
        sent = await open_loop(ask, rows, arrivals(load["rate_per_s"], load["seconds"], load["seed"]))
    else:
        sent = await closed_loop(ask, rows, load["clients"], load["seconds"])
    times = {name: getattr(sent, name).tolist() for name in ("due", "sent", "answered")}
    return {**times, "dropped": sent.dropped, "cpu_s": time.process_time() - cpu_s}


@asynccontextmanager
async def _asking(about: dict[str, Any]) -> AsyncIterator[Ask]:
    if not about["shared_memory"]:
        async with AsyncClient(**about["client"]) as client:
            yield client.predict
        return
    loop = asyncio.get_running_loop()
    # Memory is shared by the client that waits for its answer only: each request has a thread.
    memory = {"shared_memory": True, "key": about["key"]}
    with Client(**about["client"], **memory) as waiting, ThreadPoolExecutor(MOST_UNANSWERED) as pool:
        yield lambda rows: loop.run_in_executor(pool, waiting.predict, rows)


def _precise_loop() -> asyncio.AbstractEventLoop:
    """An event loop that wakes within microseconds: epoll's sleeps, the usual ones, are whole milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=_precise_loop) as runner:
        runner.run(_serve(Parent()))
